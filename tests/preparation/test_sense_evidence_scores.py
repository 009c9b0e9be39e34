import numpy as np
import pytest

from beamclip.preparation import sense_evidence


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_a_score_is_the_mean_cosine_of_the_nearest_images(monkeypatch, share, chunk):
    monkeypatch.setattr(sense_evidence, "_CHUNK", chunk)
    random = np.random.default_rng(0)
    images, texts = unit(random.normal(size=(100, 8))), unit(random.normal(size=(3, 8)))
    count = max(1, round(share * 100))
    expected = [np.sort(images @ text)[-count:].mean() for text in texts]
    assert sense_evidence.score_senses_by_images(images, texts, share) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_sense_that_the_images_show_has_the_highest_score():
    random = np.random.default_rng(0)
    birds, machines, other = unit(random.normal(size=(3, 32)))
    images = unit(
        np.concatenate(
            [
                birds + 0.05 * random.normal(size=(20, 32)),
                other + 0.05 * random.normal(size=(80, 32)),
            ]
        )
    )
    scores = sense_evidence.score_senses_by_images(
        images.astype(np.float16), np.stack([machines, birds]), share=0.2
    )
    assert scores[1] > 0.9 > scores[0]

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

from beamclip.anchors.text_embeddings import TextJob, encode_texts_once
from beamclip.config import UserError
from beamclip.stores import StoreDamaged, in_process, key_of, silent

TEXTS = [f"a photo of crane number {number}." for number in range(300)]  # shards of 128, 128 and 44
LONG = "a photo of a crane, " + "and another one, " * 30 + "and that is all."


def encode(teacher, texts, root, run=in_process, progress=silent, repair=False):
    return encode_texts_once(teacher, texts, root, progress, run, repair)


def files(root):
    """Bytes of every file of the store except those with timestamps."""
    (folder,) = [path.parent for path in root.glob("texts/*/manifest.json")]
    return {
        path.name: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "stamps" not in path.name
    }


def test_every_text_gets_its_own_embedding(tower, tmp_path):
    encoded = encode(tower(), TEXTS, tmp_path)
    some = [TEXTS[299], TEXTS[0], TEXTS[128], TEXTS[0]]
    torch.testing.assert_close(
        encoded.of(some), torch.stack([tower().embed(text) for text in some]), rtol=0, atol=0
    )
    assert encoded.embeddings.shape == (300, 8) and encoded.embeddings.dtype == np.float32
    assert encoded.truncated == {}


def test_texts_are_stored_in_shards_each_encoded_once(tower, tmp_path):
    teacher, progress = tower(), []
    encode(teacher, TEXTS, tmp_path, progress=lambda *state: progress.append(state))
    assert teacher.encoded == TEXTS
    assert progress == [
        ("prompts", 0, 300),
        ("prompts", 128, 300),
        ("prompts", 256, 300),
        ("prompts", 300, 300),
    ]
    rows = {name: content for name, content in files(tmp_path).items() if name.startswith("rows-")}
    assert sorted(rows) == ["rows-00000.npy", "rows-00001.npy", "rows-00002.npy"]
    manifest = json.loads(files(tmp_path)["manifest.json"])
    assert (manifest["texts"], manifest["shards"], manifest["teacher"]) == (300, 3, "stub")


def test_a_second_call_encodes_nothing(tower, tmp_path):
    first, again = encode(tower(), TEXTS, tmp_path), tower()
    second = encode(again, TEXTS, tmp_path)
    assert (
        again.encoded == []
        and np.array_equal(first.embeddings, second.embeddings)
        and first.rows == second.rows
    )


@pytest.mark.parametrize("finished", [1, 2])
def test_a_killed_pass_resumes_at_its_first_missing_shard_and_the_bytes_are_the_same(
    tower, tmp_path, monkeypatch, finished
):
    encode(tower(), TEXTS, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        encode(tower(killed_after=finished), TEXTS, tmp_path / "killed")
    assert not list((tmp_path / "killed" / "texts").glob("*/manifest.json"))
    monkeypatch.setattr(
        "beamclip.anchors.text_embeddings.truncate_texts",
        lambda *arguments: pytest.fail("texts were truncated again"),
    )
    again, progress = tower(), []
    encode(again, TEXTS, tmp_path / "killed", progress=lambda *state: progress.append(state[1]))
    assert again.encoded == TEXTS[128 * finished :]
    assert progress[0] == 128 * finished
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("weights", "texts"),
    [("b", TEXTS[:9]), ("a", TEXTS[:10]), ("a", [*TEXTS[:8], "a photo of a heron."])],
)
def test_another_tower_and_other_texts_are_another_store(tower, tmp_path, weights, texts):
    encode(tower(), TEXTS[:9], tmp_path)
    other = tower(weights)
    encoded = encode(other, texts, tmp_path)
    assert other.encoded == texts and len(list(tmp_path.glob("texts/*/manifest.json"))) == 2
    assert torch.equal(encoded.of(texts[-1:])[0], other.embed(texts[-1]))


def with_other(teacher, part):
    """The same CLIP with one weight of a tower changed."""
    model = copy.deepcopy(teacher.model)
    with torch.no_grad():
        dict(model.named_parameters())[part].flatten()[0].add_(1e-3)
    return dataclasses.replace(teacher, model=model)


@pytest.mark.parametrize("part", ["visual.proj", "logit_scale"])
def test_the_image_tower_does_not_matter(teacher, tmp_path, monkeypatch, part):
    before = encode(teacher, TEXTS[:3], tmp_path)
    monkeypatch.setattr(
        type(teacher), "encode_texts", lambda *arguments: pytest.fail("a text was encoded again")
    )
    after = encode(with_other(teacher, part), TEXTS[:3], tmp_path)
    assert np.array_equal(before.embeddings, after.embeddings)


@pytest.mark.parametrize(
    "part", ["text_projection", "ln_final.bias", "positional_embedding", "token_embedding.weight"]
)
def test_every_part_of_the_text_tower_matters(teacher, part):
    assert with_other(teacher, part).text_fingerprint != teacher.text_fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(("count", "runner_is_used"), [(2048, False), (2049, True)])
def test_thousands_are_encoded_by_the_given_runner(tower, tmp_path, count, runner_is_used):
    used = []

    def run(job, shards, folder):
        used.append((job.label, job.on_device, sum(job.sizes), list(shards)))
        return in_process(job, shards, folder)

    teacher = tower()
    texts = [f"crane {number}" for number in range(count)]
    assert list(encode(teacher, texts, tmp_path, run).rows) == texts == teacher.encoded
    assert used == ([("prompts", True, 2049, list(range(17)))] if runner_is_used else [])


def test_a_job_in_another_process_loads_the_same_tower_and_writes_the_same_bytes(teacher, tmp_path):
    job = TextJob(tuple(TEXTS[:200]), teacher.config, key_of(teacher.text_fingerprint), teacher)
    sent = pickle.loads(pickle.dumps(job))
    assert sent == job and sent.loaded is None and len(pickle.dumps(job)) < 20_000
    for folder, each_job in (("here", job), ("there", sent)):
        (tmp_path / folder).mkdir()
        assert list(in_process(each_job, [1, 0], tmp_path / folder)) == [1, 0]
    for name in ("rows-00000.npy", "rows-00001.npy"):
        rows = np.load(tmp_path / "here" / name)
        np.testing.assert_allclose(rows, np.load(tmp_path / "there" / name), atol=1e-6)
        np.testing.assert_allclose(
            rows,
            teacher.encode_texts(TEXTS[:128] if "0.npy" in name else TEXTS[128:200]),
            atol=1e-6,
        )


def test_a_node_whose_tower_has_the_same_name_and_other_weights_is_refused(teacher, tmp_path):
    job = TextJob(tuple(TEXTS[:2]), teacher.config, key_of({"weights": "others"}))
    with pytest.raises(
        UserError, match="has other weights on this node than on the first; give all nodes the same"
    ):
        job.open(tmp_path, 1)


def test_texts_that_do_not_fit_are_truncated_and_listed(tower, tmp_path):
    teacher = tower(context=16)
    encoded = encode(teacher, [TEXTS[0], LONG], tmp_path)
    short = "a photo of a crane, and another one, and another one."
    assert encoded.truncated == {LONG: short} and teacher.encoded == [TEXTS[0], short]
    assert torch.equal(encoded.of([LONG])[0], teacher.embed(short))  # found by the whole text
    assert json.loads(files(tmp_path)["texts.json"]) == [TEXTS[0], LONG]
    assert encode(tower(context=16), [TEXTS[0], LONG], tmp_path).truncated == encoded.truncated


def test_a_damaged_shard_is_named_and_encoded_again_only_with_repair(tower, tmp_path):
    encode(tower(), TEXTS, tmp_path)
    before = files(tmp_path)
    (shard,) = tmp_path.glob("texts/*/rows-00001.npy")
    shard.write_bytes(b"x" * len(shard.read_bytes()))
    with pytest.raises(
        StoreDamaged, match=r"rows-00001.npy has changed since it was written.*--repair"
    ):
        encode(tower(), TEXTS, tmp_path)
    again = tower()
    encode(again, TEXTS, tmp_path, repair=True)
    assert again.encoded == TEXTS[128:256] and files(tmp_path) == before

import numpy as np
import pytest

from beamclip.data.augmentation.sample import philox4x32, stream_key, uniforms


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known answers published with Random123
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter, key, expected):
    out = philox4x32(np.array(counter, np.uint64)[:, None], np.array(key, np.uint64))
    assert out[:, 0].tolist() == expected


def test_numbers_depend_on_sample_and_view_not_on_position():
    key = stream_key("test")
    ids, views = np.array([5, 2**40, 7]), np.array([0, 1, 2])
    together = uniforms(ids, views, key, 9)
    alone = uniforms(ids[1:2], views[1:2], key, 5)
    assert (together[:5, 1:2] == alone).all()


def test_numbers_are_uniform_and_streams_are_uncorrelated():
    ids = np.arange(20_000)
    a = uniforms(ids, np.zeros_like(ids), stream_key("a"), 4)
    b = uniforms(ids, np.zeros_like(ids), stream_key("b"), 4)
    assert a.min() >= 0
    assert a.max() < 1
    counts = np.histogram(a, bins=20, range=(0, 1))[0]
    assert abs(counts / counts.mean() - 1).max() < 0.06
    together = np.corrcoef(np.concatenate([a, b]))
    assert abs(together - np.eye(8)).max() < 0.03

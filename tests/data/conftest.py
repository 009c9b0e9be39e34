import io
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from helpers.tars import webdataset, write_tar
from PIL import Image
from torch.nn.functional import interpolate


def encoded(color=(200, 30, 30), size=(20, 16), format="JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, format, quality=95)
    return file.getvalue()


class FlakyFile(io.FileIO):
    """An open file of a `Flaky` store."""

    def read(self, size=-1):
        if Flaky.errors:
            raise Flaky.errors.pop(0)
        return super().read(size)


class Flaky(LocalFileSystem):
    """Local files behind an unreliable network, `flaky://FOLDER`.

    The next reads raise `errors`, one error per read.
    """

    protocol = "flaky"
    errors = []

    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(path.removeprefix("flaky://"))

    def _open(self, path, mode="rb", **_):
        return FlakyFile(path, "rb")


@pytest.fixture
def network(monkeypatch):
    """A network that fails on request; retries do not wait."""
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr("beamclip.data.retry._WAITS", (0, 0, 0))
    monkeypatch.setattr(Flaky, "errors", [])
    return Flaky


@pytest.fixture
def jpeg():
    """Make a real JPEG of one color."""
    return encoded


@pytest.fixture(scope="session")
def photographs():
    """Make smooth random images [N, 3, S, S] in [0, 1].

    Unlike noise, and like photographs, they hardly change by rounding between two passes.
    """

    def make(count=6, side=48, seed=0):
        coarse = torch.rand(count, 3, 7, 7, generator=torch.Generator().manual_seed(seed))
        return interpolate(coarse, side, mode="bicubic").clamp(0, 1)

    return make


@pytest.fixture(scope="session")
def stored():
    """Images as a packed store holds them: uint8 [N, S, S, 3]."""
    return lambda images: (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).contiguous()


@pytest.fixture
def make_tree(tmp_path):
    """Write a folder tree of real JPEGs: {split: {class: number of images}}.

    The color of an image depends on its class and number.
    """

    def make(splits, name="tree") -> Path:
        for split, classes in splits.items():
            for label, (kind, count) in enumerate(classes.items()):
                folder = tmp_path / name / split / kind
                folder.mkdir(parents=True)
                for number in range(count):
                    (folder / f"{number:03}.jpg").write_bytes(
                        encoded((40 * label, 10 * number, 128))
                    )
        return tmp_path / name

    return make


@pytest.fixture
def write_parquet(tmp_path):
    """Write one Hugging Face-style parquet file."""

    def write(
        file, labels, names=("red", "blue"), images=None, columns=("image", "label"), paths=None
    ) -> Path:
        images = (
            images if images is not None else [encoded((250 * label, 0, 250)) for label in labels]
        )
        paths = paths or [None] * len(labels)
        rows = [{"bytes": image, "path": path} for image, path in zip(images, paths, strict=True)]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table(
            {columns[0]: pa.array(rows, kind), columns[1]: pa.array(np.asarray(labels, np.int64))}
        )
        if names:
            listed = ", ".join(f'"{name}"' for name in names)
            features = f'{{"info": {{"features": {{"{columns[1]}": {{"names": [{listed}]}}}}}}}}'
            table = table.replace_schema_metadata({"huggingface": features})
        path = tmp_path / "parquet" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return tmp_path / "parquet"

    return write


@pytest.fixture
def shards(tmp_path, jpeg):
    """Two train shards and one test shard of three classes."""
    folder = tmp_path / "shards"
    write_tar(folder / "set-train-000000.tar", webdataset(jpeg, [0, 2, 1]))
    write_tar(folder / "set-train-000001.tar", webdataset(jpeg, [1, 0], start=3))
    write_tar(folder / "set-val-000000.tar", webdataset(jpeg, [2, 1, 0]))
    (folder / "classnames.txt").write_text("ant\nbee\ncow\n")
    return folder

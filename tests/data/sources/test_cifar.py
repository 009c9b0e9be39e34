import hashlib
import pickle

import numpy as np
import pytest
from torchvision import datasets

from beamclip.config import DataConfig, UserError
from beamclip.data import open_source


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """A CIFAR-10 of 20 images; the checksums that torchvision verifies are changed to match."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = np.random.default_rng(0).integers(256, size=(10, 3072), dtype=np.uint8)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    for kind in ("train", "test"):
        listed = [write(f"{kind}_batch", {"data": images, "labels": list(range(10))})]
        monkeypatch.setattr(datasets.CIFAR10, f"{kind}_list", listed)
    name, md5 = write("batches.meta", {"label_names": ["aquarium_fish", *"bcdefghij"]})
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5}
    )
    return tmp_path, images


def test_reads_torchvisions_folder(cifar10):
    folder, images = cifar10
    source = open_source(DataConfig(path=str(folder)))
    items = list(source.items("train"))
    assert source.names[0] == "aquarium fish" and source.count("test") == 10
    assert [item.label for item in items] == list(range(10))
    assert np.array_equal(items[3].image, images[3].reshape(3, 32, 32).transpose(1, 2, 0))


def test_a_list_in_another_order_than_its_own_is_refused(cifar10, tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(["aquarium fish", *"bcdefghij"][::-1]))
    with pytest.raises(
        UserError,
        match=(
            r"has 'j' in line 1, but its class is number 10; "
            r"write the lines in the order of the classes \(aqua"
        ),
    ):
        open_source(DataConfig(path=str(cifar10[0]), class_names=str(tmp_path / "names.txt")))


def test_a_damaged_batch_is_a_user_error(cifar10):
    folder, _ = cifar10
    (folder / "cifar-10-batches-py" / "test_batch").write_bytes(b"cut short")
    with pytest.raises(
        UserError, match="cifar-10-batches-py can't be used .* delete it and unpack cifar10 again"
    ):
        open_source(DataConfig(source="cifar10", path=str(folder)))


def test_nothing_is_downloaded_unless_allowed(tmp_path):
    with pytest.raises(
        UserError,
        match=(
            "cifar-100-python does not exist; "
            "unpack cifar100 there, or download it with data.download=true"
        ),
    ):
        open_source(DataConfig(source="cifar100", path=str(tmp_path)))


@pytest.mark.parametrize(
    ("error", "says"), [(OSError("no network"), "no network"), (TimeoutError(), "TimeoutError")]
)
def test_a_failed_download_is_a_user_error(tmp_path, monkeypatch, error, says):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    with pytest.raises(UserError, match=rf"\({says}\)"):
        open_source(DataConfig(source="cifar10", path=str(tmp_path / "new"), download=True))

import pickle

import fsspec
import pyarrow.parquet as pq
import pytest

from beamclip.config import DataConfig, UserError
from beamclip.data import DemoSource, open_source
from beamclip.data.decode import load_square_rgb
from beamclip.data.sources.cifar import CifarSource
from beamclip.data.sources.folder import FolderSource
from beamclip.data.sources.parquet import ParquetSource


def fails(match, **config):
    with pytest.raises(UserError, match=match) as caught:
        open_source(DataConfig(**config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["auto", "folder", "parquet", "cifar10"])
def test_a_path_must_be_given(source):
    fails(rf"data.path is not set but data.source is {source}; give --data DIR", source=source)


def test_the_error_for_a_missing_cifar_path_mentions_the_download():
    fails("data.download=true", source="cifar100")


def test_the_path_must_be_a_folder(tmp_path):
    fails("nowhere does not exist; give --data DIR", path=str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    fails("file is a file", path=str(tmp_path / "file"))


def test_auto_names_what_it_looked_for_in_an_empty_folder(tmp_path):
    fails("has no parquet, tar, CIFAR or train/", path=str(tmp_path))


def test_auto_recognizes_a_tree_and_parquet(make_tree, write_parquet):
    tree = make_tree({"train": {"a": 1, "b": 1}, "val": {"a": 1, "b": 1}})
    assert isinstance(open_source(DataConfig(path=str(tree))), FolderSource)
    write_parquet("train-0.parquet", [0, 1])
    assert isinstance(
        open_source(DataConfig(path=str(write_parquet("test-0.parquet", [0, 1])))), ParquetSource
    )


def test_two_cifars_in_one_folder_are_refused(tmp_path):
    for name in ("cifar-10-batches-py", "cifar-100-python"):
        (tmp_path / name).mkdir()
    fails("has both CIFAR-10 and CIFAR-100", path=str(tmp_path))


def test_cifar10_may_be_a_tree_of_folders(make_tree):
    tree = make_tree({"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}})
    assert isinstance(open_source(DataConfig(source="cifar10", path=str(tree))), FolderSource)
    assert CifarSource is not FolderSource


def test_one_class_is_too_few(make_tree):
    tree = make_tree({"train": {"only": 2}, "test": {"only": 1}})
    fails(r"has only one class \(only\)", path=str(tree))


def test_the_demo_needs_no_path():
    assert isinstance(open_source(DataConfig(source="demo")), DemoSource)


@pytest.fixture(params=["tree", "parquet", "demo"])
def any_source(request, make_tree, write_parquet):
    """One source of each kind, with a few items."""
    if request.param == "tree":
        return open_source(
            DataConfig(path=str(make_tree({"train": {"a": 4, "b": 3}, "test": {"a": 2, "b": 1}})))
        )
    if request.param == "parquet":
        write_parquet("train-0.parquet", [0, 1, 1])
        write_parquet("train-1.parquet", [1, 0, 0, 1])
        return open_source(DataConfig(path=str(write_parquet("test-0.parquet", [0, 1]))))
    return open_source(DataConfig(source="demo"))


def seen(items):
    """Items in a form that can be compared."""
    images = (getattr(item.image, "path", item.image) for item in items)
    return [
        (image if isinstance(image, str | bytes) else image.tobytes(), item.name, item.label)
        for image, item in zip(images, items, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("start", "stop"), [(0, 3), (2, 5), (4, None), (3, 4), (6, 100), (7, 7)])
def test_any_slice_of_the_items_can_be_read(any_source, start, stop):
    assert (
        seen(list(any_source.items("train", start, stop)))
        == seen(list(any_source.items("train")))[start:stop]
    )


def test_a_source_can_be_sent_to_other_processes(any_source):
    sent = pickle.loads(pickle.dumps(any_source))
    assert seen(list(sent.items("test", 0, 2))) == seen(list(any_source.items("test", 0, 2)))
    assert (sent.fingerprint, sent.names, sent.count("train")) == (
        any_source.fingerprint,
        any_source.names,
        any_source.count("train"),
    )


@pytest.mark.parametrize("kind", ["tree", "parquet"])
def test_a_url_gives_the_same_items_as_its_folder(kind, make_tree, write_parquet, tmp_path):
    if kind == "tree":
        folder = make_tree({"train": {"a": 2, "b": 1}, "test": {"a": 1, "b": 1}})
    else:
        write_parquet("train-0.parquet", [0, 1])
        folder = write_parquet("test-0.parquet", [0, 1])
    system, root = fsspec.filesystem("memory"), f"/{tmp_path.name}"
    system.put(str(folder), root, recursive=True)
    here, there = (
        open_source(DataConfig(path=str(folder))),
        open_source(DataConfig(path=f"memory:/{root}")),
    )
    assert [load_square_rgb(item.image, 8).tolist() for item in here.items("train")] == [
        load_square_rgb(item.image, 8).tolist() for item in there.items("train")
    ]
    assert open_source(DataConfig(path=f"file://{folder}")).fingerprint == here.fingerprint


def test_row_groups_before_the_start_are_not_read(write_parquet, monkeypatch):
    """Otherwise packing would read a file again for each shard."""
    folder = write_parquet("train-0.parquet", [0, 1] * 50)
    write_parquet("test-0.parquet", [0, 1])
    table = pq.read_table(folder / "train-0.parquet")
    pq.write_table(table, folder / "train-0.parquet", row_group_size=10)
    source, taken = open_source(DataConfig(path=str(folder))), []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda file, *a, row_groups, **k: (
            taken.append(row_groups) or original(file, *a, row_groups=row_groups, **k)
        ),
    )
    assert len(list(source.items("train", 35, 52))) == 17
    assert taken == [[3, 4, 5]]


@pytest.mark.slow
def test_a_pickled_large_tree_is_small(tmp_path):
    for split in ("train", "test"):
        for kind in ("a", "b"):
            (tmp_path / split / kind).mkdir(parents=True)
            for number in range(1500):
                (tmp_path / split / kind / f"photograph_{number:05}.jpg").touch()
    source = open_source(DataConfig(path=str(tmp_path)))
    assert (
        len(pickle.dumps(source)) < 6000 * 45
    )  # a name is 22 letters, its label 8 bytes, its offset 8


def test_torchvision_s_cifar_must_be_local(tmp_path):
    fsspec.filesystem("memory").makedirs(f"/{tmp_path.name}/cifar-10-batches-py/x", exist_ok=True)
    fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/cifar-10-batches-py/x/y", b"")
    fails("is not on this machine", path=f"memory://{tmp_path.name}")

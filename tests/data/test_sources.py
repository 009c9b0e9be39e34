import pytest

from beamclip.config import DataConfig, UserError
from beamclip.data import open_source
from beamclip.data.cifar import CifarSource
from beamclip.data.demo import DemoSource
from beamclip.data.folder import FolderSource
from beamclip.data.parquet import ParquetSource


def fails(match, **config):
    with pytest.raises(UserError, match=match) as caught:
        open_source(DataConfig(**config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["auto", "folder", "parquet", "cifar10"])
def test_a_path_must_be_given(source):
    fails(rf"data.path is not set but data.source is {source}; say --data DIR", source=source)


def test_the_missing_path_of_cifar_speaks_of_the_download():
    fails("data.download=true", source="cifar100")


def test_the_path_must_be_a_folder(tmp_path):
    fails("nowhere does not exist; say --data DIR", path=str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    fails("file is a file", path=str(tmp_path / "file"))


def test_auto_names_what_it_looked_for_in_an_empty_folder(tmp_path):
    fails("holds no parquet, CIFAR or train/", path=str(tmp_path))


def test_auto_takes_a_tree_and_parquet(make_tree, write_parquet):
    tree = make_tree({"train": {"a": 1, "b": 1}, "val": {"a": 1, "b": 1}})
    assert isinstance(open_source(DataConfig(path=str(tree))), FolderSource)
    write_parquet("train-0.parquet", [0, 1])
    assert isinstance(open_source(DataConfig(path=str(write_parquet("test-0.parquet", [0, 1])))), ParquetSource)


def test_two_cifars_in_one_folder_are_not_guessed_between(tmp_path):
    for name in ("cifar-10-batches-py", "cifar-100-python"):
        (tmp_path / name).mkdir()
    fails("holds both CIFAR-10 and CIFAR-100", path=str(tmp_path))


def test_cifar10_is_also_taken_as_a_tree(make_tree):
    tree = make_tree({"train": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}})
    assert isinstance(open_source(DataConfig(source="cifar10", path=str(tree))), FolderSource)
    assert CifarSource is not FolderSource


def test_one_class_is_too_few(make_tree):
    tree = make_tree({"train": {"only": 2}, "test": {"only": 1}})
    fails(r"has one class only \(only\)", path=str(tree))


def test_the_demo_needs_no_path():
    assert isinstance(open_source(DataConfig(source="demo")), DemoSource)

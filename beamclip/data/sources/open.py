"""Open the source that `data.source` names, or the one that `data.path` holds."""

from typing import Literal

from beamclip.config import DataConfig, UserError
from beamclip.data.base import TEST_NAMES, Item, Source, Split
from beamclip.data.files import Files
from beamclip.data.sources.cifar import CIFAR_FOLDERS, Cifar, CifarSource
from beamclip.data.sources.demo import DemoSource
from beamclip.data.sources.folder import FolderSource
from beamclip.data.sources.parquet import ParquetSource, parquet_files
from beamclip.data.sources.webdataset import TarSource, tar_files

__all__ = ["Item", "Source", "Split", "open_source"]

Kind = Literal["folder", "parquet", "tar", "cifar10", "cifar100"]
_CLASSES: dict[Cifar, int] = {"cifar10": 10, "cifar100": 100}


def open_source(config: DataConfig) -> Source:
    """Open the images that a configuration names, without decoding any.

    `auto` takes parquet files first, then tar shards, then torchvision's CIFAR folders, then a train/ tree. `cifar10` and `cifar100`
    also take the same images as parquet or as a tree.

    Raises:
        UserError: the path is missing, empty or not what `data.source` says; a split, a column or class names are
            missing; or there are fewer than two classes.
    """
    source = _open(config)
    if len(source.names) < 2:
        raise UserError(
            f"{config.path} has one class only ({source.names[0]}); give at least two, to tell apart"
        )
    return source


def _open(config: DataConfig) -> Source:
    if config.source == "demo":
        return DemoSource(config)
    files = _files(config)
    kind = _kind(config, files)
    if kind == "folder":
        return FolderSource(files, config)
    if kind == "parquet":
        return ParquetSource(files, config)
    if kind == "tar":
        return TarSource(files, config)
    if files.local is None:
        raise UserError(
            f"data.path {files} is not on this machine, where torchvision's CIFAR must be; copy it, or give parquet"
        )
    return CifarSource(files.local, config, kind)


def _files(config: DataConfig) -> Files:
    if config.path is None:
        fetch = (
            " (with data.download=true it is fetched there)"
            if config.source.startswith("cifar")
            else ""
        )
        demo = ", or data.source=demo for the embedded demo" if config.source == "auto" else ""
        raise UserError(
            f"data.path is not set but data.source is {config.source}; say --data DIR{fetch}{demo}"
        )
    files = Files(config.path)
    fetched = config.download and config.source in CIFAR_FOLDERS
    if not fetched and not files.is_folder():
        what = "is a file" if files.local is not None and files.local.exists() else "does not exist"
        raise UserError(
            f"data.path {files.local or files} {what}; say --data DIR with the folder that holds the images"
        )
    return files


def _kind(config: DataConfig, files: Files) -> Kind:
    if config.source in ("folder", "parquet", "tar"):
        return config.source
    if config.source in ("cifar10", "cifar100"):
        return _kind_of_cifar(config, files, config.source)
    held = _held(files)
    if not held:
        raise UserError(
            f"data.path {files} holds no parquet, tar, CIFAR or train/; say --data DIR with one of these"
        )
    if "cifar10" in held[:2] and "cifar100" in held[:2]:
        raise UserError(
            f"data.path {files} holds both CIFAR-10 and CIFAR-100; set data.source to cifar10 or cifar100"
        )
    return held[0]


def _held(files: Files) -> list[Kind]:
    """What a folder holds, in the order that `auto` prefers."""
    held: list[Kind] = []
    splits = ("train", *TEST_NAMES)
    if any(parquet_files(files, split) for split in splits) or any(
        entry.path.endswith(".parquet") for entry in files.files()
    ):
        held.append("parquet")
    if any(tar_files(files, split) for split in splits):
        held.append("tar")
    held += [which for which, name in CIFAR_FOLDERS.items() if files.is_folder(name)]
    return [*held, "folder"] if files.is_folder("train") else held


def _kind_of_cifar(config: DataConfig, files: Files, which: Cifar) -> Kind:
    held = _held(files)
    if which in held or config.download or not held or held[0].startswith("cifar"):
        return which
    return held[0]

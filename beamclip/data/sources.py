"""Open the source that `data.source` names, or the one that `data.path` holds."""

from pathlib import Path
from typing import Literal

from beamclip.config import DataConfig, UserError
from beamclip.data.cifar import CIFAR_FOLDERS, Cifar, CifarSource
from beamclip.data.demo import DemoSource
from beamclip.data.folder import FolderSource
from beamclip.data.item import TEST_NAMES, Item, Source, Split
from beamclip.data.parquet import ParquetSource, parquet_files

__all__ = ["Item", "Source", "Split", "open_source"]

Kind = Literal["folder", "parquet", "cifar10", "cifar100"]
_CLASSES: dict[Cifar, int] = {"cifar10": 10, "cifar100": 100}


def open_source(config: DataConfig) -> Source:
    """Open the images that a configuration names, without decoding any.

    `auto` takes parquet files first, then torchvision's CIFAR folders, then a train/ tree. `cifar10` and `cifar100`
    also take the same images as parquet or as a tree.

    Raises:
        UserError: the path is missing, empty or not what `data.source` says; a split, a column or class names are
            missing; or there are fewer than two classes.
    """
    source = _open(config)
    if len(source.names) < 2:
        raise UserError(f"{config.path} has one class only ({source.names[0]}); give at least two, to tell apart")
    return source


def _open(config: DataConfig) -> Source:
    if config.source == "demo":
        return DemoSource(config)
    folder = _folder(config)
    kind = _kind(config, folder)
    if kind == "folder":
        return FolderSource(folder, config)
    if kind == "parquet":
        return ParquetSource(folder, config)
    return CifarSource(folder, config, kind)


def _folder(config: DataConfig) -> Path:
    if config.path is None:
        fetch = " (with data.download=true it is fetched there)" if config.source.startswith("cifar") else ""
        demo = ", or data.source=demo for the embedded demo" if config.source == "auto" else ""
        raise UserError(f"data.path is not set but data.source is {config.source}; say --data DIR{fetch}{demo}")
    folder = Path(config.path).expanduser()
    fetched = config.download and config.source in CIFAR_FOLDERS
    if not folder.is_dir() and not fetched:
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"data.path {folder} {what}; say --data DIR with the folder that holds the images")
    return folder


def _kind(config: DataConfig, folder: Path) -> Kind:
    if config.source in ("folder", "parquet"):
        return config.source
    if config.source in ("cifar10", "cifar100"):
        return _kind_of_cifar(config, folder, config.source)
    held = _held(folder)
    if not held:
        raise UserError(f"data.path {folder} holds no parquet, CIFAR or train/; say --data DIR with one of these")
    if "cifar10" in held[:2] and "cifar100" in held[:2]:
        raise UserError(f"data.path {folder} holds both CIFAR-10 and CIFAR-100; set data.source to cifar10 or cifar100")
    return held[0]


def _held(folder: Path) -> list[Kind]:
    """What a folder holds, in the order that `auto` prefers."""
    held: list[Kind] = []
    if any(parquet_files(folder, split) for split in ("train", *TEST_NAMES)) or any(folder.glob("*.parquet")):
        held.append("parquet")
    held += [which for which, name in CIFAR_FOLDERS.items() if (folder / name).is_dir()]
    return [*held, "folder"] if (folder / "train").is_dir() else held


def _kind_of_cifar(config: DataConfig, folder: Path, which: Cifar) -> Kind:
    held = _held(folder)
    if which in held or config.download or not held or held[0].startswith("cifar"):
        return which
    return held[0]

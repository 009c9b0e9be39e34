"""Open the source that `data.source` names, or recognize it from the files in `data.path`."""

from typing import Literal

from beamclip.config import DataConfig, UserError
from beamclip.data.base import TEST_NAMES, Source
from beamclip.data.files import Files
from beamclip.data.sources.cifar import CIFAR_FOLDERS, Cifar, CifarSource
from beamclip.data.sources.demo import DemoSource
from beamclip.data.sources.folder import FolderSource
from beamclip.data.sources.parquet import ParquetSource, find_base, parquet_files
from beamclip.data.sources.webdataset import TarSource, tar_files
from beamclip.stores.paths import path_errors_as_user_error

Kind = Literal["folder", "parquet", "tar", "cifar10", "cifar100"]


def open_source(config: DataConfig) -> Source:
    """Open the images that the settings name, without decoding any.

    `data.source=auto` prefers parquet files, then tar shards, then torchvision's CIFAR folders,
    then a train/ tree. `cifar10` and `cifar100` also accept the images as parquet, tar or tree.

    Args:
        config: uses `source`, `path`, `download` and `class_names`.

    Raises:
        UserError: the path is missing, empty or not what `data.source` says; a split, a column or
            class names are missing; or there are fewer than two classes.
    """
    source = _open(config)
    if len(source.names) < 2:
        raise UserError(f"{config.path} has only one class ({source.names[0]}); give at least two")
    return source


def _open(config: DataConfig) -> Source:
    if config.source == "demo":
        return DemoSource(config)
    files = open_folder(config)
    kind = _kind(config, files)
    if kind == "folder":
        return FolderSource(files, config)
    if kind == "parquet":
        return ParquetSource(files, config)
    if kind == "tar":
        return TarSource(files, config)
    if files.local is None:
        raise UserError(
            f"data.path {files} is not on this machine, where torchvision's CIFAR must be; copy "
            "it, or give parquet"
        )
    return CifarSource(files.local, config, kind)


def open_folder(config: DataConfig) -> Files:
    """Return the files below `data.path`.

    Raises:
        UserError: it is not set, does not exist, or is not a folder.
    """
    if config.path is None:
        hint = ""
        if config.source.startswith("cifar"):
            hint = " (with data.download=true it is downloaded there)"
        elif config.source == "auto":
            hint = ", or data.source=demo for the embedded demo"
        raise UserError(
            f"data.path is not set but data.source is {config.source}; give --data DIR{hint}"
        )
    files = Files(config.path)
    # torchvision makes the folder of a download.
    is_downloaded = config.download and config.source in CIFAR_FOLDERS
    if not is_downloaded and not files.is_folder():
        with path_errors_as_user_error("data.path", config.path):
            is_file = files.local is not None and files.local.exists()
        problem = "is a file" if is_file else "does not exist"
        raise UserError(
            f"data.path {files.local or files} {problem}; give --data DIR with the folder of the "
            "images"
        )
    return files


def _kind(config: DataConfig, files: Files) -> Kind:
    """Return the kind of source to open.

    Raises:
        UserError: `data.source` is `auto`, and the folder has no known kind or two of them.
    """
    if config.source in ("folder", "parquet", "tar"):
        return config.source
    if config.source in ("cifar10", "cifar100"):
        return _kind_of_cifar(config, files, config.source)
    kinds = _find_kinds(files)
    if not kinds:
        raise UserError(
            f"data.path {files} has no parquet, tar, CIFAR or train/; give --data DIR with one of "
            "them"
        )
    # Parquet files and tars come first in `kinds`. So if both CIFARs lead it, nothing decides
    # between them.
    if "cifar10" in kinds[:2] and "cifar100" in kinds[:2]:
        raise UserError(
            f"data.path {files} has both CIFAR-10 and CIFAR-100; set data.source to cifar10 or "
            "cifar100"
        )
    return kinds[0]


def _find_kinds(files: Files) -> list[Kind]:
    """Return the kinds of sources in a folder, in the order that `auto` prefers."""
    kinds: list[Kind] = []
    splits = ("train", *TEST_NAMES)
    has_splits = any(parquet_files(files, split) for split in splits)
    if has_splits or any(entry.path.endswith(".parquet") for entry in files.files()):
        kinds.append("parquet")
    if any(tar_files(files, split) for split in splits):
        kinds.append("tar")
    kinds += [which for which, name in CIFAR_FOLDERS.items() if files.is_folder(name)]
    if files.is_folder("train"):
        kinds.append("folder")
    # Other folders are looked into only if nothing else was found, as the hub has its
    # configurations: `plain_text/train-….parquet`.
    if not kinds and find_base(files):
        kinds.append("parquet")
    return kinds


def _kind_of_cifar(config: DataConfig, files: Files, which: Cifar) -> Kind:
    """Return `which`, or the kind of other files if there is no torchvision CIFAR to use."""
    kinds = _find_kinds(files)
    if which in kinds or config.download:
        return which
    # Opening `which` then fails with a message that names its folder.
    if not kinds or kinds[0].startswith("cifar"):
        return which
    return kinds[0]

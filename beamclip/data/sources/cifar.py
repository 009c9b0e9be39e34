"""Read CIFAR-10 and CIFAR-100 as torchvision stores them.

Their files are pickles, which could run any code when loaded. torchvision checks their MD5 first.
"""

from collections.abc import Iterator
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from beamclip.config import DataConfig, UserError
from beamclip.data.base import Item, Split, digest
from beamclip.data.class_names import resolve_classes
from beamclip.data.retry import one_line

Cifar = Literal["cifar10", "cifar100"]
CIFAR_FOLDERS: dict[Cifar, str] = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


class CifarSource:
    """CIFAR-10 or CIFAR-100.

    Args:
        folder: the parent of torchvision's folder (see `CIFAR_FOLDERS`).
        config: `data.download` allows a download.
        which: the data set.

    Raises:
        UserError: it is missing and may not be downloaded, the download failed, or a file is
            damaged.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, folder: Path, config: DataConfig, which: Cifar) -> None:
        self._splits: dict[Split, Any] = {"train": None, "test": None}
        self._which = which
        self._folder = folder
        self._download = config.download
        own_names = [name.replace("_", " ") for name in self._open("test").classes]
        self.names, self.keys = resolve_classes(config, own_names, len(own_names))

    @property
    def fingerprint(self) -> str:
        """A digest of the MD5 sums that torchvision checks: the same on every machine."""
        dataset = _dataset_class(self._which)
        return digest([self._which, dataset.train_list, dataset.test_list, dataset.meta])

    def _open(self, split: Split) -> Any:
        """Return torchvision's data set of a split. It is loaded once in each process."""
        if self._splits[split] is None:
            self._splits[split] = _load(self._which, self._folder, split, self._download)
        return self._splits[split]

    def count(self, split: Split) -> int:
        """Return the number of images of a split."""
        return len(self._open(split).data)

    def items(self, split: Split, start: int = 0, stop: int | None = None) -> Iterator[Item]:
        """Yield items `start` to `stop` of a split."""
        dataset = self._open(split)
        pairs = zip(dataset.data[start:stop], dataset.targets[start:stop], strict=True)
        for row, (image, label) in enumerate(pairs, start):
            yield Item(f"{self._which} {split} {row}", image, int(label))

    def __getstate__(self) -> dict[str, Any]:
        # Without the pixels: other processes load them from the files.
        return {**self.__dict__, "_splits": {"train": None, "test": None}}

    def groups(self, split: Split) -> NDArray[np.int64] | None:
        """Return None: CIFAR has no groups."""
        return None


@cache
def _dataset_class(which: Cifar) -> Any:
    # Imported here because torchvision imports torch, which other sources do without.
    from torchvision import datasets

    return datasets.CIFAR10 if which == "cifar10" else datasets.CIFAR100


def _load(which: Cifar, folder: Path, split: Split, download: bool) -> Any:
    """Load a split as torchvision's data set.

    Raises:
        UserError: it is missing and may not be downloaded, the download failed, or a file is
            damaged.
    """
    path = folder / CIFAR_FOLDERS[which]
    if not download and not path.is_dir():
        raise UserError(
            f"{path} does not exist; unpack {which} there, or download it with data.download=true"
        )
    try:
        return _dataset_class(which)(str(folder), train=split == "train", download=download)
    # OSError and HTTPException come from the network, RuntimeError from a wrong MD5.
    except (OSError, HTTPException, RuntimeError) as error:
        raise UserError(
            f"{path} can't be used ({one_line(error)}); delete it and unpack {which} again"
        ) from None

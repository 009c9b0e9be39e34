"""Bytes that are read when they are asked for."""

import errno
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from beamclip.config import UserError
from beamclip.data.retry import RetryingFile, one_line, with_retries

# Symbolic links on this machine: followed, as torchvision's ImageFolder follows them.


def followed(link: dict[str, Any]) -> dict[str, Any]:
    """What fsspec says of a link, as it would of what the link leads to. One that leads nowhere counts as a file: reading says why."""
    try:
        status = os.stat(link["name"])
    except OSError:
        return {**link, "type": "file"}
    kind = (
        "directory"
        if stat.S_ISDIR(status.st_mode)
        else "file"
        if stat.S_ISREG(status.st_mode)
        else "other"
    )
    return {**link, "type": kind, "size": status.st_size, "mtime": status.st_mtime}


def refuse_loop(root: Path, path: str) -> None:
    """See that a folder below the root is none of those that one came through to it.

    Raises:
        UserError: a link leads back.
    """
    folder = root / path
    if not folder.is_symlink():
        return
    real = folder.resolve()
    if any(above.resolve() == real for above in folder.parents if above.is_relative_to(root)):
        raise UserError(
            f"{folder} is a link to a folder that it lies in, which has no end; remove the link"
        )


def leads_nowhere(path: Path) -> bool:
    """Whether this is a link to what is not there, or to itself. That is the link's fault, and not a disk's that fails for a moment."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) and path.is_symlink()
    return False


# Files of a data set, on this machine or anywhere fsspec reaches: listed with size and stamp, opened, read in parts.


_STAMPS = (
    "ETag",
    "etag",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
    "Last-Modified",
    "modified",
    "modify",
    "sha",
)
_AT_ONCE = 32  # files that are asked for their stamps: each answer is a wait for the network


@dataclass(frozen=True)
class Entry:
    """One file.

    Attributes:
        path: relative to the data set's folder.
        size: in bytes.
        stamp: changes when the file does, as far as its file system tells: a hash or a time. Empty where a listing has neither.
    """

    path: str
    size: int
    stamp: str


@dataclass(frozen=True)
class Files:
    """The files below one folder. Pickles as its address; every process connects for itself.

    Attributes:
        url: a path, or an fsspec URL such as `s3://bucket/folder`.
    """

    url: str

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __str__(self) -> str:
        return self.url

    @cached_property
    def _place(self) -> tuple[Any, str]:
        try:
            system, root = fsspec.core.url_to_fs(
                self.url if "://" in self.url else str(Path(self.url).expanduser().resolve())
            )
        except ImportError as error:
            extra = ' (pip install "beamclip[s3]")' if self.url.startswith(("s3:", "s3a:")) else ""
            raise UserError(
                f"data.path {self.url} needs a package that is not installed: {one_line(error)}{extra}"
            ) from None
        except ValueError as error:
            raise UserError(
                f"data.path {self.url} is of no kind that can be read: {one_line(error)}"
            ) from None
        return system, root.rstrip("/")

    @property
    def local(self) -> Path | None:
        """The folder where it is on this machine, else None."""
        system, root = self._place
        return (
            Path(root)
            if "file"
            in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,))
            else None
        )

    def is_folder(self, path: str = "") -> bool:
        """Whether there is a folder of this name, with anything in it where the store knows no empty ones.

        Raises:
            UserError: the store can't be reached.
        """
        with self._reached():
            return bool(self._place[0].isdir(self._full(path)))

    def folders(self, path: str = "") -> list[str]:
        """Names of the folders right inside a folder, sorted, without hidden ones."""
        return sorted(name for name, info in self._listed(path) if info["type"] == "directory")

    def files(self, path: str = "") -> list[Entry]:
        """The files right inside a folder, sorted, without hidden ones and what is no file: pipes, sockets, devices."""
        listed = (
            (name, info)
            for name, info in self._listed(path)
            if info["type"] not in ("directory", "other")
        )
        return sorted(
            (_entry(f"{path}/{name}".lstrip("/"), info) for name, info in listed),
            key=lambda entry: entry.path,
        )

    def below(self, path: str) -> list[Entry]:
        """All files below a folder at any depth, sorted, without hidden ones.

        Raises:
            UserError: a link leads back to a folder that it lies in.
        """
        if self.local is not None:
            refuse_loop(self.local, path)
        entries = self.files(path)
        for folder in self.folders(path):
            entries += self.below(f"{path}/{folder}".lstrip("/"))
        return sorted(entries, key=lambda entry: entry.path)

    def stamped(self, entries: list[Entry]) -> list[Entry]:
        """The same with sizes and stamps, for which each file is asked where the listing has no stamp, as over http.

        A server that tells of no ETag and no time leaves the stamp empty: then a file that changes and keeps its size goes unseen.

        Raises:
            UserError: the store can't be reached.
        """
        if all(entry.stamp for entry in entries):
            return entries
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(
                pool.map(lambda entry: entry if entry.stamp else self._asked(entry.path), entries)
            )

    def _asked(self, path: str) -> Entry:
        return _entry(
            path, with_retries(lambda: self._place[0].info(self._full(path)), f"{self}/{path}")
        )

    def open(self, path: str) -> RetryingFile:
        """A file, open for reading. A disk or network that fails is tried again, here and at each read.

        Raises:
            UserError: it failed each time.
        """
        where = f"{self}/{path}"
        return RetryingFile(
            with_retries(lambda: self._place[0].open(self._full(path), "rb"), where), where
        )

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """A file's bytes, or `size` of them. A disk or network that fails is tried again a few times.

        Raises:
            UserError: it failed each time, or gave fewer bytes.
        """

        def part() -> bytes:
            content: bytes = self._place[0].cat_file(
                self._full(path), start=start, end=None if size is None else start + size
            )
            if (
                size is not None and len(content) != size
            ):  # a file that is here is cut short; a network may have been
                raise (OSError if self.local is None else EOFError)(
                    f"it gave {len(content)} bytes instead of {size}"
                )
            return content

        return with_retries(part, f"{self}/{path}")

    def _full(self, path: str) -> str:
        root = self._place[1]
        return f"{root}/{path}" if path else root or "/"

    def _listed(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        with self._reached():
            if not self._place[0].isdir(self._full(path)):
                return
            for info in self._place[0].ls(self._full(path), detail=True):
                name = info["name"].rstrip("/").rsplit("/", 1)[-1]
                if not name.startswith(".") and name:
                    yield (
                        name,
                        followed(info) if info.get("islink") and self.local is not None else info,
                    )

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # each kind of store has errors of its own: no credentials, no such bucket, no network
            raise UserError(
                f"data.path {self.url} can't be listed ({one_line(error)}); check the address and your credentials"
            ) from None


def _entry(path: str, info: dict[str, Any]) -> Entry:
    stamp = next((info[key] for key in _STAMPS if info.get(key) is not None), "")
    return Entry(path, int(info.get("size") or 0), str(stamp))


@dataclass(frozen=True)
class LazyBytes:
    """A file or a part of one, not read yet.

    Attributes:
        size: in bytes; None for all from `start` on.
    """

    files: Files
    path: str
    start: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            UserError: as `Files.read`.
        """
        return self.files.read(self.path, self.start, self.size)

    @property
    def leads_nowhere(self) -> bool:
        """Whether it is a whole file on this machine, and a link to one that is not there."""
        local = self.files.local if self.size is None else None
        return local is not None and leads_nowhere(local / self.path)

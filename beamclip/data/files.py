"""Files of a data set, on this machine or anywhere fsspec reaches.

Files are listed with size and stamp, opened, and read in parts. Symbolic links on this machine are
followed, as torchvision's ImageFolder follows them.
"""

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


def follow_link(link: dict[str, Any]) -> dict[str, Any]:
    """Return fsspec's information on a link as if it were its target.

    A dangling link counts as a file, so that reading it reports the error.
    """
    try:
        status = os.stat(link["name"])
    except OSError:
        return {**link, "type": "file"}
    # fsspec's word for pipes, sockets and devices.
    kind = "other"
    if stat.S_ISDIR(status.st_mode):
        kind = "directory"
    elif stat.S_ISREG(status.st_mode):
        kind = "file"
    return {**link, "type": kind, "size": status.st_size, "mtime": status.st_mtime}


def refuse_loop(root: Path, path: str) -> None:
    """Raise UserError if a folder below `root` is a link to one of its own parents.

    Args:
        root: folder of the data set.
        path: the folder, relative to `root`.
    """
    folder = root / path
    if not folder.is_symlink():
        return
    target = folder.resolve()
    parents = [parent for parent in folder.parents if parent.is_relative_to(root)]
    if any(parent.resolve() == target for parent in parents):
        raise UserError(f"{folder} is a link to one of its own parent folders; remove the link")


def leads_nowhere(path: Path) -> bool:
    """Return whether a path is a dangling link, or a link to itself.

    Such a link is broken permanently, unlike a disk that fails for a moment.
    """
    try:
        os.stat(path)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP) and path.is_symlink()
    return False


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
"""Keys under which fsspec's file systems report a hash or a time. The first that is set counts."""
_PARALLEL_REQUESTS = 32
"""Requests for stamps at the same time; each one mostly waits for the network."""


@dataclass(frozen=True)
class Entry:
    """One file.

    Attributes:
        path: relative to the data set's folder.
        size: size in bytes.
        stamp: a hash or a time that changes with the file; empty if a listing has neither.
    """

    path: str
    size: int
    stamp: str


@dataclass(frozen=True)
class Files:
    """The files below one folder. All paths in its methods are relative to this folder.

    Attributes:
        url: a path, or an fsspec URL such as `s3://bucket/folder`.
    """

    url: str

    def __getstate__(self) -> dict[str, Any]:
        # Without cached properties: every process opens its own connection.
        return {"url": self.url}

    def __str__(self) -> str:
        return self.url

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The fsspec file system, and the path of the folder in it.

        Raises:
            UserError: fsspec knows no such protocol, or lacks the package for it.
        """
        try:
            is_url = "://" in self.url
            address = self.url if is_url else str(Path(self.url).expanduser().resolve())
            file_system, root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            extra = ' (pip install "beamclip[s3]")' if self.url.startswith(("s3:", "s3a:")) else ""
            raise UserError(
                f"data.path {self.url} needs a package that is not installed: "
                f"{one_line(error)}{extra}"
            ) from None
        except ValueError as error:
            raise UserError(
                f"data.path {self.url} has an unknown protocol: {one_line(error)}"
            ) from None
        return file_system, root.rstrip("/")

    @property
    def _file_system(self) -> Any:
        return self._opened[0]

    @property
    def local(self) -> Path | None:
        """The folder's path if it is on this machine, otherwise None."""
        file_system, root = self._opened
        # One name, or a tuple of synonyms such as ("file", "local").
        protocol = file_system.protocol
        protocols = protocol if isinstance(protocol, tuple) else (protocol,)
        return Path(root) if "file" in protocols else None

    def is_folder(self, path: str = "") -> bool:
        """Return whether a folder exists. Object stores have no empty folders.

        Raises:
            UserError: the store can't be reached.
        """
        with self._listing_errors():
            return bool(self._file_system.isdir(self._full_path(path)))

    def is_file(self, path: str) -> bool:
        """Return whether a file exists.

        Raises:
            UserError: the store can't be reached.
        """
        with self._listing_errors():
            return bool(self._file_system.isfile(self._full_path(path)))

    def folders(self, path: str = "") -> list[str]:
        """Return the names of the folders directly inside a folder, sorted, without hidden ones.

        Raises:
            UserError: the store can't be reached.
        """
        return sorted(name for name, info in self._list(path) if info["type"] == "directory")

    def files(self, path: str = "") -> list[Entry]:
        """Return the files directly inside a folder, sorted.

        Hidden files, pipes, sockets and devices are left out.

        Raises:
            UserError: the store can't be reached.
        """
        entries = []
        for name, info in self._list(path):
            if info["type"] not in ("directory", "other"):
                entries.append(_entry(f"{path}/{name}".lstrip("/"), info))
        return sorted(entries, key=lambda entry: entry.path)

    def below(self, path: str) -> list[Entry]:
        """Return all files below a folder at any depth, sorted, without hidden ones.

        Raises:
            UserError: a link leads to one of its own parent folders, or the store can't be reached.
        """
        if self.local is not None:
            refuse_loop(self.local, path)
        entries = self.files(path)
        for folder in self.folders(path):
            entries += self.below(f"{path}/{folder}".lstrip("/"))
        return sorted(entries, key=lambda entry: entry.path)

    def stamped(self, entries: list[Entry]) -> list[Entry]:
        """Return entries with sizes and stamps.

        If a listing has no stamps, as over http, each file is asked for its own. If a server gives
        neither ETag nor time, the stamp stays empty; then a change that keeps the size is not
        noticed.

        Raises:
            UserError: a file's stamp can't be read.
        """
        if all(entry.stamp for entry in entries):
            return entries
        with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
            return list(pool.map(self._with_stamp, entries))

    def _with_stamp(self, entry: Entry) -> Entry:
        if entry.stamp:
            return entry
        path = entry.path
        info = with_retries(lambda: self._file_system.info(self._full_path(path)), f"{self}/{path}")
        return _entry(path, info)

    def open(self, path: str) -> RetryingFile:
        """Open a file for reading. Failures of disk or network are retried, here and at each read.

        Raises:
            UserError: it failed each time.
        """
        where = f"{self}/{path}"
        file = with_retries(lambda: self._file_system.open(self._full_path(path), "rb"), where)
        return RetryingFile(file, where)

    def read(self, path: str, start: int = 0, size: int | None = None) -> bytes:
        """Return bytes of a file. Failures of disk or network are retried.

        Args:
            path: path of the file.
            start: first byte.
            size: number of bytes; None for everything from `start`.

        Raises:
            UserError: it failed each time, or gave fewer bytes.
        """

        def part() -> bytes:
            end = None if size is None else start + size
            content: bytes = self._file_system.cat_file(self._full_path(path), start=start, end=end)
            if size is not None and len(content) != size:
                # `with_retries` does not retry EOFError. A local file is truncated forever, while
                # a network may have been interrupted.
                kind = OSError if self.local is None else EOFError
                raise kind(f"it gave {len(content)} bytes instead of {size}")
            return content

        return with_retries(part, f"{self}/{path}")

    def _full_path(self, path: str) -> str:
        """Return a path in the file system, given one in the data set's folder."""
        _, root = self._opened
        if path:
            return f"{root}/{path}"
        # The root of the file system is "" here, because its slash was stripped.
        return root or "/"

    def _list(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the name of everything in a folder, and what fsspec says about it.

        Hidden names are left out. Nothing is yielded if there is no such folder.
        """
        with self._listing_errors():
            full_path = self._full_path(path)
            if not self._file_system.isdir(full_path):
                return
            for info in self._file_system.ls(full_path, detail=True):
                # Some file systems end the names of folders with a slash.
                name = info["name"].rstrip("/").rsplit("/", 1)[-1]
                if name.startswith(".") or not name:
                    continue
                is_local_link = info.get("islink") and self.local is not None
                yield name, follow_link(info) if is_local_link else info

    @contextmanager
    def _listing_errors(self) -> Iterator[None]:
        """Raise errors of listing as UserError."""
        try:
            yield
        except UserError:
            raise
        # Each kind of storage has errors of its own: no credentials, no such bucket, no network.
        except Exception as error:
            raise UserError(
                f"data.path {self.url} can't be listed ({one_line(error)}); check the address and "
                "your credentials"
            ) from None


def _entry(path: str, info: dict[str, Any]) -> Entry:
    stamp = next((info[key] for key in _STAMPS if info.get(key) is not None), "")
    return Entry(path, int(info.get("size") or 0), str(stamp))


@dataclass(frozen=True)
class LazyBytes:
    """A file or a part of one, not read yet.

    Attributes:
        files: the data set's files.
        path: path of the file.
        start: first byte.
        size: number of bytes; None for everything from `start`.
    """

    files: Files
    path: str
    start: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """Return the bytes; see `Files.read`.

        Raises:
            UserError: reading failed each time, or gave fewer bytes than `size`.
        """
        return self.files.read(self.path, self.start, self.size)

    @property
    def leads_nowhere(self) -> bool:
        """True for a whole file on this machine that is a dangling link."""
        local = self.files.local if self.size is None else None
        return local is not None and leads_nowhere(local / self.path)

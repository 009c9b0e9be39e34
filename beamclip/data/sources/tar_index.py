"""Index the samples of a tar shard in one pass over its headers.

A sample's label is its `.cls`, or its `.json` if it has no `.cls`.
"""

import json
import tarfile
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import normpath
from typing import IO, Any, cast

from beamclip.config import UserError
from beamclip.data.files import Files

SUFFIXES = {".cls", ".json"}


def key_of(name: str) -> str:
    """Return the key of a sample: a file's name up to the first dot, with its folder."""
    path = PurePosixPath(name)
    return str(path.parent / path.name.split(".", 1)[0])


class Labels:
    """Collects the labels of a shard. A `.json` may hold anything if a `.cls` has the label."""

    def __init__(self) -> None:
        self._cls: dict[str, int] = {}
        self._json: dict[str, int] = {}
        # The .json files without a label, by sample.
        self._without_label: dict[str, str] = {}

    def add(self, key: str, suffix: str, content: Any, where: str) -> None:
        """Add the label that a member of the tar holds.

        Args:
            key: of the sample.
            suffix: `.cls` or `.json`.
            content: the open member.
            where: its name, for messages.

        Raises:
            UserError: a `.cls` holds no class index.
        """
        value = None if content is None else _index_in(content.read(), suffix)
        if value is not None:
            (self._cls if suffix == ".cls" else self._json)[key] = value
        elif suffix == ".cls":
            raise _no_index(where)
        else:
            self._without_label[key] = where

    def resolved(self, images: Set[str]) -> dict[str, int]:
        """Return the label of each sample.

        Empty if there is no `.cls` and no `.json` belongs to an image: these describe the whole
        set.

        Args:
            images: the samples that have an image.

        Raises:
            UserError: a sample has a `.json` without a class index and no `.cls`.
        """
        labels = self._json | self._cls
        for key, where in self._without_label.items():
            if key in images and key not in labels:
                raise _no_index(where)
        return labels if self._cls or labels.keys() & images else {}


def _index_in(text: bytes, suffix: str) -> int | None:
    try:
        value = int(text) if suffix == ".cls" else json.loads(text)
    # RecursionError comes from deeply nested lists.
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
    return value if type(value) is int and value >= 0 else None


def _no_index(where: str) -> UserError:
    return UserError(
        f"{where} holds no class index; write a whole number from 0 (in .json as label or cls)"
    )


IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif"}
READ_VERSION = 2
"""Raised whenever other samples or labels are read from the same shards; in the fingerprint."""

Label = int | str
"""A class index, or the name of an image's folder."""


@dataclass(frozen=True)
class Sample:
    """One image in a shard: its name, the offset and number of its bytes, its label."""

    name: str
    start: int
    size: int
    label: Label


def samples_in(files: Files, path: str) -> list[Sample]:
    """Return the samples of a shard, in its order.

    A shard with `.cls` members, or `.json` ones that belong to images, is read as WebDataset
    writes it: files with the same name up to the first dot belong together, `.cls` is preferred to
    `.json` as the label, and the image is the one with a plain ending (`.jpg`, not `.seg.png`), or
    the only one. In any other shard, every image is a sample of the class that its folder names.

    Raises:
        UserError: the shard can't be read, is damaged or compressed, or a sample has no image,
            several, or no label.
    """
    where = f"{files}/{path}"
    images, labels = _members(files, path)
    if not labels:
        samples = []
        for name, member in images.items():
            folder = _folder(name, where)
            samples.append(Sample(name, member.offset_data, member.size, folder))
        return samples
    chosen = _one_each(images, where)
    missing = sorted(chosen.keys() ^ labels.keys())
    if missing:
        what = "image" if missing[0] in labels else "label"
        raise UserError(
            f"{where} has no {what} for the sample {missing[0]}; a sample needs an image and "
            "a .cls or .json"
        )
    samples = []
    for key, name in chosen.items():
        member = images[name]
        samples.append(Sample(name, member.offset_data, member.size, labels[key]))
    return samples


def begins_labelled(files: Files, path: str) -> bool:
    """Return whether a shard's first image has a label next to it, as WebDataset writes them.

    Reads only a few headers.
    """
    labels: set[str] = set()
    image = None
    with _opened(files, path) as tar:
        for member in filter(_counts, tar):
            key, suffix = key_of(member.name), _suffix(member)
            if image is not None and key != image:
                return False
            if suffix in SUFFIXES:
                labels.add(key)
            if suffix in IMAGE_SUFFIXES:
                image = key
            if image in labels:
                return True
    return False


@contextmanager
def _opened(files: Files, path: str) -> Iterator[tarfile.TarFile]:
    try:
        with files.open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{files}/{path} can't be read as an uncompressed tar ({error}); unpack it with gunzip "
            "or download it again"
        ) from None


def _members(files: Files, path: str) -> tuple[dict[str, tarfile.TarInfo], dict[str, int]]:
    """Return images by their names, and labels by the keys of their samples."""
    images: dict[str, tarfile.TarInfo] = {}
    labels = Labels()
    with _opened(files, path) as tar:
        for member in filter(_counts, tar):
            suffix = _suffix(member)
            where = f"{files}/{path} {member.name}"
            if suffix in SUFFIXES:
                labels.add(key_of(member.name), suffix, _content(tar, member, where), where)
            elif member.name in images:
                raise UserError(
                    f"{where} occurs twice, and only one would count; give every sample a name of "
                    "its own"
                )
            elif suffix in IMAGE_SUFFIXES:
                images[member.name] = member
        _check_end(tar)
        keys = {key_of(name) for name in images}
        return _follow_links(images, tar, f"{files}/{path}"), labels.resolved(keys)


def _counts(member: tarfile.TarInfo) -> bool:
    """Return whether a member is a file or a link, and not hidden."""
    is_hidden = PurePosixPath(member.name).name.startswith(".")
    return (member.isfile() or member.islnk() or member.issym()) and not is_hidden


def _suffix(member: tarfile.TarInfo) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> IO[bytes] | None:
    try:
        return tar.extractfile(member)
    # RecursionError comes from a link to itself.
    except (KeyError, RecursionError):
        raise UserError(
            f"{where} is a link to {member.linkname}, which is no file in the shard; write the "
            "label itself"
        ) from None


def _follow_links(
    images: dict[str, tarfile.TarInfo], tar: tarfile.TarFile, where: str
) -> dict[str, tarfile.TarInfo]:
    """Return the images, with links replaced by their targets in the same tar."""
    if all(member.isfile() for member in images.values()):
        return images
    targets = {normpath(member.name): member for member in tar.getmembers() if member.isfile()}
    followed = {}
    for name, member in images.items():
        if member.isfile():
            followed[name] = member
            continue
        folder = "" if member.islnk() else str(PurePosixPath(member.name).parent)
        target = targets.get(normpath(f"{folder}/{member.linkname}".lstrip("/")))
        if target is None:
            raise UserError(
                f"{where} has {member.name} as a link to {member.linkname}, which is no file in "
                "it; write the image itself"
            )
        followed[name] = target
    return followed


def _one_each(images: Iterable[str], where: str) -> dict[str, str]:
    """Return the image of each sample, by the sample's key."""
    names_by_key: dict[str, list[str]] = {}
    for name in images:
        names_by_key.setdefault(key_of(name), []).append(name)
    return {key: _choose_image(names, where) for key, names in names_by_key.items()}


def _choose_image(names: list[str], where: str) -> str:
    """Return the only image of a sample, or the only one with a plain ending."""
    if len(names) == 1:
        return names[0]
    plain = []
    for name in names:
        ending = PurePosixPath(name).name.partition(".")[2].lower()
        if f".{ending}" in IMAGE_SUFFIXES:
            plain.append(name)
    if len(plain) == 1:
        return plain[0]
    raise UserError(
        f"{where} has {names[0]} and {names[1]} in one sample; leave one of them with a plain "
        "ending such as .jpg"
    )


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise ReadError if a tar does not end with blocks of zeros.

    `tarfile` also stops, without an error, at a damaged header and where a file was cut between two
    members.
    """
    file = cast(IO[bytes], tar.fileobj)
    file.seek(tar.offset)
    size = 0
    while part := file.read(2**20):
        if part.count(0) < len(part):
            raise tarfile.ReadError(f"no header where one should be, at byte {tar.offset}")
        size += len(part)
    if size < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("cut short: it has no end")


def _folder(name: str, where: str) -> str:
    folder = PurePosixPath(name).parent.name
    if not folder:
        raise UserError(
            f"{where} has the image {name} without a label; add a .cls next to it or put it into a "
            "folder of its class"
        )
    return folder

"""Where the samples of a tar shard lie, from one pass over its headers."""

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

# The labels of a tar shard's samples: `.cls`, or `.json` where there is none.


SUFFIXES = {".cls", ".json"}


def key_of(name: str) -> str:
    """What the files of one sample share: the name up to the first dot, with its folder."""
    path = PurePosixPath(name)
    return str(path.parent / path.name.split(".", 1)[0])


class Labels:
    """Labels as they come in a shard. A `.json` may hold anything else where a `.cls` says the label."""

    def __init__(self) -> None:
        self._cls: dict[str, int] = {}
        self._json: dict[str, int] = {}
        self._lacking: dict[str, str] = {}  # where a .json without a label lies, by sample

    def add(self, key: str, suffix: str, content: Any, where: str) -> None:
        """Take what a member holds.

        Raises:
            UserError: a `.cls` holds no class index.
        """
        value = None if content is None else _index_in(content.read(), suffix)
        if value is not None:
            (self._cls if suffix == ".cls" else self._json)[key] = value
        elif suffix == ".cls":
            raise _no_index(where)
        else:
            self._lacking[key] = where

    def resolved(self, images: Set[str]) -> dict[str, int]:
        """The label of each sample; none where there is no `.cls` and no `.json` is an image's: these tell of the whole set.

        Args:
            images: the samples that have an image.

        Raises:
            UserError: a sample has a `.json` without a class index and no `.cls`.
        """
        labels = self._json | self._cls
        for key, where in self._lacking.items():
            if key in images and key not in labels:
                raise _no_index(where)
        return labels if self._cls or labels.keys() & images else {}


def _index_in(text: bytes, suffix: str) -> int | None:
    try:
        value = int(text) if suffix == ".cls" else json.loads(text)
    except (ValueError, RecursionError):  # the latter from lists in lists in lists
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
"""Goes up whenever other samples or labels are read from the same shards, so that no old store is taken for a new one."""

Label = int | str
"""A class index, or the name of the folder an image lies in."""


@dataclass(frozen=True)
class Sample:
    """One image in a shard: its name there, the offset and number of its bytes, its label."""

    name: str
    start: int
    size: int
    label: Label


def samples_in(files: Files, path: str) -> list[Sample]:
    """The samples of a shard, in its order.

    A shard with `.cls` members, or `.json` ones beside images, is read as WebDataset writes it: files with the same name up to the
    first dot belong together, `.cls` is the label before `.json`, and the image is the one whose whole ending is an image's (`.jpg`,
    not `.seg.png`), or else the only one there is. In any other, every image is a sample of the class whose folder it lies in.

    Raises:
        UserError: the shard can't be read, is damaged or compressed, or a sample has no image, several, or no label.
    """
    where = f"{files}/{path}"
    images, labels = _members(files, path)
    if not labels:
        return [
            Sample(name, m.offset_data, m.size, _folder(name, where)) for name, m in images.items()
        ]
    chosen = _one_each(images, where)
    missing = sorted(chosen.keys() ^ labels.keys())
    if missing:
        what = "image" if missing[0] in labels else "label"
        raise UserError(
            f"{where} has no {what} for the sample {missing[0]}; a sample needs an image and a .cls or .json"
        )
    places = ((name, images[name], labels[key]) for key, name in chosen.items())
    return [Sample(name, member.offset_data, member.size, label) for name, member, label in places]


def begins_labelled(files: Files, path: str) -> bool:
    """Whether a shard's first image has a label right before or behind it, as WebDataset writes them: read from a few headers."""
    labels, image = set[str](), None
    with _opened(files, path) as tar:
        for member in filter(_counts, tar):
            key, suffix = key_of(member.name), _suffix(member)
            if image is not None and key != image:
                return False
            labels |= {key} if suffix in SUFFIXES else set()
            image = key if suffix in IMAGE_SUFFIXES else image
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
            f"{files}/{path} can't be read as an uncompressed tar ({error}); unpack it with gunzip or fetch it again"
        ) from None


def _members(files: Files, path: str) -> tuple[dict[str, tarfile.TarInfo], dict[str, int]]:
    """Images by their names, and labels by their samples'."""
    images, labels = dict[str, tarfile.TarInfo](), Labels()
    with _opened(files, path) as tar:
        for member in filter(_counts, tar):
            suffix, where = _suffix(member), f"{files}/{path} {member.name}"
            if suffix in SUFFIXES:
                labels.add(key_of(member.name), suffix, _content(tar, member, where), where)
            elif member.name in images:
                raise UserError(
                    f"{where} is there twice, and only one would count; give every sample a name of its own"
                )
            elif suffix in IMAGE_SUFFIXES:
                images[member.name] = member
        _check_end(tar)
        return _linked(images, tar, f"{files}/{path}"), labels.resolved(set(map(key_of, images)))


def _counts(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file or a link, and not hidden."""
    return (member.isfile() or member.islnk() or member.issym()) and not PurePosixPath(
        member.name
    ).name.startswith(".")


def _suffix(member: tarfile.TarInfo) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> IO[bytes] | None:
    try:
        return tar.extractfile(member)
    except (KeyError, RecursionError):  # the latter from a link to itself
        raise UserError(
            f"{where} is a link to {member.linkname}, no file in the shard; write the label itself"
        ) from None


def _linked(
    images: dict[str, tarfile.TarInfo], tar: tarfile.TarFile, where: str
) -> dict[str, tarfile.TarInfo]:
    """Images that are links to others in the same tar, with these in their place."""
    if all(member.isfile() for member in images.values()):
        return images
    there = {normpath(member.name): member for member in tar.getmembers() if member.isfile()}

    def followed(member: tarfile.TarInfo) -> tarfile.TarInfo:
        folder = "" if member.islnk() else str(PurePosixPath(member.name).parent)
        target = there.get(normpath(f"{folder}/{member.linkname}".lstrip("/")))
        if target is None:
            raise UserError(
                f"{where} has {member.name} as a link to {member.linkname}, no file in it; write the image itself"
            )
        return target

    return {
        name: member if member.isfile() else followed(member) for name, member in images.items()
    }


def _one_each(images: Iterable[str], where: str) -> dict[str, str]:
    """The image of each sample."""
    found = dict[str, list[str]]()
    for name in images:
        found.setdefault(key_of(name), []).append(name)
    return {
        key: names[0] if len(names) == 1 else _the_image(names, where)
        for key, names in found.items()
    }


def _the_image(names: list[str], where: str) -> str:
    plain = [
        name
        for name in names
        if f".{PurePosixPath(name).name.partition('.')[2].lower()}" in IMAGE_SUFFIXES
    ]
    if len(plain) == 1:
        return plain[0]
    raise UserError(
        f"{where} has {names[0]} and {names[1]} in one sample; leave one of them with a plain ending such as .jpg"
    )


def _check_end(tar: tarfile.TarFile) -> None:
    """A tar ends with blocks of zeros. `tarfile` takes a damaged header, and a file cut between two members, for the end as well."""
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
            f"{where} has the image {name} without a label; add a .cls beside it or put it into a folder of its class"
        )
    return folder

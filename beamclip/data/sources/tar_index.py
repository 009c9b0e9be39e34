"""Index the samples of a tar shard in one pass over its headers.

A sample's label is in its `.cls` file, or in its `.json` if it has no `.cls`.
"""

import json
import tarfile
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from posixpath import normpath
from typing import IO, cast

from beamclip.config import UserError
from beamclip.data.files import Files

LABEL_SUFFIXES = {".cls", ".json"}
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif"}
READ_VERSION = 2
"""Increase it if other samples or labels are read from the same shards. In the fingerprint."""

Label = int | str
"""A class index, or the name of an image's folder."""


def key_of(name: str) -> str:
    """Return the key of the sample that a file belongs to: its path up to the name's first dot."""
    path = PurePosixPath(name)
    return str(path.parent / path.name.split(".", 1)[0])


class Labels:
    """Collects the labels of a shard. A `.json` may hold anything if a `.cls` has the label."""

    def __init__(self) -> None:
        self._cls: dict[str, int] = {}
        self._json: dict[str, int] = {}
        # By sample: names of the .json files without a label, and whether they list several.
        self._without_label: dict[str, tuple[str, bool]] = {}

    def add(self, key: str, suffix: str, content: IO[bytes] | None, where: str) -> None:
        """Add the label in a member of the tar.

        Args:
            key: key of the sample.
            suffix: `.cls` or `.json`.
            content: the open member; None if `tarfile` can't open it.
            where: its name, for messages.

        Raises:
            UserError: a `.cls` holds no class index.
        """
        text = b"" if content is None else content.read()
        index = None if content is None else _class_index(text, suffix)
        if suffix == ".cls":
            if index is None:
                raise _no_class_index(where, _is_list(text, suffix))
            self._cls[key] = index
        elif index is None:
            # It is an error only if the sample turns out to have an image and no .cls.
            self._without_label[key] = (where, _is_list(text, suffix))
        else:
            self._json[key] = index

    def resolved(self, images: Set[str]) -> dict[str, int]:
        """Return the label of each sample.

        The result is empty if there is no `.cls` and no `.json` belongs to an image. Such `.json`
        files describe the whole data set.

        Args:
            images: the samples that have an image.

        Raises:
            UserError: a sample has a `.json` without a class index and no `.cls`.
        """
        labels = self._json | self._cls
        for key, (where, is_list) in self._without_label.items():
            if key in images and key not in labels:
                raise _no_class_index(where, is_list)
        has_labels = self._cls or labels.keys() & images
        return labels if has_labels else {}


def _class_index(text: bytes, suffix: str) -> int | None:
    """Return the class index in a `.cls` or `.json`, or None."""
    try:
        value = int(text) if suffix == ".cls" else json.loads(text)
    # RecursionError comes from deeply nested lists.
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = value.get("label", value.get("cls"))
    # `isinstance` would also accept true and false.
    is_index = type(value) is int and value >= 0
    return value if is_index else None


def _is_list(text: bytes, suffix: str) -> bool:
    """Return whether a `.cls` or `.json` holds several labels."""
    if suffix == ".cls":
        parts = text.replace(b",", b" ").split()
        return len(parts) > 1 and all(part.isdigit() for part in parts)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(value, dict):
        value = value.get("label", value.get("cls", value.get("labels")))
    return isinstance(value, list)


def _no_class_index(where: str, is_list: bool) -> UserError:
    if is_list:
        return UserError(
            f"{where} holds a list of labels, but an image has one class here; write one whole "
            "number from 0, for example the main label, and leave the others out"
        )
    return UserError(
        f"{where} holds no class index; write a whole number from 0 (in .json as label or cls)"
    )


@dataclass(frozen=True)
class Sample:
    """One image in a shard.

    Attributes:
        name: the image's path in the tar.
        start: offset of its first byte in the shard.
        size: size in bytes.
        label: its class.
    """

    name: str
    start: int
    size: int
    label: Label


def samples_in(files: Files, path: str) -> list[Sample]:
    """Return the samples of a shard, in its order.

    A shard has labels if it holds `.cls` files, or `.json` files that belong to images. It is then
    read as WebDataset writes it: files with the same path up to the first dot are one sample. If a
    sample has several images, the one with a plain ending counts (`.jpg`, not `.seg.png`).

    In a shard without labels, every image is a sample, and its folder is its class.

    Raises:
        UserError: the shard can't be read, is damaged or compressed, or a sample has no image,
            several, or no label.
    """
    where = f"{files}/{path}"
    images, labels, texts = _members(files, path)
    samples: list[Sample] = []
    if not labels:
        for name, member in images.items():
            folder = _folder(name, where, key_of(name) in texts)
            samples.append(Sample(name, member.offset_data, member.size, folder))
        return samples
    image_of_sample = _choose_images(images, where)
    incomplete = sorted(image_of_sample.keys() ^ labels.keys())
    if incomplete:
        missing = "image" if incomplete[0] in labels else "label"
        raise UserError(
            f"{where} has no {missing} for the sample {incomplete[0]}; a sample needs an image and "
            "a .cls or .json"
        )
    for key, name in image_of_sample.items():
        member = images[name]
        samples.append(Sample(name, member.offset_data, member.size, labels[key]))
    return samples


def begins_labeled(files: Files, path: str) -> bool:
    """Return whether a shard's first image has a label next to it, as WebDataset writes them.

    Reads only a few headers.
    """
    labeled: set[str] = set()
    first_image = None
    with _open_tar(files, path) as tar:
        for member in filter(_is_visible_file, tar):
            key = key_of(member.name)
            suffix = _suffix(member)
            # The first image's sample ends here, and it had no label.
            if first_image is not None and key != first_image:
                return False
            if suffix in LABEL_SUFFIXES:
                labeled.add(key)
            if suffix in IMAGE_SUFFIXES:
                first_image = key
            if first_image in labeled:
                return True
    return False


def folders_in(files: Files, path: str) -> set[str] | None:
    """Return the names of the folders that a shard's images are in; None if it has labels.

    Raises:
        UserError: the shard can't be read or is damaged.
    """
    images, labels, _ = _members(files, path)
    return None if labels else {PurePosixPath(name).parent.name for name in images}


@contextmanager
def _open_tar(files: Files, path: str) -> Iterator[tarfile.TarFile]:
    """Open a shard for reading.

    Raises:
        UserError: it can't be read, is damaged, or is compressed.
    """
    try:
        # "r:" refuses compressed tars, because images are read at their offsets in the file.
        with files.open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield tar
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"{files}/{path} can't be read as an uncompressed tar ({error}); unpack it with gunzip "
            "or download it again"
        ) from None


def _members(
    files: Files, path: str
) -> tuple[dict[str, tarfile.TarInfo], dict[str, int], set[str]]:
    """Return images by their names, labels by the keys of their samples, and keys with a `.txt`.

    Raises:
        UserError: the shard can't be read, an image's name occurs twice, or a label is missing.
    """
    images: dict[str, tarfile.TarInfo] = {}
    labels = Labels()
    texts: set[str] = set()
    with _open_tar(files, path) as tar:
        for member in filter(_is_visible_file, tar):
            suffix = _suffix(member)
            where = f"{files}/{path} {member.name}"
            if suffix in LABEL_SUFFIXES:
                content = _open_label(tar, member, where)
                labels.add(key_of(member.name), suffix, content, where)
            elif member.name in images:
                raise UserError(
                    f"{where} occurs twice, and only one would count; give every sample "
                    "its own name"
                )
            elif suffix in IMAGE_SUFFIXES:
                images[member.name] = member
            elif suffix == ".txt":
                texts.add(key_of(member.name))
        _check_end(tar)
        keys = {key_of(name) for name in images}
        followed = _follow_links(images, tar, f"{files}/{path}")
        return followed, labels.resolved(keys), texts


def _is_visible_file(member: tarfile.TarInfo) -> bool:
    """Return whether a member is a file or a link, and not hidden."""
    is_hidden = PurePosixPath(member.name).name.startswith(".")
    return (member.isfile() or member.islnk() or member.issym()) and not is_hidden


def _suffix(member: tarfile.TarInfo) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _open_label(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> IO[bytes] | None:
    """Open a member; links are followed.

    Raises:
        UserError: a link leads to nothing in the tar, or to itself.
    """
    try:
        return tar.extractfile(member)
    # RecursionError comes from a link to itself.
    except (KeyError, RecursionError):
        raise UserError(
            f"{where} is a link to {member.linkname}, which is not a file in the shard; write the "
            "label itself"
        ) from None


def _follow_links(
    images: dict[str, tarfile.TarInfo], tar: tarfile.TarFile, where: str
) -> dict[str, tarfile.TarInfo]:
    """Return the images, with links replaced by their targets in the same tar.

    Raises:
        UserError: a link's target is not a file in the tar.
    """
    if all(member.isfile() for member in images.values()):
        return images
    targets = {normpath(member.name): member for member in tar.getmembers() if member.isfile()}
    followed = {}
    for name, member in images.items():
        if member.isfile():
            followed[name] = member
            continue
        # A hard link holds a path in the tar, a symbolic link one relative to its own folder.
        folder = "" if member.islnk() else str(PurePosixPath(member.name).parent)
        target = targets.get(normpath(f"{folder}/{member.linkname}".lstrip("/")))
        if target is None:
            raise UserError(
                f"{where} has {member.name} as a link to {member.linkname}, which is not a file in "
                "it; write the image itself"
            )
        followed[name] = target
    return followed


def _choose_images(images: Iterable[str], where: str) -> dict[str, str]:
    """Return the image of each sample, by the sample's key."""
    names_by_key: dict[str, list[str]] = {}
    for name in images:
        names_by_key.setdefault(key_of(name), []).append(name)
    return {key: _choose_image(names, where) for key, names in names_by_key.items()}


def _choose_image(names: list[str], where: str) -> str:
    """Return the only image of a sample, or the only one with a plain ending.

    Raises:
        UserError: several images could be meant.
    """
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

    At a damaged header, or where a file was cut between two members, `tarfile` stops without an
    error as if the tar ended there.
    """
    file = cast(IO[bytes], tar.fileobj)
    file.seek(tar.offset)
    zeros = 0
    while part := file.read(2**20):
        if part.count(0) < len(part):
            raise tarfile.ReadError(f"no header where one should be, at byte {tar.offset}")
        zeros += len(part)
    if zeros < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("cut short: it has no end")


def _folder(name: str, where: str, has_text: bool) -> str:
    """Return the name of an image's folder.

    Args:
        name: name of the image.
        where: name of the shard, for messages.
        has_text: whether there is a `.txt` next to it, usually a caption.

    Raises:
        UserError: it is in no folder.
    """
    folder = PurePosixPath(name).parent.name
    if not folder and has_text:
        raise UserError(
            f"{where} has only a .txt next to the image {name}, which is not read as a label "
            "because it may be a caption; write the class index, a whole number from 0, as .cls"
        )
    if not folder:
        raise UserError(
            f"{where} has the image {name} without a label; add a .cls next to it or put it into a "
            "folder of its class"
        )
    return folder

"""Where the samples of a tar shard lie, from one pass over its headers."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any

from beamclip.config import UserError
from beamclip.data.files import Files

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif"}
_LABEL_SUFFIXES = {".cls", ".json"}
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

    A shard with `.cls` or `.json` members is read as WebDataset writes it: files with the same name up to the first dot belong
    together. In any other, every image is a sample of the class whose folder it lies in.

    Raises:
        UserError: the shard is damaged or compressed, or a sample has no image or no label.
    """
    images, labels = dict[str, tarfile.TarInfo](), dict[str, int]()
    for member, label in _members(files, path):
        if label is not None:
            labels[_key(member.name)] = label
        else:
            images[member.name] = member
    if not labels:
        return [Sample(name, m.offset_data, m.size, _folder(name, f"{files}/{path}")) for name, m in images.items()]
    missing = sorted({_key(name) for name in images} ^ labels.keys())
    if missing:
        what = "image" if missing[0] in labels else "label"
        raise UserError(f"{files}/{path} has no {what} for the sample {missing[0]}; a sample needs an image and a .cls or .json")
    return [Sample(name, m.offset_data, m.size, labels[_key(name)]) for name, m in images.items()]


def _members(files: Files, path: str) -> Iterator[tuple[tarfile.TarInfo, int | None]]:
    """Images with None, and labels read."""
    try:
        with files.open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                suffix = PurePosixPath(member.name).suffix.lower()
                if not member.isfile() or PurePosixPath(member.name).name.startswith("."):
                    continue
                if suffix in _LABEL_SUFFIXES:
                    yield member, _label(tar.extractfile(member), suffix, f"{files}/{path} {member.name}")
                elif suffix in IMAGE_SUFFIXES:
                    yield member, None
            _check_end(file, tar.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{files}/{path} can't be read as an uncompressed tar ({error}); unpack it with gunzip or fetch it again") from None


def _check_end(file: IO[bytes], offset: int) -> None:
    """A tar ends with blocks of zeros. `tarfile` takes a damaged header, and a file cut between two members, for the end as well."""
    file.seek(offset)
    size = 0
    while part := file.read(2**20):
        if part.count(0) < len(part):
            raise tarfile.ReadError(f"no header where one should be, at byte {offset}")
        size += len(part)
    if size < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("cut short: it has no end")


def _label(content: Any, suffix: str, where: str) -> int:
    text = content.read()
    try:
        value = int(text) if suffix == ".cls" else json.loads(text)
        if isinstance(value, dict):
            value = value.get("label", value.get("cls"))
        if isinstance(value, int) and value >= 0:
            return value
    except ValueError:
        pass
    raise UserError(f"{where} holds no class index; write a whole number from 0 (in .json as label or cls)") from None


def _key(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.parent / path.name.split(".", 1)[0])


def _folder(name: str, where: str) -> str:
    folder = PurePosixPath(name).parent.name
    if not folder:
        raise UserError(f"{where} has the image {name} without a label; add a .cls beside it or put it into a folder of its class")
    return folder

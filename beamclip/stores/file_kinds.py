"""Describe files of weights in messages: what a file is by its first bytes, and which keys differ.

Nothing is unpickled, and no torch is imported.
"""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

# What a file begins with -> what it is and what to do about it.
_NOT_WEIGHTS = {
    b"version https://git-lfs": (
        "a Git LFS pointer instead of the file",
        "run git lfs pull where it was cloned",
    ),
    b"<": ("a web page or XML", "download the file itself, not the page that shows it"),
    b"{": ("JSON", "give the file of weights"),
    b"\x89HDF": ("an HDF5 file", "convert it to safetensors"),
    b"\x1f\x8b": ("a gzip archive", "unpack it"),
}
_HEAD_BYTES = 512
# Length of a safetensors header, in front of it.
_LENGTH_BYTES = 8
# The longest header that safetensors reads.
_MAX_HEADER_BYTES = 100_000_000
_SHOWN = 3
"""Keys of each kind that a message lists."""


def file_kind(path: Path) -> tuple[str, str]:
    """Return what a file is, and what to do about it if it can't be weights.

    Args:
        path: a file that the user gave as weights.

    Returns:
        Words such as `a torch checkpoint` and the advice; the advice is empty for weights.
    """
    if path.is_dir():
        return "a folder", "give the file of weights in it"
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        return f"unreadable: {error.strerror}", "check the path"
    if not head:
        return "empty", "copy or download it again"
    # First, since a header's length may look like the beginning of another kind.
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if head[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{" and length < _MAX_HEADER_BYTES:
        if path.stat().st_size < _safetensors_size(path, length):
            return "an incomplete safetensors file", "copy or download it again"
        return "a safetensors file", ""
    for start, (kind, advice) in _NOT_WEIGHTS.items():
        if head.lstrip().lower().startswith(start.lower()):
            return kind, advice
    if zipfile.is_zipfile(path):
        return _zip_kind(path)
    # `PK` without a directory of files, which is at a zip file's end.
    if head.startswith(b"PK"):
        return "an incomplete torch checkpoint", "copy or download it again"
    # The pickle of older versions of torch.
    if head.startswith(b"\x80"):
        return "a torch checkpoint", ""
    if _is_text(head):
        return "a text file", "give the file of weights"
    return "neither safetensors nor a torch checkpoint", "check the path or download it again"


def _safetensors_size(path: Path, length: int) -> int:
    """Return the size that a safetensors file has at least by its header, which has a length."""
    start = _LENGTH_BYTES + length
    with path.open("rb") as file:
        header = file.read(start)[_LENGTH_BYTES:]
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for entry in entries.values() if "data_offsets" in entry]
        return start + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        # The header is cut or damaged; of a damaged one, the reader of safetensors says what it is.
        return start


def _zip_kind(path: Path) -> tuple[str, str]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("data.pkl") for name in names):
        return "a torch checkpoint", ""
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive", ""
    return "a zip archive without weights of torch", "unpack it"


def _is_text(head: bytes) -> bool:
    try:
        # A character may be cut at the end.
        head.decode("utf-8", errors="strict" if len(head) < _HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def describe_differences(
    missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str] = ()
) -> str:
    """Return how the keys of weights differ from a model's; at most three of each kind are listed.

    Args:
        missing: keys that only the model has.
        unexpected: keys that only the weights have.
        shapes: keys whose shapes differ, each with both shapes.
    """
    parts = []
    if missing:
        parts.append(f"they lack {_first(missing)}")
    if unexpected:
        parts.append(f"they have {_first(unexpected)}")
    if shapes:
        parts.append(f"shapes differ: {_first(shapes)}")
    return "; ".join(parts)


def _first(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    listed = ", ".join(names[:_SHOWN])
    return f"{listed} and {more} more" if more > 0 else listed

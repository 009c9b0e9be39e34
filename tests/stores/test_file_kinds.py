"""What messages say about files of weights that are something else."""

import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from beamclip.stores.file_kinds import describe_differences, file_kind

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 605\n"


@pytest.mark.parametrize(
    ("content", "kind", "advice"),
    [
        (b"", "empty", "copy or download it again"),
        (LFS_POINTER, "a Git LFS pointer instead of the file", "run git lfs pull"),
        (b"<!DOCTYPE html>\n<html>", "a web page or XML", "download the file itself"),
        (b"\n <HTML>", "a web page or XML", "download the file itself"),
        (b'{"message": "Not found"}', "JSON", "give the file of weights"),
        (b"Access denied\n", "a text file", "give the file of weights"),
        (b"PK\x03\x04 cut", "an incomplete torch checkpoint", "copy or download it again"),
        (b"\x80\x02}q\0.", "a torch checkpoint", ""),
        (b"\x1f\x8b\x08\0", "a gzip archive", "unpack it"),
        (b"\0\1\2\xff" * 9, "neither safetensors nor a torch checkpoint", "check the path"),
        (b"\x10\0\0\0\0\0\0\0{", "an incomplete safetensors file", "copy or download it again"),
        # The header is complete, and the last tensor is not.
        (save({"a": torch.zeros(9)})[:-1], "an incomplete safetensors file", "copy or download"),
        # A header whose length looks like the beginning of a web page.
        (b"<\0\0\0\0\0\0\0{" + b" " * 80, "a safetensors file", ""),
        (save({"a": torch.zeros(2)}), "a safetensors file", ""),
    ],
)
def test_a_file_is_told_by_its_first_bytes(tmp_path, content, kind, advice):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    assert file_kind(path)[0] == kind
    assert file_kind(path)[1].startswith(advice)
    assert bool(file_kind(path)[1]) == bool(advice)


def test_archives_are_told_by_what_is_in_them(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "torch.pt")
    np.savez(tmp_path / "numpy.npz", a=np.zeros(2))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "text")
    assert file_kind(tmp_path / "torch.pt") == ("a torch checkpoint", "")
    assert file_kind(tmp_path / "numpy.npz") == ("a NumPy archive", "")
    assert file_kind(tmp_path / "other.zip")[0] == "a zip archive without weights of torch"


def test_a_folder_and_a_missing_file_are_told_too(tmp_path):
    assert file_kind(tmp_path)[0] == "a folder"
    assert file_kind(tmp_path / "none") == (
        "unreadable: No such file or directory",
        "check the path",
    )


def test_three_keys_of_each_kind_are_listed():
    assert describe_differences(list("abcde"), ["x"], ["w (1 for 2)"]) == (
        "they lack a, b, c and 2 more; they have x; shapes differ: w (1 for 2)"
    )

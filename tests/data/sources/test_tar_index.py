"""Broken tar shards are reported in one sentence, before anything is packed."""

import io
import tarfile

import pytest
from helpers.tars import linked, webdataset, write_tar

from beamclip.config import DataConfig, UserError
from beamclip.data import open_source


def source_of(folder, **config):
    return open_source(DataConfig(path=str(folder), **config))


def break_headers(folder, jpeg):
    path = folder / "set-train-000001.tar"
    path.write_bytes(path.read_bytes()[:700])


def offset_in(path, number):
    with tarfile.open(path) as tar:
        return tar.getmembers()[number].offset


def break_header_inside(folder, jpeg):
    path = folder / "set-train-000000.tar"
    content, at = bytearray(path.read_bytes()), offset_in(path, 4)
    content[at + 150] ^= 255
    path.write_bytes(content)


def zeros_inside(folder, jpeg):
    path = folder / "set-train-000000.tar"
    content, at = path.read_bytes(), offset_in(path, 4)
    path.write_bytes(content[:at] + bytes(1024) + content[at + 1024 :])


def cut_between_members(folder, jpeg):
    path = folder / "set-train-000000.tar"
    path.write_bytes(path.read_bytes()[: offset_in(path, 4)])


def cut_in_a_header(folder, jpeg):
    path = folder / "set-train-000000.tar"
    path.write_bytes(path.read_bytes()[: offset_in(path, 4) + 300])


def two_images(folder, jpeg):
    write_tar(folder / "set-train-000001.tar", webdataset(jpeg, [0]) | {"000000.png": jpeg()})


def two_images_of_odd_endings(folder, jpeg):
    write_tar(
        folder / "set-train-000001.tar", {"0.a.jpg": jpeg(), "0.b.jpg": jpeg(), "0.cls": b"1"}
    )


def garble_json(folder, jpeg):
    write_tar(folder / "set-train-000001.tar", {"0.jpg": jpeg(), "0.json": b'{"width": 16}'})


def link_nowhere(folder, jpeg):
    linked(
        write_tar(folder / "set-train-000001.tar", {"000000.cls": b"0"}),
        "000000.jpg",
        "gone.jpg",
        tarfile.LNKTYPE,
    )


def label_linked_to_itself(folder, jpeg):
    linked(
        write_tar(folder / "set-train-000001.tar", {"0.jpg": jpeg()}),
        "0.cls",
        "0.cls",
        tarfile.SYMTYPE,
    )


def nested_json(folder, jpeg):
    write_tar(folder / "set-train-000001.tar", {"0.jpg": jpeg(), "0.json": b"[" * 100_000})


def one_key_twice(folder, jpeg):
    with tarfile.open(folder / "set-train-000001.tar", "w") as tar:
        for name, content in 2 * [("0.jpg", jpeg()), ("0.cls", b"1")]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def nothing(folder, jpeg):
    for path in folder.glob("set-train-*.tar"):
        write_tar(path, {})


def compress(folder, jpeg):
    write_tar(folder / "set-train-000001.tar", webdataset(jpeg, [0]), "w:gz")


def drop_label(folder, jpeg):
    write_tar(folder / "set-train-000001.tar", webdataset(jpeg, [0]) | {"000009.jpg": jpeg()})


def drop_image(folder, jpeg):
    write_tar(folder / "set-train-000001.tar", webdataset(jpeg, [0]) | {"000009.cls": b"1"})


def garble_label(folder, jpeg):
    write_tar(folder / "set-train-000001.tar", {"0.jpg": jpeg(), "0.cls": b"ant"})


def too_large_a_label(folder, jpeg):
    write_tar(folder / "set-train-000001.tar", webdataset(jpeg, [3]))


def latin_name(folder, jpeg):
    with tarfile.open(
        folder / "set-train-000001.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1"
    ) as tar:
        for name, content in {"caf\xe9.jpg": jpeg(), "caf\xe9.cls": b"1"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def latin_classes(folder, jpeg):
    (folder / "classnames.txt").write_bytes("th\xe9\ncaf\xe9\n".encode("latin-1"))


def twice_a_class(folder, jpeg):
    (folder / "classnames.txt").write_text("ant\nbee\nant\n")


def no_name_in_a_line(folder, jpeg):
    (folder / "classnames.txt").write_text("ant\n\ncow\n")


def no_names(folder, jpeg):
    (folder / "classnames.txt").unlink()


def no_test(folder, jpeg):
    (folder / "set-val-000000.tar").unlink()


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (break_headers, r"set-train-000001.tar can't be read as an uncompressed tar \("),
        (
            break_header_inside,
            (
                r"set-train-000000.tar can't be read as an uncompressed tar \(no header where one "
                r"should be, at byte"
            ),
        ),
        (
            zeros_inside,
            (
                r"set-train-000000.tar can't be read as an uncompressed tar \(no header where one "
                r"should be, at byte"
            ),
        ),
        (
            cut_between_members,
            (
                r"set-train-000000.tar can't be read as an uncompressed tar \(cut short: it has no "
                r"end\)"
            ),
        ),
        (
            cut_in_a_header,
            (
                r"set-train-000000.tar can't be read as an uncompressed tar \(no header where one "
                r"should be, at byte"
            ),
        ),
        (compress, r"set-train-000001.tar can't be read as an uncompressed tar \("),
        (drop_label, "set-train-000001.tar has no label for the sample 000009; "),
        (drop_image, "set-train-000001.tar has no image for the sample 000009; "),
        (
            two_images,
            (
                "set-train-000001.tar has 000000.jpg and 000000.png in one sample; "
                "leave one of them with a plain ending"
            ),
        ),
        (two_images_of_odd_endings, "set-train-000001.tar has 0.a.jpg and 0.b.jpg in one sample; "),
        (garble_json, "set-train-000001.tar 0.json holds no class index; "),
        (
            link_nowhere,
            (
                "set-train-000001.tar has 000000.jpg as a link to gone.jpg, which is not a file in "
                "it; write the image itself"
            ),
        ),
        (
            label_linked_to_itself,
            (
                "set-train-000001.tar 0.cls is a link to 0.cls, which is not a file in the shard; "
                "write the label itself"
            ),
        ),
        (nested_json, "set-train-000001.tar 0.json holds no class index; "),
        (
            one_key_twice,
            (
                "set-train-000001.tar 0.jpg occurs twice, and only one would count; "
                "give every sample its own name"
            ),
        ),
        (nothing, "has no images in its train shards; write some"),
        (garble_label, "set-train-000001.tar 0.cls holds no class index; "),
        (
            too_large_a_label,
            "has the label 3 in its train shards, which is none of its 3 classes; ",
        ),
        (latin_name, r"has the file caf\\xe9.jpg, whose name is not UTF-8; rename it"),
        (
            latin_classes,
            "classnames.txt is not UTF-8; save it as UTF-8 text, one class name per line",
        ),
        (twice_a_class, "classnames.txt has 'ant' 2 times; every class needs its own name"),
        (no_name_in_a_line, "classnames.txt is empty in line 2; write one class name per line"),
        (
            no_names,
            "has no class names; list them in classnames.txt there, or give data.class_names",
        ),
        (no_test, r"has no test shards; name them test-\*.tar or val-\*.tar"),
    ],
)
def test_broken_shards_are_user_errors(shards, jpeg, harm, match):
    harm(shards, jpeg)
    with pytest.raises(UserError, match=match):
        list(source_of(shards).items("train"))

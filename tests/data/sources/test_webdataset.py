import json
import pickle
import tarfile

import fsspec
import numpy as np
import pytest
from helpers.tars import linked, webdataset, write_tar

from beamclip.config import DataConfig, UserError
from beamclip.data import open_source, pack


def source_of(folder, **config):
    return open_source(DataConfig(path=str(folder), **config))


def test_shards_are_read_in_order_by_their_names(shards, jpeg):
    source = source_of(shards)
    items = list(source.items("train"))
    assert source.names == ("ant", "bee", "cow") and (
        source.count("train"),
        source.count("test"),
    ) == (5, 3)
    assert [item.label for item in items] == [0, 2, 1, 1, 0]
    assert items[1].name == "set-train-000000.tar 000001.jpg" and items[1].image.read() == jpeg(
        (80, 0, 128)
    )
    assert [item.label for item in source.items("test")] == [2, 1, 0]


def test_a_part_of_the_items_is_that_part(shards):
    source = source_of(shards)
    whole = [(item.name, item.label) for item in source.items("train")]
    for start, stop in ((0, 2), (2, 4), (3, None), (5, 9)):
        assert [(item.name, item.label) for item in source.items("train", start, stop)] == whole[
            start:stop
        ]


def test_labels_may_be_json_and_shards_may_lie_in_folders(tmp_path, jpeg):
    for split in ("train", "test"):
        members = webdataset(
            jpeg,
            [0, 1],
            label=lambda value: (".json", json.dumps({"label": value, "text": "x"}).encode()),
        )
        write_tar(tmp_path / split / "0.tar", members)
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    source = source_of(tmp_path, class_names=str(tmp_path / "names.txt"), source="tar")
    assert [item.label for item in source.items("test")] == [0, 1] and source.names == (
        "ant",
        "bee",
    )


def test_without_labels_the_folder_is_the_class(tmp_path, jpeg):
    names = ["n02102040", "n01440764"]
    for split in ("train", "val"):
        write_tar(
            tmp_path / f"{split}.tar",
            {f"{split}/{name}/{n}.x.JPEG": jpeg() for name in names for n in range(2)},
        )
    source = source_of(tmp_path)
    assert source.keys == ("n01440764", "n02102040") and source.names[0] == "tench"
    assert [item.label for item in source.items("train")] == [1, 1, 0, 0]


@pytest.fixture
def folders(tmp_path, jpeg):
    """Shards of three class folders."""
    for split in ("train", "test"):
        write_tar(
            tmp_path / f"{split}.tar",
            {
                f"{name}/{n}.jpg": jpeg()
                for name in ("cassette_player", "tench", "chain_saw")
                for n in "12"
            },
        )
    return tmp_path


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("cassette player\nchain saw\ntench", None),
        ("walkman\nchain saw\nfish", None),
        (
            "tench\nchain_saw\ncassette_player",
            "'tench' in line 1, but its class is number 3; write the lines in the order of the classes",
        ),
        ("cassette player\nchain saw\nparachute\ntench", "4 class names for 3 labels"),
        ("cassette player\ntench", "2 class names for 3 labels"),
    ],
)
def test_a_list_of_names_must_fit_the_class_folders_wherever_it_lies(folders, names, says, given):
    """Labels are made from the folders: it would give each class another's name."""
    path = folders / ("given.txt" if given else "classes.txt")
    path.write_text(names)
    config = {"class_names": str(path)} if given else {}
    if says is None:
        source = source_of(folders, **config)
        found = {
            item.name.split()[1].split("/")[0]: source.names[item.label]
            for item in source.items("train")
        }
        assert list(found.values()) == [names.split("\n")[place] for place in (0, 2, 1)]
        return
    with pytest.raises(UserError, match=f"{path} has {says}"):
        source_of(folders, **config)


def test_a_given_list_in_another_order_than_the_one_beside_the_shards_is_refused(shards, tmp_path):
    (tmp_path / "names.txt").write_text("cow\nbee\nant\n")
    with pytest.raises(UserError, match="has 'cow' in line 1, but its class is number 3"):
        source_of(shards, class_names=str(tmp_path / "names.txt"))


def test_shards_with_labels_are_not_read_through_to_be_opened(shards, monkeypatch):
    """Over a network it takes minutes, and a set that is packed needs no more than its names."""
    monkeypatch.setattr(
        "beamclip.data.sources.webdataset.samples_in",
        lambda *_: pytest.fail("all headers were read"),
    )
    assert source_of(shards).names == ("ant", "bee", "cow")


@pytest.mark.parametrize(
    "order",
    [
        ["0.jpg", "0.cls", "1.jpg", "1.cls"],
        ["0.cls", "1.cls", "0.jpg", "1.jpg"],
        ["0.jpg", "1.jpg", "0.cls", "1.cls"],
    ],
)
def test_labels_may_lie_anywhere_in_a_shard(shards, jpeg, order):
    members = {"0.jpg": jpeg(), "1.jpg": jpeg(), "0.cls": b"2", "1.cls": b"0"}
    write_tar(shards / "set-train-000000.tar", {name: members[name] for name in order})
    assert [item.label for item in source_of(shards).items("train", 0, 2)] == [2, 0]


@pytest.mark.parametrize("facts", [{"name": "pets"}, {"label": 3}])
def test_a_json_of_the_whole_set_makes_no_labels(folders, jpeg, facts):
    for split in ("train", "test"):
        write_tar(
            folders / f"{split}.tar",
            {"info.json": json.dumps(facts).encode(), "b/0.jpg": jpeg(), "a/0.jpg": jpeg()},
        )
    assert [item.label for item in source_of(folders).items("train")] == [1, 0]


def test_a_json_of_the_whole_set_may_lie_among_labelled_samples(shards, jpeg):
    write_tar(
        shards / "set-train-000000.tar",
        {"info.json": b'{"name": "pets"}'} | webdataset(jpeg, [2, 0]),
    )
    assert [item.label for item in source_of(shards).items("train", 0, 2)] == [2, 0]


def test_another_way_of_reading_is_another_fingerprint(shards, monkeypatch):
    before = source_of(shards).fingerprint
    monkeypatch.setattr("beamclip.data.sources.webdataset.READ_VERSION", 0)
    assert source_of(shards).fingerprint != before


@pytest.mark.parametrize("kind", ["shards", "folders"])
def test_a_network_that_fails_for_a_moment_changes_nothing_and_one_that_goes_on_is_a_sentence(
    request, kind, network
):
    folder = request.getfixturevalue(kind)
    (folder / "classnames.txt").write_text("ant\nbee\ncow\n")
    wanted = [(item.name, item.label) for item in source_of(folder).items("train")]

    def read():
        return [(item.name, item.label) for item in source_of(f"flaky://{folder}").items("train")]

    network.errors = [Exception(), ConnectionResetError(), TimeoutError()]
    assert read() == wanted and not network.errors
    network.errors = [Exception()] * 4
    with pytest.raises(
        UserError,
        match=r"classnames.txt can't be read \(tried 4 times: Exception\); check its disk or network",
    ):
        read()
    (folder / "classnames.txt").unlink()
    network.errors = [Exception()] * 4
    with pytest.raises(
        UserError,
        match=r"train.*.tar can't be read \(tried 4 times: Exception\); check its disk or network",
    ):
        read()


def with_more(jpeg, labels, **more):
    """Samples that hold more files each."""
    members = webdataset(jpeg, labels)
    return members | {
        f"{number:06}.{suffix}": content
        for number in range(len(labels))
        for suffix, content in more.items()
    }


def test_a_sample_s_image_is_the_one_with_the_plain_ending(shards, jpeg):
    members = with_more(jpeg, [2, 0], **{"seg.png": b"mask", "a.b.jpg": b"other"})
    write_tar(shards / "set-train-000000.tar", dict(sorted(members.items())))
    names = [item.name.split()[1] for item in source_of(shards).items("train", 0, 2)]
    assert names == ["000000.jpg", "000001.jpg"]


def test_an_only_image_may_have_any_ending(shards, jpeg):
    write_tar(shards / "set-train-000000.tar", {"0.input.jpg": jpeg(), "0.cls": b"2"})
    assert next(iter(source_of(shards).items("train"))).label == 2


@pytest.mark.parametrize("facts", [{"width": 16}, [1, 2], {"label": 1}, None])
def test_cls_is_the_label_whatever_a_json_says(shards, jpeg, facts):
    write_tar(
        shards / "set-train-000000.tar", with_more(jpeg, [2, 0], json=json.dumps(facts).encode())
    )
    assert [item.label for item in source_of(shards).items("train", 0, 2)] == [2, 0]


@pytest.mark.parametrize(
    ("kind", "target"), [(tarfile.LNKTYPE, "a/0.jpg"), (tarfile.SYMTYPE, "../a/0.jpg")]
)
def test_a_link_is_the_image_it_leads_to(tmp_path, jpeg, kind, target):
    for split in ("train", "test"):
        linked(
            write_tar(tmp_path / f"{split}.tar", {"a/0.jpg": jpeg((9, 9, 9))}),
            "b/1.jpg",
            target,
            kind,
        )
    first, second = source_of(tmp_path).items("train")
    assert second.image.read() == first.image.read() == jpeg((9, 9, 9)) and (
        first.label,
        second.label,
    ) == (0, 1)


def test_packs_the_same_from_memory_as_from_disk(shards, tmp_path):
    system = fsspec.filesystem("memory")
    for path in shards.iterdir():
        system.pipe_file(f"/{tmp_path.name}/{path.name}", path.read_bytes())
    here = pack(DataConfig(path=str(shards), image_size=8), tmp_path / "here")
    there = pack(DataConfig(path=f"memory://{tmp_path.name}", image_size=8), tmp_path / "there")
    ids = np.arange(8)
    assert np.array_equal(here.read(ids), there.read(ids)) and np.array_equal(
        here.labels, there.labels
    )


def test_a_damaged_image_inside_is_a_bad_image(shards, jpeg, tmp_path):
    members = webdataset(jpeg, [0, 2, 1])
    members["000001.jpg"] = members["000001.jpg"][:100]
    write_tar(shards / "set-train-000000.tar", members)
    packed = pack(
        DataConfig(path=str(shards), image_size=8, max_unreadable_fraction=0.5), tmp_path / "stores"
    )
    assert [name for name, _ in packed.bad] == [
        "set-train-000000.tar 000001.jpg"
    ] and packed.labels.tolist() == [0, 1, 1, 0, 2, 1, 0]


def test_pickles_with_its_index_and_without_open_files(shards):
    source = source_of(shards)
    whole = [item.name for item in source.items("train")]
    assert [item.name for item in pickle.loads(pickle.dumps(source)).items("train")] == whole


def test_the_fingerprint_changes_with_a_shard(shards, jpeg):
    before = source_of(shards).fingerprint
    assert source_of(shards).fingerprint == before
    write_tar(shards / "set-val-000000.tar", webdataset(jpeg, [2, 1, 0, 0]))
    assert source_of(shards).fingerprint != before


@pytest.mark.parametrize("inside", ["", "images/"])
def test_unlabeled_test_shards_are_passed_over_and_said(folders, shards, jpeg, inside):
    unlabeled = {f"{inside}{number}.jpg": jpeg() for number in range(2)}
    for place, wanted in ((shards, [2, 1, 0]), (folders, [0, 1, 2])):
        before = source_of(place) if place is shards else None
        write_tar(place / "x-test-0.tar" if place is shards else place / "test.tar", unlabeled)
        if place is folders:
            names = ("cassette_player", "chain_saw", "tench")
            write_tar(place / "val.tar", {f"{name}/1.jpg": jpeg() for name in names})
        source = source_of(place)
        assert [item.label for item in source.items("test")] == wanted
        note = "the test shards have no labels of the training classes, so the val shards are the"
        assert source.notes == (f"{note} test split",)
        assert before is None or before.fingerprint == source.fingerprint


def test_a_txt_is_not_read_as_a_label(shards, jpeg):
    for split in ("train-000000", "train-000001", "val-000000"):
        path = shards / f"set-{split}.tar"
        write_tar(path, {"0.jpg": jpeg(), "0.txt": b"a cat"})
    with pytest.raises(UserError, match=r"has only a .txt next to the image 0.jpg, which is not"):
        source_of(shards)


@pytest.mark.parametrize(
    ("suffix", "content"), [(".json", b'{"label": [1, 2]}'), (".json", b"[0]"), (".cls", b"1 2")]
)
def test_several_labels_of_an_image_get_a_sentence(shards, jpeg, suffix, content):
    write_tar(shards / "set-train-000000.tar", {"0.jpg": jpeg(), f"0{suffix}": content})
    with pytest.raises(UserError, match=r"holds a list of labels, but an image has one class"):
        list(source_of(shards).items("train"))

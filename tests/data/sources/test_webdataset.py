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


def test_any_slice_of_the_items_can_be_read(shards):
    source = source_of(shards)
    whole = [(item.name, item.label) for item in source.items("train")]
    for start, stop in ((0, 2), (2, 4), (3, None), (5, 9)):
        assert [(item.name, item.label) for item in source.items("train", start, stop)] == whole[
            start:stop
        ]


def test_labels_may_be_json_and_shards_may_be_in_folders(tmp_path, jpeg):
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
            (
                "'tench' in line 1, but its class is number 3; "
                "write the lines in the order of the classes"
            ),
        ),
        ("cassette player\nchain saw\nparachute\ntench", "4 class names for 3 labels"),
        ("cassette player\ntench", "2 class names for 3 labels"),
    ],
)
def test_a_list_of_names_in_any_place_must_match_the_class_folders(folders, names, says, given):
    """Labels follow the folders, so each class would get the name of another."""
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


def test_a_given_list_in_another_order_than_the_one_next_to_the_shards_is_refused(shards, tmp_path):
    (tmp_path / "names.txt").write_text("cow\nbee\nant\n")
    with pytest.raises(UserError, match="has 'cow' in line 1, but its class is number 3"):
        source_of(shards, class_names=str(tmp_path / "names.txt"))


def test_opening_shards_with_labels_does_not_read_all_headers(shards, monkeypatch):
    """Over a network it takes minutes, and a packed data set needs only its class names."""
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
def test_labels_may_be_anywhere_in_a_shard(shards, jpeg, order):
    members = {"0.jpg": jpeg(), "1.jpg": jpeg(), "0.cls": b"2", "1.cls": b"0"}
    write_tar(shards / "set-train-000000.tar", {name: members[name] for name in order})
    assert [item.label for item in source_of(shards).items("train", 0, 2)] == [2, 0]


@pytest.mark.parametrize("facts", [{"name": "pets"}, {"label": 3}])
def test_a_json_about_the_whole_set_gives_no_labels(folders, jpeg, facts):
    for split in ("train", "test"):
        write_tar(
            folders / f"{split}.tar",
            {"info.json": json.dumps(facts).encode(), "b/0.jpg": jpeg(), "a/0.jpg": jpeg()},
        )
    assert [item.label for item in source_of(folders).items("train")] == [1, 0]


def test_a_json_about_the_whole_set_may_be_among_labeled_samples(shards, jpeg):
    write_tar(
        shards / "set-train-000000.tar",
        {"info.json": b'{"name": "pets"}'} | webdataset(jpeg, [2, 0]),
    )
    assert [item.label for item in source_of(shards).items("train", 0, 2)] == [2, 0]


def test_another_read_version_changes_the_fingerprint(shards, monkeypatch):
    before = source_of(shards).fingerprint
    monkeypatch.setattr("beamclip.data.sources.webdataset.READ_VERSION", 0)
    assert source_of(shards).fingerprint != before


@pytest.mark.parametrize("kind", ["shards", "folders"])
def test_a_network_that_fails_once_changes_nothing_and_one_that_keeps_failing_is_a_user_error(
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
        match=(
            r"classnames.txt can't be read \(tried 4 times: Exception\); "
            r"check its disk or network"
        ),
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
    """Samples that have several files each."""
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


def test_the_only_image_of_a_sample_may_have_any_ending(shards, jpeg):
    write_tar(shards / "set-train-000000.tar", {"0.input.jpg": jpeg(), "0.cls": b"2"})
    assert next(iter(source_of(shards).items("train"))).label == 2


@pytest.mark.parametrize("facts", [{"width": 16}, [1, 2], {"label": 1}, None])
def test_a_cls_label_overrides_a_json_label(shards, jpeg, facts):
    write_tar(
        shards / "set-train-000000.tar", with_more(jpeg, [2, 0], json=json.dumps(facts).encode())
    )
    assert [item.label for item in source_of(shards).items("train", 0, 2)] == [2, 0]


@pytest.mark.parametrize(
    ("kind", "target"), [(tarfile.LNKTYPE, "a/0.jpg"), (tarfile.SYMTYPE, "../a/0.jpg")]
)
def test_a_link_in_a_shard_is_followed(tmp_path, jpeg, kind, target):
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


def test_packing_from_memory_and_from_disk_gives_the_same(shards, tmp_path):
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


def test_a_pickled_source_has_its_index_and_no_open_files(shards):
    source = source_of(shards)
    whole = [item.name for item in source.items("train")]
    assert [item.name for item in pickle.loads(pickle.dumps(source)).items("train")] == whole


def test_the_fingerprint_changes_with_a_shard(shards, jpeg):
    before = source_of(shards).fingerprint
    assert source_of(shards).fingerprint == before
    write_tar(shards / "set-val-000000.tar", webdataset(jpeg, [2, 1, 0, 0]))
    assert source_of(shards).fingerprint != before


def test_accents_of_folders_may_be_stored_in_different_ways_in_train_and_test(tmp_path, jpeg):
    for split, name in (("train", "caf\u00e9"), ("test", "cafe\u0301")):
        write_tar(tmp_path / f"{split}.tar", {f"{name}/1.jpg": jpeg(), "dog/1.jpg": jpeg()})
    source = source_of(tmp_path)
    assert source.names == ("caf\u00e9", "dog")
    assert [item.label for item in source.items("test")] == [0, 1]
    # Unlabeled test shards are skipped; shards with one accented class are not unlabeled.
    write_tar(tmp_path / "val.tar", {"cafe\u0301/1.jpg": jpeg()})
    write_tar(tmp_path / "test.tar", {"cafe\u0301/1.jpg": jpeg()})
    source = source_of(tmp_path)
    assert source.notes == ("class dog has images in train but none in test",)


def test_ids_in_a_list_next_to_numbered_shards_are_keys(shards, tmp_path):
    (shards / "classnames.txt").write_text("n01440764\nn01443537 gold fish\nn01484850")
    source = source_of(shards)
    assert source.names == ("tench", "gold fish", "great white shark")
    assert source.keys == ("n01440764", "n01443537", "n01484850")
    (tmp_path / "own.txt").write_text("a\nb\nc")
    source = source_of(shards, class_names=str(tmp_path / "own.txt"))
    assert source.names == ("a", "b", "c")
    assert source.keys == ("n01440764", "n01443537", "n01484850")


def test_tar_folders_called_by_numbers_need_a_list_that_means_one_thing(tmp_path, jpeg):
    for split in ("train", "test"):
        write_tar(tmp_path / f"{split}.tar", {f"{n}/1.jpg": jpeg() for n in range(1, 12)})
    words = [f"thing{letter}" for letter in "abcdefghijk"]
    (tmp_path / "classes.txt").write_text("\n".join(words))
    with pytest.raises(UserError, match="classes.txt can mean two things: line 2"):
        source_of(tmp_path)
    numbered = [f"{number} {word}" for number, word in enumerate(words, 1)]
    (tmp_path / "classes.txt").write_text("\n".join(numbered))
    assert source_of(tmp_path).names == ("thinga", "thingj", "thingk", *words[1:9])


@pytest.mark.parametrize("inside", ["", "images/"])
def test_unlabeled_test_shards_are_skipped_with_a_note(folders, shards, jpeg, inside):
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
def test_several_labels_for_one_image_are_a_user_error(shards, jpeg, suffix, content):
    write_tar(shards / "set-train-000000.tar", {"0.jpg": jpeg(), f"0{suffix}": content})
    with pytest.raises(UserError, match=r"holds a list of labels, but an image has one class"):
        list(source_of(shards).items("train"))


def test_a_first_name_for_no_class_is_refused(shards):
    (shards / "classnames.txt").write_text("background\nant\nbee\ncow\n")
    with pytest.raises(UserError, match="has 'background' in line 1, but the labels are only"):
        next(source_of(shards).items("train"))

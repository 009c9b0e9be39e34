from collections import Counter

import pytest
from open_clip import IMAGENET_CLASSNAMES
from timm.data import ImageNetInfo
from torchvision.models._meta import _IMAGENET_CATEGORIES

from beamclip.config import DataConfig, UserError
from beamclip.data import read_class_names
from beamclip.data.class_names import NameList, resolve_classes, wordnet_id


def test_reads_one_name_per_line(tmp_path):
    (tmp_path / "names.txt").write_bytes("\ufeffgreat white shark\r\n crème brûlée \n\n".encode())
    assert read_class_names(tmp_path / "names.txt") == ("great white shark", "crème brûlée")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"caf\xe9\n", "is not UTF-8; save it as UTF-8"),
        (b"", "is empty in line 1"),
        (b"cat\n\ndog\n", "is empty in line 2"),
        (b"cat\ndog\ncat\n", "has 'cat' 2 times"),
    ],
)
def test_a_bad_file_is_a_user_error(tmp_path, content, match):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=match):
        read_class_names(tmp_path / "names.txt")


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="can't be read"):
        read_class_names(tmp_path / "none.txt")


def test_wordnet_ids_become_keys_and_are_put_into_words():
    names, keys = resolve_classes(DataConfig(), ["n01440764", "n02012849", "n03126707"], 3)
    assert keys == ("n01440764", "n02012849", "n03126707")
    assert names[0] == "tench" and len(set(names)) == 3 and "crane" in names[1]


def test_ids_beyond_imagenet_1k_become_first_lemmas_and_may_be_mixed_with_names():
    names, keys = resolve_classes(DataConfig(), ["n02012185", "n02084071", "other"], 3)
    assert names == ("least bittern", "dog", "other") and keys == ("n02012185", "n02084071", None)


def test_a_list_in_another_order_than_folders_named_by_ids_is_refused(tmp_path):
    (tmp_path / "names.txt").write_text("goldfish\ntench\n")
    config = DataConfig(class_names=str(tmp_path / "names.txt"))
    with pytest.raises(UserError, match="has 'goldfish' in line 1, but its class is number 2"):
        resolve_classes(config, ["n01440764", "n01443537"], 2, exact=True)


@pytest.fixture(scope="module")
def imagenet():
    """Four lists of ImageNet's class names, in label order.

    Each list has a name twice, or gives a class the name of another class.
    """
    known = ImageNetInfo("imagenet-1k")
    ids = known.label_names()
    lemmas = [known.label_name_to_description(id) for id in ids]
    firsts = [name.split(",")[0] for name in lemmas]
    return {
        "ids": ids,
        "lemmas": lemmas,
        "firsts": firsts,
        "clip": list(IMAGENET_CLASSNAMES),
        "torchvision": _IMAGENET_CATEGORIES,
    }


def distinct(names):
    """A list must have this order."""
    times = Counter()
    for name in names:
        times[name] += 1
        yield name if times[name] == 1 else f"{name} {times[name]}"


@pytest.mark.parametrize("own", ["ids", "lemmas", "firsts", "clip", "torchvision"])
@pytest.mark.parametrize("listed", ["firsts", "clip", "torchvision"])
def test_other_names_are_accepted_in_the_same_order_and_refused_in_another(
    imagenet, tmp_path, own, listed
):
    config, names = (
        DataConfig(class_names=str(tmp_path / "names.txt")),
        list(distinct(imagenet[listed])),
    )

    def resolved(names):
        (tmp_path / "names.txt").write_text("\n".join(names))
        return resolve_classes(config, imagenet[own], 1000)[0]

    assert resolved(names) == tuple(names)
    swapped = [names[1], names[0], *names[2:]]
    moved = [*names[:100], *names[101:500], names[100], *names[500:]]
    for wrong in (names[::-1], swapped, moved):
        with pytest.raises(
            UserError,
            match=(
                r"names.txt has '.*' in line \d+, but its class is number \d+; "
                r"write the lines in the order"
            ),
        ):
            resolved(wrong)


def test_a_list_of_another_length_than_the_data_s_names_is_not_compared(tmp_path):
    (tmp_path / "names.txt").write_text("dog\ncat\nhorse\n")
    assert resolve_classes(DataConfig(class_names=str(tmp_path / "names.txt")), ["cat", "dog"], 2)[
        0
    ] == ("dog", "cat", "horse")


def test_a_list_next_to_the_images_is_used_if_no_other_is_given(tmp_path):
    folders, beside = (
        ["n01440764", "n01443537"],
        NameList(["tench, Tinca tinca", "gold fish"], "here/classes.txt"),
    )
    assert resolve_classes(DataConfig(), folders, 2, True, beside) == (
        ("tench", "gold fish"),
        tuple(folders),
    )
    (tmp_path / "names.txt").write_text("a\nb\n")
    assert resolve_classes(
        DataConfig(class_names=str(tmp_path / "names.txt")), folders, 2, True, beside
    ) == (("a", "b"), tuple(folders))


def test_an_unknown_wordnet_id_is_kept_as_the_name(tmp_path):
    assert resolve_classes(DataConfig(), ["n01440764", "n99999999"], 2)[0] == ("tench", "n99999999")


def test_a_file_of_names_overrides_names_and_keeps_the_keys(tmp_path):
    (tmp_path / "names.txt").write_text("fish\ndog\n")
    config = DataConfig(class_names=str(tmp_path / "names.txt"))
    assert resolve_classes(config, ["n01440764", "n02102040"], 2) == (
        ("fish", "dog"),
        ("n01440764", "n02102040"),
    )


def test_wordnet_ids_in_paths():
    assert wordnet_id("train/n01440764/x.JPEG") == wordnet_id("n01440764_1.JPEG") == "n01440764"
    assert wordnet_id("cat.jpg") is wordnet_id("n014407645.jpg") is None


IDS_2 = ("n01440764", "n02102040")
IDS = ("n01440764", "n01443537", "n01484850")
NAMES = ("tench", "goldfish", "great white shark")


def listed_as(tmp_path, text, source_names=None, count=3, exact=False):
    (tmp_path / "names.txt").write_text(text)
    config = DataConfig(class_names=str(tmp_path / "names.txt"))
    return resolve_classes(config, source_names, count, exact)


@pytest.mark.parametrize(
    "text",
    [
        "n01440764\nn01443537\nn01484850",
        "n01440764\ttench, Tinca tinca\nn01443537\tgoldfish, x\nn01484850\tgreat white shark, x",
        "n01440764 tench, Tinca\nn01443537 goldfish, Carassius\nn01484850 great white shark, x",
        "n01440764,tench\nn01443537,goldfish\nn01484850,great white shark",
        "tench n01440764\ngoldfish,n01443537\ngreat white shark (n01484850)",
        "n01484850 3 great white shark\nn01440764 1 tench\nn01443537 2 goldfish",
        "n01440764\t0\ttench\nn01443537\t1\tgoldfish\nn01484850\t2\tgreat white shark",
        (
            '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"], '
            '"2": ["n01484850", "great white shark"]}'
        ),
    ],
)
def test_ids_in_a_list_are_keys_wherever_they_stand(tmp_path, text):
    assert listed_as(tmp_path, text) == (NAMES, IDS)


@pytest.mark.parametrize(
    "text",
    [
        "0 tench\n1 goldfish\n2 great white shark",
        "1\ttench\n2\tgoldfish\n3\tgreat white shark",
        "{0: 'tench',\n 1: \"goldfish\",\n 2: 'great white shark',\n",
        "{0: 'tench',\n 1: 'goldfish',\n 2: 'great white shark'}",
        "2: great white shark\n0: tench\n1: goldfish",
        "tench 0\ngoldfish 1\ngreat white shark 2",
        "'tench',\n'goldfish',\n'great white shark',",
        "names = ['tench', 'goldfish', 'great white shark']",
        '{"tench": 0, "great white shark": 2, "goldfish": 1}',
        '{"id2label": {"0": "tench", "1": "goldfish", "2": "great white shark"}}',
        "- tench\n- goldfish\n- great white shark",
        "* tench\n* goldfish\n* great white shark",
        "tench,\ngoldfish,\ngreat white shark,",
        "0 => tench\n1 => goldfish\n2 => great white shark",
        "1 001.tench\n2 002.goldfish\n3 003.great white shark",
        "/t/tench 0\n/g/goldfish 1\n/g/great white shark 2",
        "path: x\nnc: 3\nnames:\n  0: tench\n  1: goldfish\n  2: great white shark",
        "names: [tench, 'goldfish', great white shark]",
    ],
)
def test_numbers_and_quotation_marks_are_no_part_of_a_name(tmp_path, text):
    assert listed_as(tmp_path, text) == (NAMES, (None, None, None))


@pytest.mark.parametrize(
    "lines",
    [
        ["1 star", "2 star", "3 star"],
        ["707-320", "727-200", "A330"],
        ["3 wheeler", "18 wheeler", "7 up"],
        ["stage 1", "stage 2", "stage 3"],
        ["zero", "one", "jack-o'-lantern"],
        ["0 degrees", "90 degrees", "180 degrees"],
        ["tench, Tinca tinca", "Boeing 747", "AnnualCrop"],
    ],
)
def test_names_with_numbers_of_their_own_stay_whole(tmp_path, lines):
    assert listed_as(tmp_path, "\n".join(lines))[0] == tuple(lines)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("0 tench\n217 springer\n482 shark", "numbered lines, but none with the number 1"),
        ("classes:\n0: a\n1: b\n2: c", "has 'classes:' in line 1, without a number"),
        ("names:\n  0: a\n  x: b", "is a list or dictionary that holds no class names"),
        ("name,label\ntench,0\nspringer,1", "has the heading 'name,label' in line 1"),
        ("wnid\tname\nn01440764\ttench\nn02102040\tspringer", "has the heading"),
        ("Class\ntench\nspringer", "has the heading 'Class' in line 1"),
        ('{"id":0,"name":"tench"}\n{"id":1,"name":"dog"}', "which is no class name; write one"),
        ("'tench', 'springer',\n'shark', 'dog',", "which is no class name"),
        ("# fish\ntench\nspringer", "has '# fish' in line 1, which is no class name"),
        ("<!DOCTYPE html>\n<html>", "which is no class name"),
        ("| 0 | tench |\n| 1 | dog |", "which is no class name"),
        ("version https://git-lfs.github.com/spec/v1\noid x\nsize 3", "which is no class name"),
        ("tench\0\ndog", "which is no class name"),
        ("n01440764\nn99999999\nx", "line 2 has n99999999 without a name"),
        ('{"a": {"b": 1}}', "is a list or dictionary that holds no class names"),
    ],
)
def test_a_list_of_another_kind_gets_a_sentence(tmp_path, text, match):
    with pytest.raises(UserError, match=match):
        listed_as(tmp_path, text)


def test_a_first_line_for_no_class_is_refused_unless_labels_begin_at_1(tmp_path):
    """TensorFlow's lists of ImageNet have 1001 lines."""
    text = "background\ntench\ndog\nshark"
    with pytest.raises(UserError, match=r"'background' in line 1, but the labels are only from 0"):
        listed_as(tmp_path, text, count=3)
    assert listed_as(tmp_path, text, count=4)[0][:2] == ("background", "tench")


def test_a_list_with_ids_in_front_is_matched_with_the_ids_of_folders(tmp_path):
    text = "n00001740 entity\nn01443537 gold fish\nn01440764 tench fish\nn02084071 dog"
    folders = ["n01440764", "n01443537"]
    assert listed_as(tmp_path, text, folders, 2, True) == (
        ("tench fish", "gold fish"),
        tuple(folders),
    )
    with pytest.raises(UserError, match="but not the class n01440764 of the images"):
        listed_as(tmp_path, "n01443537\nn02084071", folders, 2, True)


def test_folders_called_by_numbers_need_a_list_that_means_one_thing(tmp_path):
    folders = sorted(str(number) for number in range(1, 13))
    words = [f"thing{letter}" for letter in "abcdefghijkl"]
    with pytest.raises(UserError, match="line 2 names the class 10 .* but 2 .*'2: thingb'"):
        listed_as(tmp_path, "\n".join(words), folders, 12, True)
    numbered = "\n".join(f"{number}: {word}" for number, word in enumerate(words, 1))
    names = listed_as(tmp_path, numbered, folders, 12, True)[0]
    assert names == tuple(words[int(folder) - 1] for folder in folders)
    from_0 = "\n".join(f"{number}: {word}" for number, word in enumerate(words))
    with pytest.raises(UserError, match="can mean two things"):
        listed_as(tmp_path, from_0, folders, 12, True)
    ten = [str(number) for number in range(10)]
    assert listed_as(tmp_path, "\n".join(words[:10]), ten, 10, True)[0] == tuple(words[:10])


@pytest.mark.parametrize(
    ("folders", "names", "keys"),
    [
        (
            ["n02085620-Chihuahua", "n02086646-Blenheim_spaniel"],
            ("Chihuahua", "Blenheim_spaniel"),
            ("n02085620", "n02086646"),
        ),
        (["tench (n01440764)", "springer, n02102040"], ("tench", "springer"), IDS_2),
        (["001.Black_footed_Albatross", "002.Laysan"], ("Black_footed_Albatross", "Laysan"), None),
        (["AnnualCrop", "Forest", "SeaLake"], ("Annual Crop", "Forest", "Sea Lake"), None),
        (["707-320", "727-200"], ("707-320", "727-200"), None),
        (["1_star", "2_star"], ("1_star", "2_star"), None),
        (["MacBook", "ThinkPad"], ("MacBook", "ThinkPad"), None),
        (["BMW", "McLaren", "DeLorean"], ("BMW", "McLaren", "DeLorean"), None),
        (["Dog", "YouTube"], ("Dog", "YouTube"), None),
        (["0", "1"], ("0", "1"), None),
    ],
)
def test_names_are_read_out_of_folders(folders, names, keys):
    expected = keys or (None,) * len(folders)
    assert resolve_classes(DataConfig(), folders, len(folders)) == (names, expected)


def test_two_classes_of_one_word_get_clip_s_names_by_their_ids(tmp_path):
    text = "n02012849 crane\nn03126707 crane\nn01440764 tench fish"
    names, _ = listed_as(tmp_path, text)
    assert names[0] == "crane bird" and names[1] != "crane bird" and names[2] == "tench fish"

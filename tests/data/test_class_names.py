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

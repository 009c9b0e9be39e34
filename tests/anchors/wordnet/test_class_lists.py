import re

import pytest

from beamclip.anchors.wordnet import (
    ClassName,
    check_classes,
    find_known_dataset,
    known_dataset_synsets,
    read_class_list,
)
from beamclip.anchors.wordnet.class_lists import read_table
from beamclip.config import UserError

# Class name -> why WordNet does not list that name for the sense that the data set means.
UNLISTED = {
    "aquarium_fish": "not a noun in WordNet; a fish",
    "keyboard": "CIFAR-100 means the computer's, which WordNet calls computer keyboard",
    "maple_tree": "WordNet says maple",
}

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_reads_names_ids_and_contexts(tmp_path):
    path = write(
        tmp_path / "list.txt",
        "\ufeffcrane\tn02012849\r\n crane \t a machine for lifting\r\nhot dog\t\nheron\n\n",
    )
    assert read_class_list(path, "anchors.vocabulary") == (
        ClassName("crane", synset="n02012849"),
        ClassName("crane", context="a machine for lifting"),
        ClassName("hot dog"),
        ClassName("heron"),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"caf\xe9\n",
            "anchors.vocabulary {} is not UTF-8; save it as UTF-8 text, one class name per line",
        ),
        (b"", "anchors.vocabulary {} is empty; write one class name per line"),
        (b"cat\n\ndog\n", "anchors.vocabulary {} line 2 has no class name;"),
        (b"\tn02012849\n", "anchors.vocabulary {} line 1 has no class name;"),
        (
            b"cat\ta\tb\n",
            (
                "anchors.vocabulary {} line 1 has 3 fields; "
                "write a name, or a name, a tab and a WordNet id or a context"
            ),
        ),
        (
            b"cat\tn0201284\n",
            (
                "anchors.vocabulary {} line 1 has 'n0201284', which is not a WordNet id; "
                "ids are n and eight digits"
            ),
        ),
        (
            b"cat\t02012849\n",
            "anchors.vocabulary {} line 1 has '02012849', which is not a WordNet id",
        ),
        (b"cat\ndog\nCat\n", "anchors.vocabulary {} has 'cat' 2 times; say which is which"),
        (
            b"crane\tn02012849\ncrane\n",
            "anchors.vocabulary {} has 'crane' 2 times; say which is which",
        ),
        (
            b"crane\tn02012849\ncrane\tn02012849\n",
            "anchors.vocabulary {} has 'crane' 2 times; say which is which",
        ),
    ],
)
def test_a_bad_list_is_refused(tmp_path, content, message):
    path = write(tmp_path / "list.txt", content)
    with pytest.raises(UserError, match=re.escape(message.format(path))):
        read_class_list(path, "anchors.vocabulary")


def test_a_missing_list_is_refused(tmp_path):
    with pytest.raises(UserError, match="data.class_names .* can't be read"):
        read_class_list(tmp_path / "none.txt", "data.class_names")


def test_classes_without_a_name_are_refused():
    with pytest.raises(UserError, match="data.class_names has an empty name for class 1"):
        check_classes([ClassName("cat"), ClassName(" ")], "data.class_names")


def test_known_data_sets_are_recognized_by_all_their_names():
    names = [name for dataset, name, _ in read_table("classes.tsv") if dataset == "CIFAR-10"]
    assert find_known_dataset(names).title == find_known_dataset(names[::-1]).title == "CIFAR-10"
    assert known_dataset_synsets(names)[:2] == ("n02691156", "n02958343")
    assert known_dataset_synsets(names[:9]) == (None,) * 9
    assert (
        find_known_dataset([*names, "goat"])
        is find_known_dataset([*names[:9], "airplane"])
        is find_known_dataset([])
        is None
    )


@pytest.mark.parametrize(
    "names",
    [
        DIGITS,
        list("0123456789"),
        [*"01234", "five", *"6789"],
        [f"{i} - {name}" for i, name in enumerate(DIGITS)],
    ],
)
def test_digits_may_be_words_or_numerals(names):
    assert find_known_dataset(names).title == "digits" and known_dataset_synsets(names)[:2] == (
        "n13742358",
        "n13742573",
    )


def test_other_spellings_of_cifar_100_classes_are_recognized():
    first = [
        spellings.split("|")[0]
        for dataset, spellings, _ in read_table("classes.tsv")
        if dataset == "CIFAR-100"
    ]
    last = [
        spellings.split("|")[-1]
        for dataset, spellings, _ in read_table("classes.tsv")
        if dataset == "CIFAR-100"
    ]
    assert "aquarium_fish" in first and "cra" in last and len(first) == 100
    spoken = [name.replace("_", " ").title() for name in first]
    assert (
        known_dataset_synsets(first) == known_dataset_synsets(last) == known_dataset_synsets(spoken)
    )


def test_imagenette_s_common_names_give_its_wordnet_ids():
    rows = [
        (spellings.split("|")[0], id)
        for dataset, spellings, id in read_table("classes.tsv")
        if dataset == "Imagenette"
    ]
    assert (
        known_dataset_synsets([name for name, _ in rows]) == tuple(id for _, id in rows)
        and ("tench", "n01440764") in rows
    )


@pytest.mark.parametrize(
    ("title", "count"), [("CIFAR-10", 10), ("CIFAR-100", 100), ("Imagenette", 10), ("digits", 10)]
)
def test_tables_are_complete(title, count):
    rows = [
        (spellings, id) for dataset, spellings, id in read_table("classes.tsv") if dataset == title
    ]
    assert len(rows) == len({id for _, id in rows}) == count


def test_tables_name_senses_that_wordnet_lists(wordnet):
    listed = {
        name: {synset.id for synset in wordnet.senses(name)} for _, name, _ in first_spellings()
    }
    assert {name for _, name, id in first_spellings() if id not in listed[name]} == set(UNLISTED)
    assert all(wordnet.synset(id).gloss for _, _, id in first_spellings())


def first_spellings():
    return [
        (dataset, spellings.split("|")[0], id)
        for dataset, spellings, id in read_table("classes.tsv")
    ]

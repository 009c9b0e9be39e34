"""Read class names out of the names of folders.

Stanford Dogs has folders such as `n02085620-Chihuahua`, CUB and Caltech-256 `001.ak47`, and EuroSAT
`AnnualCrop`. A teacher knows the words, not the numbers.
"""

import re
from collections.abc import Sequence

_WORDNET_ID = r"n\d{8}"
_ID_FIRST = re.compile(rf"({_WORDNET_ID})(?:[-_., ]+(.*[^\W\d_].*))?")
_ID_LAST = re.compile(rf"(.*[^\W\d_].*?)[-_., ]+[(\[]?({_WORDNET_ID})[)\]]?")
# The name begins with no digit, because `707-320` is an airplane.
_NUMBER_FIRST = re.compile(r"(\d+)[-_. ]+([^\W\d_].*)")
_NUMBERED = re.compile(r"(\D*)(\d+)|(\d+)[-_. ]+[^\W\d_].*")
_CAMEL_CASE = re.compile(r"(?:[A-Z][a-z]{2,})+")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
# Names of people and brands that are one word.
_ONE_WORD = re.compile(r"Mac[A-Z]")


def names_in_folders(folders: Sequence[str]) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Return the name and the WordNet id of each class folder.

    A folder whose name is only an id keeps it as its name. Numbers are removed only if all
    folders begin with different numbers, and are still different without them. Words that are
    written together are separated only if all names are such words, and several have more than one.

    Args:
        folders: names of the folders, in any order.
    """
    names = []
    keys: list[str | None] = []
    for folder in folders:
        name, key = _take_id(folder)
        names.append(name)
        keys.append(key)
    if not any(keys):
        names = _without_numbers(names)
    return tuple(_separated(names)), tuple(keys)


def folder_numbers(folders: Sequence[str]) -> tuple[int, ...] | None:
    """Return the numbers in the names of folders such as `1`, `class12` or `1.albatross`.

    Returns:
        None unless all folders have one, after the same prefix, and all are different.
    """
    numbers = []
    prefixes = set()
    for folder in folders:
        match = _NUMBERED.fullmatch(folder)
        if match is None:
            return None
        prefixes.add(match.group(1) or "")
        numbers.append(int(match.group(2) or match.group(3)))
    is_one_kind = len(prefixes) == 1 and len(set(numbers)) == len(numbers)
    return tuple(numbers) if is_one_kind else None


def _take_id(folder: str) -> tuple[str, str | None]:
    """Return a folder's name without its WordNet id, and the id."""
    if match := _ID_FIRST.fullmatch(folder):
        return match.group(2) or folder, match.group(1)
    if match := _ID_LAST.fullmatch(folder):
        return match.group(1), match.group(2)
    return folder, None


def _without_numbers(names: list[str]) -> list[str]:
    matches = [_NUMBER_FIRST.fullmatch(name) for name in names]
    numbers = {int(match.group(1)) for match in matches if match}
    words = [match.group(2) for match in matches if match]
    if len(numbers) < len(names) or len(set(words)) < len(names):
        return names
    return words


def _separated(names: list[str]) -> list[str]:
    """Return names with a space before each capital, if they are words written together."""
    several = [name for name in names if _HUMP.search(name)]
    is_camel_case = all(_CAMEL_CASE.fullmatch(name) for name in names)
    if not is_camel_case or len(several) < 2 or any(map(_ONE_WORD.match, several)):
        return names
    return [_HUMP.sub(" ", name) for name in names]

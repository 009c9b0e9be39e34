"""Reduce class names to the forms that WordNet lists, much as WordNet's own "morphy" does."""

from collections.abc import Callable, Iterator, Mapping, Sequence

# Plural suffixes and their singular endings, from WordNet's manual page morphy(7). The first pair
# that gives a listed form wins.
_PLURAL_SUFFIXES = (
    ("s", ""),
    ("ses", "s"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)
# Words of up to this many letters that end in "s" (bus, gas) are not taken for plurals.
_MAX_LENGTH_NOT_PLURAL = 3


def strip_qualifier(name: str) -> str:
    """Return a name without the part in parentheses, in lower case: `crane_(bird)` -> `crane`."""
    return " ".join(name.split("(")[0].replace("_", " ").lower().split())


def qualifier(name: str) -> str:
    """Return the part of a name in parentheses, or "": `crane_(bird)` -> `bird`."""
    return name.partition("(")[2].partition(")")[0].replace("_", " ").lower().strip()


def base_forms(
    name: str, irregular_plurals: Mapping[str, Sequence[str]], is_listed: Callable[[str], bool]
) -> tuple[str, ...]:
    """Return the forms of a name that WordNet lists: usually one, none for an unknown name.

    There are several if a plural has several singulars (`axes`), or if it is listed itself too:
    `shoes` in WordNet is "a particular situation", but a class of that name means the plural of
    `shoe`. A form that is listed under the name itself comes first. If a list of lemmas such as
    `tench, Tinca tinca` is not listed as a whole, its first lemma counts.

    Args:
        name: a class name. Case, underscores, hyphens and a qualifier in parentheses do not matter.
        irregular_plurals: singulars of each irregular plural, from WordNet's noun.exc.
        is_listed: called with a form (lower case, underscores); returns whether WordNet lists it.
    """
    for spelling in _spellings(strip_qualifier(name)):
        candidates = (spelling, *_irregular_singulars(spelling, irregular_plurals))
        forms = [form for form in candidates if is_listed(form)]
        if len(forms) < 2:
            regular = [form for form in _regular_singulars(spelling) if is_listed(form)]
            forms += regular[:1]
        if forms:
            return tuple(dict.fromkeys(forms))
    first_lemma, comma, _ = name.partition(",")
    return base_forms(first_lemma, irregular_plurals, is_listed) if comma else ()


def _spellings(words: str) -> tuple[str, ...]:
    """Return ways to join the words, with underscores, hyphens or nothing, each once."""
    joined = words.replace(" ", "_")
    spellings = (
        joined,
        joined.replace("-", "_"),
        joined.replace("_", "-"),
        joined.replace("_", ""),
        joined.replace("-", ""),
    )
    return tuple(spelling for spelling in dict.fromkeys(spellings) if spelling)


def _irregular_singulars(
    form: str, irregular_plurals: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Yield the irregular singulars of a form, and of its last word if it has several."""
    yield from irregular_plurals.get(form, ())
    head, underscore, last_word = form.rpartition("_")
    if head:
        for singular in irregular_plurals.get(last_word, ()):
            yield head + underscore + singular


def _regular_singulars(form: str) -> Iterator[str]:
    """Yield the singulars of a form by rule. Bus, gas and glass are not plurals."""
    if len(form) <= _MAX_LENGTH_NOT_PLURAL or form.endswith("ss"):
        return
    for suffix, ending in _PLURAL_SUFFIXES:
        if form.endswith(suffix):
            yield form.removesuffix(suffix) + ending

"""From a class name to the forms under which WordNet may list it, after WordNet's own "morphy"."""

from collections.abc import Callable, Iterator, Mapping, Sequence

# Suffix and ending, from WordNet's manual page morphy(7). The first that leads to a known word wins.
_DETACHMENTS = (("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"))


def without_remark(name: str) -> str:
    """`crane_(bird)` -> `crane`: a name without what stands in parentheses, in words and lower case."""
    return " ".join(name.split("(")[0].replace("_", " ").lower().split())


def remark(name: str) -> str:
    """`crane_(bird)` -> `bird`: what stands in parentheses, empty where nothing does."""
    return name.partition("(")[2].partition(")")[0].replace("_", " ").lower().strip()


def base_forms(name: str, exceptions: Mapping[str, Sequence[str]], known: Callable[[str], bool]) -> tuple[str, ...]:
    """The listed forms of a name: usually one, more where a plural has several singulars (`axes`), none for an unknown name.

    Args:
        exceptions: irregular plurals and their singulars, from WordNet's noun.exc.
        known: whether WordNet lists a form.
    """
    for spelling in _spellings(without_remark(name)):
        if known(spelling):
            return (spelling,)
        irregular = tuple(filter(known, _irregular(spelling, exceptions)))
        if irregular:
            return irregular
        regular = next(filter(known, _regular(spelling)), None)
        if regular:
            return (regular,)
    return ()


def _spellings(words: str) -> tuple[str, ...]:
    joined = words.replace(" ", "_")
    ways = (joined, joined.replace("-", "_"), joined.replace("_", "-"), joined.replace("_", ""), joined.replace("-", ""))
    return tuple(way for way in dict.fromkeys(ways) if way)


def _irregular(form: str, exceptions: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield from exceptions.get(form, ())
    head, joint, last = form.rpartition("_")
    for base in exceptions.get(last, ()) if head else ():
        yield head + joint + base


def _regular(form: str) -> Iterator[str]:
    for suffix, ending in _DETACHMENTS:
        if form.endswith(suffix):
            yield form.removesuffix(suffix) + ending

"""From a class name to the forms under which WordNet may list it, after WordNet's own "morphy"."""

from collections.abc import Callable, Iterator, Mapping, Sequence

# Suffix and ending, from WordNet's manual page morphy(7). The first that leads to a known word wins.
_DETACHMENTS = (("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"))


_SHORT = 3


def without_remark(name: str) -> str:
    """`crane_(bird)` -> `crane`: a name without what stands in parentheses, in words and lower case."""
    return " ".join(name.split("(")[0].replace("_", " ").lower().split())


def remark(name: str) -> str:
    """`crane_(bird)` -> `bird`: what stands in parentheses, empty where nothing does."""
    return name.partition("(")[2].partition(")")[0].replace("_", " ").lower().strip()


def base_forms(name: str, exceptions: Mapping[str, Sequence[str]], known: Callable[[str], bool]) -> tuple[str, ...]:
    """The listed forms of a name: usually one, none for an unknown name.

    More where a plural has several singulars (`axes`), or is listed by itself too: `shoes` in WordNet is "a particular situation", and
    whoever has a class of that name means the plural of `shoe`. What is listed under the name itself comes first. Of a list of lemmas
    such as `tench, Tinca tinca` that is not listed as a whole, the first one counts.

    Args:
        exceptions: irregular plurals and their singulars, from WordNet's noun.exc.
        known: whether WordNet lists a form.
    """
    for spelling in _spellings(without_remark(name)):
        found = [*filter(known, (spelling, *_irregular(spelling, exceptions)))]
        if len(found) < 2:
            found += [*filter(known, _regular(spelling))][:1]
        if found:
            return tuple(dict.fromkeys(found))
    first, comma, _ = name.partition(",")
    return base_forms(first, exceptions, known) if comma else ()


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
    if len(form) <= _SHORT or form.endswith("ss"):
        return  # bus, gas, glass: no plurals
    for suffix, ending in _DETACHMENTS:
        if form.endswith(suffix):
            yield form.removesuffix(suffix) + ending

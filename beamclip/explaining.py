"""`beamclip anchors --explain`: the sense of each class, why it was chosen, and which others were considered."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from beamclip.anchors.meanings import pin_option
from beamclip.anchors.sense import Sense


def explain_senses(title: str, senses: Sequence[Sense], proposed: Sequence[Sense] | None) -> None:
    """A paragraph a class: the sense chosen, why, and the others below it with what they weighed."""
    console = Console(highlight=False)
    console.print(f"\n[bold]{escape(title)}[/]\n", soft_wrap=True)
    for number, sense in enumerate(senses):
        console.print(f"[bold]{escape(sense.name)}[/]: {escape(_meaning(sense))}", soft_wrap=True)
        console.print(f"    why: {escape(sense.why)}", soft_wrap=True)
        better = proposed[number] if proposed is not None else None
        if better is not None and better.synset is not None and sense.scores and better.synset != sense.synset:
            said = f"{better.synset.id} {better.synset.gloss}: {better.why}"
            console.print(f"    [yellow]but the images speak for {escape(said)}[/]", soft_wrap=True)
        for place, one in enumerate(sense.considered):
            if sense.synset is None or one.id != sense.synset.id:
                weight = f" ({sense.scores[place]:.2f})" if sense.scores else ""
                console.print(f"    not {one.id}{weight} {escape(one.gloss)}", no_wrap=True, overflow="ellipsis")
    print()
    _suggest_pins(senses, proposed)


def _meaning(sense: Sense) -> str:
    if sense.synset is None:
        return sense.context or "its name alone"
    kind = f" (a type of {sense.hypernym})" if sense.hypernym else ""
    return f"{sense.synset.id} {sense.synset.gloss}{kind}"


def _suggest_pins(senses: Sequence[Sense], proposed: Sequence[Sense] | None) -> None:
    """A line to copy, for what nobody has said so far."""
    best = proposed or senses
    pins = {one.name: one.synset.id for one, weighed in zip(best, senses, strict=True) if weighed.scores and one.synset}
    if not pins:
        return
    basis = (
        "what the images show"
        if proposed is not None
        else "the other classes; once the teacher has seen the images (beamclip embed), they are asked too"
    )
    print(f"{len(pins)} of them weighed by {basis}. To pin them, after a look:\n  {pin_option(pins)}\n")

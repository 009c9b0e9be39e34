"""The teacher passes that experiments will need, also where their images are not packed yet."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from beamclip.config import TowerConfig, ViewsConfig
from beamclip.data import PackedImages, Splits
from beamclip.teachers import ViewSet
from beamclip.training.choosing import canonical_view
from beamclip.training.foreseen import Foreseen
from beamclip.training.wanted import group_of, towers_and_views
from beamclip.training.workshop import Workshop


@dataclass(frozen=True)
class ForeseenPass:
    """As `Wanted`, also where images are not packed yet: `packed` is None then, and the views are near only.

    Attributes:
        name: of the recipe, for people.
        sure: whether these are the very samples.
    """

    tower: TowerConfig
    packed: PackedImages | None
    views: ViewSet
    name: str
    sure: bool

    def described(self, several: bool) -> str:
        """What it holds, for people.

        Args:
            several: passes of several recipes are spoken of, so that each is named.
        """
        if not self.views.recipe.random:
            return "the central view"
        return f"{self.views.count} view{'s' if self.views.count > 1 else ''}{f' ({self.name})' if several else ''}"


def foreseen_passes(foreseen: Iterable[tuple[Foreseen, Splits]], workshop: Workshop) -> list[ForeseenPass]:
    """The fewest passes that cover all that these experiments need, as `make_passes` will join them."""
    groups: dict[str, ForeseenPass] = {}
    for one, splits in foreseen:
        canonical, images = canonical_view(one.experiment, one.offered), workshop.packed_path(one.experiment.data).name
        first = [] if canonical is None else [(one.experiment.teacher, canonical)]
        for tower, views in [*first, *towers_and_views(one.experiment, splits, one.trained)]:
            sure = one.sure or (one.packed is not None and not views.recipe.random)  # canonical views are made of all that are offered
            known = groups.get(group := group_of(tower, images, views))
            new = ForeseenPass(tower, one.packed, views, _named(one.experiment.shown), sure)
            groups[group] = new if known is None else joined(known, new)
    return list(groups.values())


def joined(one: ForeseenPass, other: ForeseenPass) -> ForeseenPass:
    """One pass for two. It is sure where both are, or where one that is sure holds all samples of the other."""
    views = one.views.joined(other.views)
    all_of = [part.sure and len(part.views.ids) == len(views.ids) for part in (one, other)]
    return replace(one, views=views, sure=(one.sure and other.sure) or any(all_of))


def _named(views: ViewsConfig) -> str:
    return views.recipe if views.strength == 1 else f"{views.recipe} × {views.strength:g}"

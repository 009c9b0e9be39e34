"""Class names -> senses -> prompts -> text embeddings. Names and senses need no torch; what does is imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamclip.anchors.anchor_set import (
        AnchorReport,
        AnchorSet,
        AnchorSetPlan,
        build_anchor_sets,
        ensemble,
        existing_anchor_set,
        report_of,
        shortened_prompts,
    )
    from beamclip.anchors.prompts import prompts_for

_PLACES = {
    "anchor_set": (
        "AnchorSet",
        "AnchorSetPlan",
        "build_anchor_sets",
        "ensemble",
        "existing_anchor_set",
        "shortened_prompts",
        "AnchorReport",
        "report_of",
    ),
    "prompts": ("prompts_for",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}
__all__ = [
    "AnchorReport",
    "AnchorSet",
    "AnchorSetPlan",
    "build_anchor_sets",
    "ensemble",
    "existing_anchor_set",
    "prompts_for",
    "report_of",
    "shortened_prompts",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

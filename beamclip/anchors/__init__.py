"""Turn class names into text embeddings: class names -> senses -> prompts -> anchors.

Names and senses need no torch, so the modules that do are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamclip.anchors.anchor_set import (
        AnchorReport,
        AnchorSet,
        AnchorSetPlan,
        anchor_report,
        build_anchor_sets,
        ensemble,
        find_anchor_set,
        truncated_prompts,
    )
    from beamclip.anchors.prompts import prompts_for

_MODULE_OF = {
    "AnchorReport": "anchor_set",
    "AnchorSet": "anchor_set",
    "AnchorSetPlan": "anchor_set",
    "anchor_report": "anchor_set",
    "build_anchor_sets": "anchor_set",
    "ensemble": "anchor_set",
    "find_anchor_set": "anchor_set",
    "prompts_for": "prompts",
    "truncated_prompts": "anchor_set",
}
__all__ = [
    "AnchorReport",
    "AnchorSet",
    "AnchorSetPlan",
    "anchor_report",
    "build_anchor_sets",
    "ensemble",
    "find_anchor_set",
    "prompts_for",
    "truncated_prompts",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)

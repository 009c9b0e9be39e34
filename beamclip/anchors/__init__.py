"""Class names -> senses -> prompts -> text embeddings. Names and senses need no torch; what does is imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamclip.anchors.anchor_set import (
        AnchorBank,
        AnchorReport,
        BankPlan,
        build_banks,
        ensemble,
        existing_bank,
        report_of,
        shortened_prompts,
    )
    from beamclip.anchors.prompts import prompts_for

_PLACES = {
    "anchor_set": (
        "AnchorBank",
        "BankPlan",
        "build_banks",
        "ensemble",
        "existing_bank",
        "shortened_prompts",
        "AnchorReport",
        "report_of",
    ),
    "prompts": ("prompts_for",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}
__all__ = [
    "AnchorBank",
    "AnchorReport",
    "BankPlan",
    "build_banks",
    "ensemble",
    "existing_bank",
    "prompts_for",
    "report_of",
    "shortened_prompts",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

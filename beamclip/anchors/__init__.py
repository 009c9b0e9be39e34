"""Class names -> senses -> prompts -> text embeddings. Names and senses need no torch; what does is imported when it is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beamclip.anchors.bank import AnchorBank, BankPlan, build_banks, ensemble, existing_bank, shortened_prompts
    from beamclip.anchors.prompts import prompts_for
    from beamclip.anchors.report import AnchorReport, report_of

_PLACES = {
    "bank": ("AnchorBank", "BankPlan", "build_banks", "ensemble", "existing_bank", "shortened_prompts"),
    "prompts": ("prompts_for",),
    "report": ("AnchorReport", "report_of"),
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

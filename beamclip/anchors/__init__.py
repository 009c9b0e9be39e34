"""Class names -> prompts -> text embeddings."""

from beamclip.anchors.bank import AnchorBank, average_prompts, bank_parts, build_anchors
from beamclip.anchors.prompts import PROMPT_SETS, prompts_for

__all__ = ["PROMPT_SETS", "AnchorBank", "average_prompts", "bank_parts", "build_anchors", "prompts_for"]

"""Which of the training images students are trained on."""

from typing import Literal

from pydantic import Field, model_validator

from beamclip.config.views import Strict


class BalanceConfig(Strict):
    """Image semantic balance (CLIP-CID): of each set of images that are much alike to the teacher, students are trained on one."""

    threshold: float | None = Field(None, gt=0, le=2)
    """Join images whose cosine distance is below this; off by default. CLIP-CID's authors used 0.1 with a later encoder."""
    remove: float | None = Field(None, ge=0, lt=1)
    """Or the share of the images to leave out, for which the threshold is found; 0 leaves out none. CLIP-CID's is 0.437."""
    search: Literal["auto", "exact", "index"] = "auto"
    """How near neighbours are found: every pair compared, or an index of faiss; `auto`: exact up to 100,000 images."""
    neighbours: int = Field(32, ge=1, le=1024)
    """Of each image, that the index looks for."""

    @model_validator(mode="after")
    def _one_of_two(self) -> "BalanceConfig":
        if self.threshold is not None and self.remove is not None:
            raise ValueError("threshold and remove are both given, but one follows from the other; give one of them")
        return self

    @property
    def active(self) -> bool:
        """Whether anything may be left out."""
        return self.threshold is not None or bool(self.remove)

"""Facts about the stores of trials, read from the JSON text in a sweep's record."""

import json
from typing import Any


class AssetFacts:
    """The facts that `beamclip.preparation.build` recorded about the stores of one asset key.

    Facts are read on access, because records of older sweeps lack some of them.

    Args:
        text: `beamclip.preparation.assets.Assets` as JSON text, a value of `SweepRecord.assets`.
    """

    def __init__(self, text: str) -> None:
        self._assets: dict[str, Any] = json.loads(text)
        self._facts: dict[str, Any] = self._assets["facts"]

    @property
    def data_key(self) -> str:
        """Key of the store of packed images."""
        return str(self._facts["data_key"])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self._facts["classes"])

    @property
    def teacher(self) -> str:
        """Name of the teacher; several names are joined by " + "."""
        return str(self._facts["teacher"])

    @property
    def teacher_fingerprint(self) -> str:
        """Hash of the teacher's weights and preprocessing."""
        return str(self._facts["teacher_fingerprint"])

    @property
    def zero_shot_val_top1(self) -> float:
        """Zero-shot accuracy of the teacher on val, in percent."""
        return float(self._facts["teacher/zero_shot_val_top1"])

    @property
    def zero_shot_val_top1_low(self) -> float:
        """Lower end of the 95 % interval of `zero_shot_val_top1`, in percent."""
        return float(self._facts["teacher/zero_shot_val_top1_low"])

    @property
    def zero_shot_test_top1(self) -> float:
        """Zero-shot accuracy of the teacher on test, in percent."""
        return float(self._facts["teacher/zero_shot_test_top1"])

    @property
    def images_encoded_in_all(self) -> int:
        """Number of images that all teachers of the sweep encoded for it."""
        return int(self._facts["teacher/images_encoded_in_all"])

    @property
    def anchors(self) -> dict[str, Any]:
        """Summary of the first teacher's anchors, see `beamclip.anchors.AnchorReport.summary`."""
        return dict(self._facts["anchors"])

    @property
    def anchors_folder(self) -> str:
        """Folder of the store with the first teacher's anchors."""
        return str(self._assets["teachers"][0]["anchors"])

    @property
    def balance(self) -> dict[str, Any] | None:
        """Report on the selection of training images; None if all of them are used."""
        balance = self._facts.get("balance")
        return None if balance is None else dict(balance)

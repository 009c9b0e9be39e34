"""What unlabelled images say of the senses of a class."""

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 16  # images compared at a time


def evidence_of_images(images: NDArray[np.floating], texts: NDArray[np.floating], share: float) -> NDArray[np.float64]:
    """How well each candidate sense of one class is seen in unlabelled images.

    Args:
        images: unit rows [N, D], N > 0, of all classes together.
        texts: unit rows [S, D], one a candidate sense.
        share: the share of the images that may be of this class, such as 1 / number of classes.

    Returns:
        [S] mean cosine of each sense's nearest max(1, share · N) images.
    """
    count = min(max(1, round(share * len(images))), len(images))
    columns = texts.astype(np.float32).T
    nearest_cosines = np.empty((0, len(texts)), np.float32)
    for start in range(0, len(images), _CHUNK):
        cosines = np.concatenate([nearest_cosines, images[start : start + _CHUNK].astype(np.float32) @ columns])
        keep = min(count, len(cosines))
        nearest_cosines = np.partition(cosines, len(cosines) - keep, axis=0)[len(cosines) - keep :]
    return np.asarray(nearest_cosines.mean(axis=0, dtype=np.float64))

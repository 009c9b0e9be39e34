"""Does a store say what the teacher says now?"""

import numpy as np
from numpy.typing import NDArray

from beamclip.data.packed import PackedImages
from beamclip.teachers.embeddings import Embeddings
from beamclip.teachers.encoding import pixels_of
from beamclip.teachers.tower import Teacher
from beamclip.teachers.views import ViewSet


def agreement(teacher: Teacher, packed: PackedImages, views: ViewSet, stored: Embeddings, count: int = 256) -> NDArray[np.float32]:
    """Cosines between stored embeddings and what the teacher says now, of `count` views spread over the store, [count].

    Drawn, rendered and encoded anew from the sample and view ids alone, in batches of another size than the store's.
    """
    places = np.linspace(0, views.images - 1, min(count, views.images)).round().astype(np.int64)
    rows, view_ids = np.divmod(places, views.count)
    cosines = np.empty(len(places), np.float32)
    for view in np.unique(view_ids):
        for chunk in np.array_split(np.flatnonzero(view_ids == view), max(1, (view_ids == view).sum() // 7)):
            ids = views.ids[rows[chunk]]
            live = teacher.encode_images(pixels_of(teacher, packed, views, ids, int(view))).cpu().numpy()
            kept = stored.gather(ids, int(view))
            cosines[chunk] = (live * kept).sum(1) / np.linalg.norm(kept, axis=1)
    return cosines

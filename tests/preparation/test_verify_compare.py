import json

import numpy as np

from beamclip.config import RECIPES
from beamclip.preparation.embedding_store import embed
from beamclip.preparation.verify import compare_with_teacher
from beamclip.stores import file_hash, open_store
from beamclip.teachers import Embeddings, ViewSet

VIEWS = ViewSet(np.arange(0, 160, 2), RECIPES["simclr"], 3, 0)


def test_a_good_store_agrees_over_all_its_views(teacher, packed, tmp_path):
    stored, _ = embed(teacher, packed, VIEWS, tmp_path)
    cosines = compare_with_teacher(teacher, packed, VIEWS, stored, 50)
    assert cosines.shape == (50,) and cosines.min() > 0.999
    assert len(compare_with_teacher(teacher, packed, VIEWS, stored, 10_000)) == 240


def test_rows_in_another_order_are_detected(teacher, packed, tmp_path):
    """Checksums prove that bytes are what was written, not that the right rows were written."""
    stored, _ = embed(teacher, packed, VIEWS, tmp_path)
    path = stored.store.file("rows-00000.npy")
    np.save(path, np.load(path)[::-1])
    manifest = json.loads(stored.store.file("manifest.json").read_text())
    manifest["files"]["rows-00000.npy"] |= {"sha256": file_hash(path), "bytes": path.stat().st_size}
    stored.store.file("manifest.json").write_text(json.dumps(manifest))
    assert (
        np.median(
            compare_with_teacher(
                teacher, packed, VIEWS, Embeddings(open_store(stored.store.path)), 60
            )
        )
        < 0.99
    )

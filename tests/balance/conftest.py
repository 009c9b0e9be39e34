import numpy as np
import pytest

from beamclip.balance.neighbors import normalize_rows


@pytest.fixture
def clustered():
    """600 unit vectors, [600, 24], around twelve directions, with near and exact duplicates."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(12, 24))
    spread = random.uniform(0.05, 0.8, (590, 1))
    vectors = normalize_rows(
        centers[random.integers(0, 12, 590)] + spread * random.normal(size=(590, 24))
    )
    return np.concatenate([vectors, vectors[:10]])


@pytest.fixture
def on_a_circle():
    """Function: angles in degrees -> unit vectors [N, 2]."""

    def place(*degrees):
        angles = np.deg2rad(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    return place


@pytest.fixture(scope="session")
def balanced_inputs(teacher, packed, tmp_path_factory):
    """(basis, canonical embeddings, ids) of the 160 tiny training images."""
    from beamclip.preparation.embedding_store import embed, embedding_parts
    from beamclip.teachers import ViewSet

    views = ViewSet.center(packed.train_ids)
    embeddings, _ = embed(teacher, packed, views, tmp_path_factory.mktemp("canonical"))
    return embedding_parts(teacher, packed, views), embeddings, packed.train_ids

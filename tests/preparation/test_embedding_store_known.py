"""A teacher sees no view of an image twice, whatever store asks for it."""

import shutil

import numpy as np
import pytest

from beamclip.config import RECIPES
from beamclip.preparation.embedding_store import ReusableRows, basis_of, embed, images_left
from beamclip.stores import in_process
from beamclip.teachers import ViewSet

WEAK = RECIPES["weak"]


def views(start, stop, count=2, seed=0):
    return ViewSet(np.arange(start, stop), WEAK, count, seed)


@pytest.fixture
def ask(teacher, packed, tmp_path):
    """Ask for views: what was planned and what was encoded must agree. Returns the store and the images encoded."""

    def call(wanted):
        left = images_left(teacher, packed, wanted, tmp_path)
        stored, encoded = embed(teacher, packed, wanted, tmp_path)
        assert encoded == left
        return stored, encoded

    return call


@pytest.mark.parametrize(
    ("wanted", "images"),
    [
        (views(0, 100), 2 * 20),  # more samples
        (views(0, 80, 3), 80),  # one more view of each
        (views(40, 120, 3), 40 * 1 + 40 * 3),
        (views(10, 30, 1), 0),  # held whole
        (views(80, 160), 160),  # none of them
        (views(0, 80, 2, seed=1), 160),  # other views altogether
    ],
)
def test_only_what_no_store_holds_is_encoded(ask, wanted, images):
    assert ask(views(0, 80))[1] == 160
    assert ask(wanted)[1] == images
    assert ask(wanted)[1] == 0


def test_what_is_copied_is_what_was_stored_and_the_rest_what_the_teacher_says(
    teacher, packed, ask, tmp_path
):
    first, _ = ask(views(0, 80))
    both, _ = ask(views(40, 120, 3))
    alone, _ = embed(teacher, packed, views(40, 120, 3), tmp_path / "elsewhere")
    held = np.arange(40, 80)
    for view in (0, 1):
        assert np.array_equal(both.gather(held, view), first.gather(held, view))
    for view in (0, 1, 2):
        cosines = (both.gather(both.ids, view) * alone.gather(both.ids, view)).sum(1)
        assert cosines.min() > 0.999


def test_several_stores_are_drawn_on_together(ask):
    ask(views(0, 40))
    ask(views(60, 100))
    assert ask(views(0, 100))[1] == 2 * 20


def killed(job, shards, folder):
    """A runner that is killed after the first shard."""
    yield from in_process(job, list(shards)[:1], folder)
    raise KeyboardInterrupt


def test_a_builder_that_goes_on_copies_from_the_same_stores(teacher, packed, ask, tmp_path):
    """Another store that was finished meanwhile must not change the bytes; one that was deleted meanwhile is no error."""
    ask(views(0, 40))
    wanted = views(0, 160)

    with pytest.raises(KeyboardInterrupt):
        embed(teacher, packed, wanted, tmp_path, run=killed)
    shutil.copytree(tmp_path, tmp_path.with_name("undisturbed"))
    ask(views(100, 160))
    disturbed, encoded = ask(wanted)
    undisturbed, _ = embed(teacher, packed, wanted, tmp_path.with_name("undisturbed"))
    assert encoded == 2 * (160 - 64)
    assert np.array_equal(disturbed.all(), undisturbed.all())


def test_a_store_that_was_deleted_meanwhile_is_encoded_again(teacher, packed, ask, tmp_path):
    first, _ = ask(views(0, 40))
    basis = basis_of(teacher, packed, views(0, 40))
    assert ReusableRows.beside(tmp_path, basis, views(0, 160)).paths == (first.store.path,)
    assert ReusableRows.named(tmp_path, [first.key, "0123456789abcdef"]).paths == (
        first.store.path,
    )
    shutil.rmtree(first.store.path)
    assert ReusableRows.named(tmp_path, [first.key]).paths == ()


def test_a_pass_that_was_killed_goes_on_without_a_store_that_was_damaged_meanwhile(
    teacher, packed, ask, tmp_path
):
    first, _ = ask(views(70, 110))
    with pytest.raises(KeyboardInterrupt):
        embed(teacher, packed, views(0, 160), tmp_path, run=killed)
    rows = first.store.file("rows-00000.npy")
    rows.write_bytes(rows.read_bytes()[:-1])
    assert ask(views(0, 160))[1] == 2 * (160 - 64)

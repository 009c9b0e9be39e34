import json
import shutil
from itertools import product
from pathlib import Path

import pytest

from beamclip.config import UserError, with_values
from beamclip.preparation.build import prepare, prepare_all
from beamclip.preparation.context import PreparationContext
from beamclip.preparation.plan import Parallelism, PlannedStore, plan
from beamclip.preparation.throughput import Throughput
from beamclip.stores import StoreDamaged, in_process

pytestmark = pytest.mark.slow

AUGMENTATIONS = [
    {"views.recipe": recipe, "views.strength": strength, "views.stored": stored}
    for recipe, strength, stored in product(("weak", "simclr"), (0.5, 1.0), (1, 2))
]


@pytest.fixture
def planned(experiment):
    """`planned(folder, [values, …])`: the planned stores of these cells."""
    return lambda folder, cells: plan(
        [with_values(experiment, values) for values in cells], PreparationContext(folder)
    )


def of(stores, kind):
    """(description, number of images) of the planned stores of a kind."""
    return [(store.description, store.images) for store in stores if store.store == kind]


@pytest.mark.parametrize("packed", [False, True])
def test_each_recipe_and_strength_is_one_pass_with_the_largest_number_of_views(
    planned, packed_only, tmp_path, packed
):
    stores = planned(packed_only if packed else tmp_path, AUGMENTATIONS)
    about = "" if packed else "about "
    names = ("weak × 0.5", "weak", "simclr × 0.5", "simclr")
    passes = [(f"tiny_clip0, 2 views ({name}) of {about}128 images", 256) for name in names]
    held_out = (f"tiny_clip0, the central view of {about}64 images", 64)
    assert of(stores, "embeddings") == [passes[0], held_out, *passes[1:]]
    assert len(of(stores, "images")) == len(of(stores, "anchors")) == 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_teacher_of_central_views_makes_one_pass_for_every_recipe(
    planned, packed_only, tmp_path, packed
):
    stores = planned(
        packed_only if packed else tmp_path,
        [{"views.teacher": "center", **values} for values in AUGMENTATIONS],
    )
    assert [images for _, images in of(stores, "embeddings")] == [192]


def test_stores_built_for_augmentations_are_those_planned(planned, experiment, packed_only):
    before = planned(packed_only, AUGMENTATIONS)
    experiments = {str(values): with_values(experiment, values) for values in AUGMENTATIONS}
    made = prepare_all(experiments, PreparationContext(packed_only))
    assert len({assets.teachers[0].views for assets in made.values()}) == 4
    assert len(list((packed_only / "embeddings").glob("*/manifest.json"))) == len(
        of(before, "embeddings")
    )
    assert all(store.exists for store in planned(packed_only, AUGMENTATIONS))


def test_strengths_with_the_same_views_share_a_pass(planned, packed_only):
    stores = planned(
        packed_only,
        [{"views.recipe": "center", "views.strength": strength} for strength in (0.5, 1.0, 2.0)],
    )
    assert [images for _, images in of(stores, "embeddings")] == [192]


def test_a_single_recipe_is_not_named_in_the_plan(planned, packed_only):
    assert of(planned(packed_only, [{}, {"views.stored": 1}]), "embeddings")[0] == (
        "tiny_clip0, 2 views of 128 images",
        256,
    )


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def images(stores, kind="embeddings"):
    """Images that must be processed for the stores of a kind."""
    return sum(store.images for store in stores if store.store == kind)


def made_by(experiments, context):
    """Build all stores. Returns how many views the embedding stores hold then."""
    prepare_all({str(number): experiment for number, experiment in enumerate(experiments)}, context)
    manifests = [
        json.loads(path.read_text())
        for path in (context.root / "embeddings").glob("*/manifest.json")
    ]
    return sum(manifest["samples"] * manifest["views"] for manifest in manifests)


def test_planning_builds_nothing(experiment, tmp_path):
    stores = plan([experiment], PreparationContext(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert of(stores, "images") == [("192 images, 32 px raw", 192)]
    assert of(stores, "embeddings") == [
        ("tiny_clip0, 2 views of about 128 images", 256),
        ("tiny_clip0, the central view of about 64 images", 64),
    ]
    assert of(stores, "anchors") == [("tiny_clip0, plain for 4 classes, 4 prompts", 0)]
    assert not any(store.exists for store in stores)


def test_all_stores_exist_once_built(experiment, stores, assets):
    planned_stores = plan(
        [experiment, with_values(experiment, {"data.train_images": 32, "views.stored": 1})],
        PreparationContext(stores),
    )
    assert [store.store for store in planned_stores] == [
        "images",
        "embeddings",
        "embeddings",
        "anchors",
    ]
    assert all(
        store.exists and (store.images, store.seconds) == (0, 0.0) for store in planned_stores
    )
    sizes = [
        json.loads((Path(path) / "manifest.json").read_text())["files"]
        for path in (assets.packed, assets.teachers[0].views)
    ]
    assert [store.bytes for store in planned_stores[:2]] == [
        sum(file["bytes"] for file in files.values()) for files in sizes
    ]


SPACES = {
    "one cell": [{}],
    "stored views": [{"views.stored": stored} for stored in (1, 3, 2)],
    "views and samples": [{"views.stored": 3, "data.train_images": 32}, {"views.stored": 1}],
    "two recipes": [{"views.recipe": recipe} for recipe in ("weak", "simclr")],
    "two seeds": [{"views.seed": seed} for seed in (0, 1)],
    "center and same": [{"views.teacher": teacher} for teacher in ("same", "center")],
    "live": [{"views.teacher": "live"}],
    "two splits": [{"data.val_fraction": fraction} for fraction in (0.2, 0.4)],
    "prompt sets and vocabularies": [
        {"anchors.prompt_set": prompts, "anchors.vocabulary": words}
        for prompts, words in (("plain", "lvis"), ("ensemble", "data"))
    ],
    "two encodings": [{"data.encoding": encoding} for encoding in ("raw", "jpeg")],
    "prompts, temperatures and students": [
        {
            "anchors.prompt_set": prompts,
            "objective.student_temperature": tau,
            "student.backbone": backbone,
        }
        for prompts, tau, backbone in product(
            ("plain", "openai_7"), (0.1, 0.2), ("test_vit", "test_resnet")
        )
    ],
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("space", SPACES)
def test_every_missing_store_is_planned_once_and_exactly_its_images_are_encoded(
    experiment, packed_only, tmp_path, space, packed
):
    """Also before the images are packed, if none of them is unreadable."""
    root = packed_only if packed else tmp_path
    cells = [with_values(experiment, values) for values in SPACES[space]]
    before = plan(cells, PreparationContext(root))
    assert images(before) == made_by(cells, PreparationContext(root))
    for kind, folder in (
        ("images", "packed"),
        ("embeddings", "embeddings"),
        ("anchors", "anchors"),
    ):
        planned = [store for store in before if store.store == kind]
        assert len(planned) == len(list((root / folder).glob("*/manifest.json")))
    assert [
        (store.store, store.exists, store.images) for store in plan(cells, PreparationContext(root))
    ] == [(store.store, True, 0) for store in before]


def test_other_teachers_are_planned_with_their_own_stores(experiment, packed_only, other_folder):
    other = {"model": f"local-dir:{other_folder}", "prompt_set": "openai_7"}
    stores = plan(
        [with_values(experiment, {"teacher.others": [other]})], PreparationContext(packed_only)
    )
    assert of(stores, "embeddings") == [
        ("tiny_clip0, 2 views of 128 images", 256),
        (f"{other_folder.name}, 2 views of 128 images", 256),
        ("tiny_clip0, the central view of 64 images", 64),
    ]
    assert [store.bytes for store in stores if store.store == "embeddings"] == [
        256 * 16 * 2,
        256 * 24 * 2,
        64 * 16 * 2,
    ]
    assert next(store.note for store in stores if store.store == "embeddings") == (
        "teacher tiny_clip0: 32 px, mean 0.5 0.4 0.3, std 0.2 0.25 0.3, bilinear "
        "(its open_clip_config.json)"
    )
    assert of(stores, "anchors") == [
        ("tiny_clip0, plain for 4 classes, 4 prompts", 0),
        (f"{other_folder.name}, openai_7 for 4 classes, 28 prompts", 0),
    ]


def test_seconds_are_images_times_the_measured_rate_divided_by_the_parallelism(
    experiment, packed_only, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "beamclip.preparation.plan.measure_image_cost", lambda source, config: (0.5, 1000.0)
    )
    monkeypatch.setattr(
        "beamclip.preparation.context.measure_seconds_per_text", lambda teacher, count: 0.125
    )
    context = PreparationContext(
        packed_only, measure_throughput=lambda teacher: Throughput(64, 0.25)
    )
    assert [store.seconds for store in plan([experiment], context)] == [
        0.0,
        256 * 0.25,
        64 * 0.25,
        4 * 0.125,
    ]
    assert [store.seconds for store in plan([experiment], context, Parallelism(encoding=4))] == [
        0.0,
        16.0,
        4.0,
        0.5,
    ]
    context = PreparationContext(
        tmp_path / "empty", measure_throughput=lambda teacher: Throughput(64, 0.25)
    )
    packing = plan([experiment], context, Parallelism(packing=3))[0]
    assert packing == PlannedStore("images", "192 images, 32 px raw", False, 192, 192_000, 32.0)


def test_changed_weights_under_the_same_name_need_new_stores(
    experiment, packed_only, teacher_folder, other_folder, tmp_path
):
    folder = shutil.copytree(teacher_folder, tmp_path / "clip")
    named = with_values(experiment, {"teacher.model": f"local-dir:{folder}"})
    prepare(named, PreparationContext(packed_only))
    assert images(plan([named], PreparationContext(packed_only))) == 0
    for path in other_folder.iterdir():
        shutil.copy(path, folder)
    stores = plan([named], PreparationContext(packed_only))
    assert [store.exists for store in stores] == [True, False, False, False] and images(
        stores
    ) == 320


def test_a_damaged_shard_is_a_user_error_and_repair_builds_only_that_shard(
    experiment, copied_stores, assets
):
    shard = copied_stores / "embeddings" / Path(assets.teachers[0].views).name / "rows-00001.npy"
    flip(shard)
    with pytest.raises(
        StoreDamaged, match=r"rows-00001.npy has changed since it was written.*--repair"
    ):
        plan([experiment], PreparationContext(copied_stores))
    stores = plan([experiment], PreparationContext(copied_stores, repair=True))
    assert [(store.exists, store.images) for store in stores] == [
        (True, 0),
        (False, 128),
        (True, 0),
        (True, 0),
    ]
    assert not shard.parent.with_name(f".{shard.parent.name}.partial").exists()
    assert (
        prepare(experiment, PreparationContext(copied_stores, repair=True)).facts.images_encoded
        == 128
    )


@pytest.mark.parametrize(
    ("name", "left"), [("ids.npy", 0), ("shards/00000.json", 128), ("manifest.json", 256)]
)
def test_repair_encodes_as_many_images_as_planned(experiment, copied_stores, assets, name, left):
    file = copied_stores / "embeddings" / Path(assets.teachers[0].views).name / name
    file.write_bytes(b"")
    stores = plan([experiment], PreparationContext(copied_stores, repair=True))
    assert (stores[1].exists, stores[1].images) == (False, left)
    assert (
        prepare(experiment, PreparationContext(copied_stores, repair=True)).facts.images_encoded
        == left
    )


def test_repair_does_not_plan_views_that_a_larger_store_has(experiment, copied_stores, assets):
    smaller = with_values(experiment, {"views.stored": 1, "data.train_images": 64})
    assert images(plan([smaller], PreparationContext(copied_stores, repair=True))) == 0


@pytest.mark.parametrize(
    ("name", "left", "known"),
    [
        ("images-00001.npy", 64, True),
        ("bad.csv", 0, True),
        ("labels.npy", 0, False),
        ("manifest.json", 192, False),
    ],
)
def test_damaged_packed_images_are_a_user_error_and_repair_packs_only_their_shards(
    experiment, copied_stores, assets, name, left, known
):
    """Without labels the split is unknown; with them, embeddings are found despite bad pixels."""
    file = copied_stores / "packed" / Path(assets.packed).name / name
    file.write_bytes(b"")
    with pytest.raises(StoreDamaged, match="--repair"):
        plan([experiment], PreparationContext(copied_stores))
    stores = plan([experiment], PreparationContext(copied_stores, repair=True))
    assert (stores[0].exists, stores[0].images) == (False, left)
    assert [store.exists for store in stores[1:3]] == [known, known]
    assert (
        prepare(experiment, PreparationContext(copied_stores, repair=True)).facts.images_encoded
        == 0
    )


def killed_after(count):
    def run(job, shards, folder):
        for number, index in enumerate(in_process(job, shards[:count], folder), 1):
            yield index
            if number == count:
                raise KeyboardInterrupt

    return run


def test_finished_shards_of_a_killed_command_are_not_planned_again(experiment, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        prepare(experiment, PreparationContext(tmp_path, run=killed_after(1)))
    assert of(plan([experiment], PreparationContext(tmp_path)), "images") == [
        ("192 images, 32 px raw", 192 - 64)
    ]
    PreparationContext(tmp_path).packed(experiment.data)
    with pytest.raises(KeyboardInterrupt):
        prepare(experiment, PreparationContext(tmp_path, run=killed_after(1)))
    # The check of the class names has encoded the 32 images of val.
    left = 128 + 64 - 32
    assert images(plan([experiment], PreparationContext(tmp_path))) == left
    assert prepare(experiment, PreparationContext(tmp_path)).facts.images_encoded == left


def test_the_time_of_a_demo_teacher_is_known_once_it_is_trained(
    experiment, packed_only, teacher_folder, monkeypatch
):
    def train(folder, progress):
        for path in teacher_folder.iterdir():
            shutil.copy(path, folder)

    monkeypatch.setattr("beamclip.teachers.demo.train_demo_teacher", train)
    demo = with_values(experiment, {"teacher.model": "demo"})
    stores = plan([demo], PreparationContext(packed_only))
    assert of(stores, "teacher") == [("the demo's own", 0)]
    assert of(stores, "embeddings") == [
        ("demo, 2 views of 128 images", 256),
        ("demo, the central view of 64 images", 64),
    ]
    assert of(stores, "anchors") == [("demo, plain for 4 classes, 4 prompts", 0)]
    assert [store.seconds for store in stores[2:]] == [None] * 3 and not any(
        store.exists for store in stores[1:]
    )
    PreparationContext(packed_only).teacher(demo.teacher)
    stores = plan([demo], PreparationContext(packed_only))
    assert [store.exists for store in stores] == [
        True,
        True,
        False,
        False,
        False,
    ] and images(stores) == 320
    assert prepare(demo, PreparationContext(packed_only)).facts.images_encoded == 320
    assert all(store.exists for store in plan([demo], PreparationContext(packed_only)))


TOO_MUCH = [
    ({"optimizer.batch_size": 4096}, "optimizer.batch_size 4096 is more than"),
    ({"objective.name": "clip_cid", "objective.clip_cid.clusters": 5000}, "5000"),
    ({"objective.name": "seed", "objective.seed.queue": 5000}, "queue"),
    ({"probe.knn_k": 5000}, "probe.knn_k is 5000, but there are only"),
]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("values", "message"), TOO_MUCH)
def test_the_plan_refuses_more_images_than_the_data_has(
    experiment, packed_only, tmp_path, values, message, packed
):
    with pytest.raises(UserError, match=message):
        plan(
            [with_values(experiment, values)],
            PreparationContext(packed_only if packed else tmp_path),
        )

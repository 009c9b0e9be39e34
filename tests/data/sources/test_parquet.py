import base64
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beamclip.config import DataConfig, UserError
from beamclip.data import open_source, pack

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def source_of(folder, **config):
    return open_source(DataConfig(source="parquet", path=str(folder), **config))


def test_reads_shards_in_order(write_parquet, jpeg):
    write_parquet("data/train-00000-of-00002.parquet", [0, 1], paths=["x.jpg", "y.jpg"])
    write_parquet("data/train-00001-of-00002.parquet", [1])
    source = source_of(write_parquet("data/validation-00000-of-00001.parquet", [1, 0]))
    items = list(source.items("train"))
    assert source.names == ("red", "blue") and source.keys == (None, None)
    assert [item.label for item in items] == [0, 1, 1] and items[1].image == jpeg((250, 0, 250))
    assert items[1].name == "train-00000-of-00002.parquet row 1 (y.jpg)"
    assert [item.label for item in source.items("test")] == [1, 0]


def test_column_names_of_the_hub_are_recognized(write_parquet):
    for split in ("train", "test"):
        folder = write_parquet(f"{split}/0000.parquet", [0, 1], columns=("img", "fine_label"))
    assert source_of(folder).count("test") == 2


def test_wordnet_ids_in_paths_become_keys(write_parquet):
    paths = ["n01440764_1.JPEG", "n02102040/1.JPEG"]
    for split in ("train", "test"):
        folder = write_parquet(f"{split}-0.parquet", [0, 1], paths=paths)
    assert source_of(folder).keys == ("n01440764", "n02102040")


def test_lists_of_lemmas_become_the_names_that_clip_knows(write_parquet):
    """Lists of lemmas as in ImageNet's parquet files on the hub.

    By their first lemmas, both cranes would be called `crane`.
    """
    paths = ["n02012849_1.JPEG", "n03126707/1.JPEG"]
    for split in ("train", "test"):
        folder = write_parquet(
            f"{split}-0.parquet", [0, 1], ("crane, wading bird", "crane, lifter"), paths=paths
        )
    assert source_of(folder).names == ("crane bird", "construction crane")


def test_a_test_split_without_labels_is_ignored(write_parquet):
    write_parquet("train-0.parquet", [0, 1])
    write_parquet("test-0.parquet", [-1, -1, -1])
    assert source_of(write_parquet("validation-0.parquet", [0, 1])).count("test") == 2


def test_class_names_are_read_from_a_file(write_parquet, tmp_path):
    for split in ("train", "test"):
        folder = write_parquet(f"{split}-0.parquet", [0, 1], names=None)
    with pytest.raises(UserError, match="has no class names; give a text file"):
        source_of(folder)
    (tmp_path / "names.txt").write_text("a\nb\n")
    assert source_of(folder, class_names=str(tmp_path / "names.txt")).names == ("a", "b")


def test_a_list_in_another_order_than_its_own_names_is_refused(write_parquet, tmp_path):
    for split in ("train", "test"):
        folder = write_parquet(f"{split}-0.parquet", [0, 1])
    (tmp_path / "names.txt").write_text("blue\nred\n")
    with pytest.raises(
        UserError,
        match=(
            "has 'blue' in line 1, but its class is number 2; "
            "write the lines in the order of the classes"
        ),
    ):
        source_of(folder, class_names=str(tmp_path / "names.txt"))


def test_a_network_that_fails_once_changes_nothing_and_one_that_keeps_failing_is_a_user_error(
    write_parquet, network
):
    for split in ("train", "test"):
        folder = write_parquet(f"{split}-0.parquet", [0, 1])
    steps = (
        lambda source: source.fingerprint,
        lambda source: [item.image for item in source.items("train")],
    )
    wanted = [step(source_of(folder)) for step in steps]

    def failing(step, source, times):
        network.errors = [Exception() for _ in range(times)]
        return step(source)

    for times in range(1, 4):
        source = failing(source_of, f"flaky://{folder}", times)
        assert [failing(step, source, times) for step in steps] == wanted and not network.errors
    source = source_of(f"flaky://{folder}")
    for step, given in ((source_of, f"flaky://{folder}"), *((step, source) for step in steps)):
        with pytest.raises(
            UserError,
            match=(
                r"-0.parquet can't be read \(tried 4 times: Exception\); "
                r"check its disk or network"
            ),
        ):
            failing(step, given, 4)


@pytest.mark.parametrize(
    ("empty", "says"),
    [("train", "has no rows in its train-"), ("test", "has no test split with labels")],
)
def test_a_split_without_rows_is_a_user_error(write_parquet, empty, says):
    for split in ("train", "test"):
        folder = write_parquet(f"{split}-0.parquet", [] if split == empty else [0, 1])
    path = folder / f"{empty}-0.parquet"
    table = pq.read_table(path)
    pq.write_table(
        table.set_column(1, "label", pa.array([])), path
    )  # a column without values has the type null
    with pytest.raises(UserError, match=says):
        source_of(folder)


def test_the_fingerprint_is_over_contents(write_parquet):
    write_parquet("train-0.parquet", [0, 1])
    folder = write_parquet("test-0.parquet", [0, 1])
    before = source_of(folder).fingerprint
    write_parquet("test-0.parquet", [0, 1])
    assert source_of(folder).fingerprint == before
    write_parquet("test-0.parquet", [1, 0])
    assert source_of(folder).fingerprint != before


def test_large_files_are_identified_by_their_footers(write_parquet, monkeypatch):
    monkeypatch.setattr("beamclip.data.sources.parquet._SMALL", 0)
    write_parquet("train-0.parquet", [0, 1])
    before = source_of(write_parquet("test-0.parquet", [0, 1])).fingerprint
    assert source_of(write_parquet("test-0.parquet", [0, 0])).fingerprint != before


def test_a_corrected_label_in_a_large_file_changes_the_fingerprint(
    write_parquet, jpeg, monkeypatch
):
    """Swapping two labels does not change size, offsets and statistics."""
    monkeypatch.setattr("beamclip.data.sources.parquet._SMALL", 0)
    sizes, prints = set(), set()
    for labels in ([0, 1, 0, 1], [1, 0, 0, 1]):
        folder = write_parquet("train-0.parquet", labels, images=[jpeg()] * 4)
        write_parquet("test-0.parquet", [0, 1])
        sizes.add((folder / "train-0.parquet").stat().st_size)
        prints.add(source_of(folder).fingerprint)
    assert len(sizes) == 1 and len(prints) == 2


@pytest.mark.parametrize(
    ("train", "test", "match"),
    [
        ({"labels": [0, 1]}, None, "has no test split with labels"),
        (None, {"labels": [0, 1]}, "has no train-"),
        (
            {"labels": [0, 1], "columns": ("picture", "label")},
            {"labels": [0, 1]},
            "has no column 'image', only picture, label",
        ),
        (
            {"labels": [0, 1], "columns": ("image", "kind")},
            {"labels": [0, 1]},
            "has no column 'label', only image, kind",
        ),
        ({"labels": [0, 1, 2]}, {"labels": [0, 1]}, "has 2 class names for 3 labels"),
        ({"labels": [0, -1]}, {"labels": [0, 1]}, "has the label -1 in its train split"),
    ],
)
def test_bad_files_are_a_user_error(write_parquet, tmp_path, train, test, match):
    for name, facts in (("train-0.parquet", train), ("test-0.parquet", test)):
        if facts:
            write_parquet(name, **facts)
    with pytest.raises(UserError, match=match):
        source_of(tmp_path / "parquet")


def test_images_without_a_path_have_no_wordnet_ids(write_parquet, jpeg):
    write_parquet("train-0.parquet", [0, 1])
    folder = write_parquet("test-0.parquet", [0, 1])
    for path in folder.iterdir():
        table = pq.read_table(path)
        images = pa.array([{"bytes": jpeg()}] * 2)
        pq.write_table(table.set_column(0, "image", images), path)
    assert (
        source_of(folder).keys == (None, None)
        and [item.image for item in source_of(folder).items("train")] == [jpeg()] * 2
    )


def test_two_columns_of_labels_are_a_user_error(write_parquet):
    folder = write_parquet("train-0.parquet", [0, 1])
    table = pq.read_table(folder / "train-0.parquet")
    pq.write_table(table.append_column("label", table["label"]), folder / "train-0.parquet")
    with pytest.raises(
        UserError,
        match="train-0.parquet has more than one column 'label'; rename all but the one to use",
    ):
        source_of(folder)


def test_a_damaged_file_is_a_user_error(write_parquet):
    folder = write_parquet("train-0.parquet", [0, 1])
    (folder / "test-0.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"test-0.parquet can't be read as parquet"):
        source_of(folder)


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared images beside the checkout")
def test_real_imagenette_knows_its_wordnet_ids():
    source = source_of(SHARED / "imagenette128")
    assert (source.count("train"), source.count("test")) == (9469, 3925)
    assert source.names[0] == "tench" and source.keys[0] == "n01440764"


@pytest.mark.parametrize(
    "layout", ["plain_text/{}-00000-of-00001.parquet", "default/{}/0000.parquet"]
)
def test_parquet_is_found_in_the_folder_of_a_configuration(write_parquet, layout):
    """Found with and without `data.source`."""
    for split in ("train", "test"):
        folder = write_parquet(layout.format(split), [0, 1, 1], columns=("img", "label"))
    for source in (source_of(folder), open_source(DataConfig(path=str(folder)))):
        assert (source.count("train"), source.count("test"), source.notes) == (3, 3, ())
    write_parquet("other/train-0.parquet", [0, 1])
    first, second = sorted((layout.split("/")[0], "other"))
    with pytest.raises(UserError, match=f"a train split in {first} and in {second}; give --data"):
        source_of(folder)


def saved(folder, source, stream=True, names="{}/data-00000-of-00001.arrow"):
    """Write the tables of a parquet folder as `save_to_disk` does."""
    for split in ("train", "test"):
        table = pq.read_table(source / f"{split}-0.parquet")
        path = folder / names.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        make = pa.ipc.new_stream if stream else pa.ipc.new_file
        with make(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return folder


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("names", ["{}/data-00000-of-00001.arrow", "cifar10-{}.arrow"])
def test_save_to_disk_folders_give_the_same_items_as_parquet(
    write_parquet, tmp_path, stream, names
):
    write_parquet("train-0.parquet", [0, 1, 1, 0, 1])
    parquet = write_parquet("test-0.parquet", [1, 0])
    wanted = source_of(parquet)
    source = open_source(DataConfig(path=str(saved(tmp_path / "saved", parquet, stream, names))))
    assert (source.names, source.count("train")) == (("red", "blue"), 5)
    for part in ((0, None), (1, 4), (3, 9)):
        assert [(item.image, item.label) for item in source.items("train", *part)] == [
            (item.image, item.label) for item in wanted.items("train", *part)
        ]


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_index_of_rows_is_not_ignored(write_parquet, tmp_path, split):
    """`datasets` writes it for a set that was filtered or shuffled."""
    write_parquet("train-0.parquet", [0, 1])
    folder = saved(tmp_path / "saved", write_parquet("test-0.parquet", [1, 0]))
    (folder / split / "indices-00000-of-00001.arrow").write_bytes(b"any")
    with pytest.raises(UserError, match=rf"has {split}/indices.*, which says which rows "):
        source_of(folder)


def test_a_damaged_arrow_file_is_a_user_error(write_parquet, tmp_path):
    write_parquet("train-0.parquet", [0, 1])
    folder = saved(tmp_path / "saved", write_parquet("test-0.parquet", [1, 0]))
    (folder / "test/data-00000-of-00001.arrow").write_bytes(b"not really")
    with pytest.raises(UserError, match=r"arrow can't be read as Arrow"):
        source_of(folder)


def test_columns_are_found_by_the_types_that_datasets_gave_them(write_parquet):
    for split in ("train", "test"):
        folder = write_parquet(f"{split}-0.parquet", [0, 1], columns=("picture", "kind"))
        table = pq.read_table(folder / f"{split}-0.parquet")
        features = (
            '{"info": {"features": {"picture": {"_type": "Image"}, '
            '"kind": {"_type": "ClassLabel", "names": ["red", "blue"]}}}}'
        )
        path = folder / f"{split}-0.parquet"
        pq.write_table(table.replace_schema_metadata({"huggingface": features}), path)
    assert source_of(folder).names == ("red", "blue") and source_of(folder).count("train") == 2


def with_images(folder, column):
    """Replace the images of both splits by another column."""
    for split in ("train", "test"):
        table = pq.read_table(folder / f"{split}-0.parquet")
        pq.write_table(table.set_column(0, "image", column), folder / f"{split}-0.parquet")
    return folder


@pytest.mark.parametrize("form", ["absolute", "beside", "text"])
def test_paths_in_place_of_images_are_followed(write_parquet, jpeg, tmp_path, form):
    """As `to_parquet` writes a folder of images."""
    for split in ("train", "test"):
        folder = write_parquet(f"{split}-0.parquet", [0, 1])
    paths = []
    for number in range(2):
        path = folder / "images" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg((9 * number, 0, 0)))
        paths.append(str(path) if form == "absolute" else f"images/{number}.jpg")
    rows = paths if form == "text" else [{"bytes": None, "path": path} for path in paths]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    with_images(folder, pa.array(rows, pa.string() if form == "text" else kind))
    source = source_of(folder)
    assert [item.image.read() for item in source.items("train")] == [
        jpeg((0, 0, 0)),
        jpeg((9, 0, 0)),
    ]
    start = "/" if form == "absolute" else folder
    assert source.notes == (f"train-0.parquet holds paths of images, which are read from {start}",)
    assert len(pack(DataConfig(path=str(folder), image_size=8), tmp_path / "stores").bad) == 0
    # The fingerprint depends on the images.
    before = source.fingerprint
    assert source_of(folder).fingerprint == before
    os.utime(folder / "images/0.jpg", (1, 1))
    assert source_of(folder).fingerprint != before
    (folder / "images/0.jpg").unlink()
    with pytest.raises(UserError, match=r"row 0 has no image, only the path .*0.jpg, which is not"):
        source_of(folder)


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_base64_is_decoded(write_parquet, jpeg, prefix):
    for split in ("train", "test"):
        folder = write_parquet(f"{split}-0.parquet", [0, 1])
    images = [jpeg((9 * number, 0, 0)) for number in range(2)]
    with_images(folder, pa.array([prefix + base64.b64encode(image).decode() for image in images]))
    assert [item.image for item in source_of(folder).items("test")] == images


def test_an_image_column_without_images_is_a_user_error_when_it_is_opened(write_parquet):
    for split in ("train", "test"):
        folder = write_parquet(f"{split}-0.parquet", [0, 1])
    with_images(folder, pa.array([[1, 2], [3, 4]]))
    with pytest.raises(UserError, match=r"column 'image' holds list<.*>, not images; write"):
        source_of(folder)


def test_several_labels_per_row_are_a_user_error(write_parquet):
    folder = write_parquet("train-0.parquet", [0, 1])
    table = pq.read_table(folder / "train-0.parquet")
    labels = pa.array([[0, 1], [1]])
    pq.write_table(table.set_column(1, "label", labels), folder / "train-0.parquet")
    with pytest.raises(UserError, match="column 'label' holds lists of labels, but an image has"):
        source_of(folder)


def test_a_test_split_without_labels_is_in_the_notes(write_parquet):
    write_parquet("train-0.parquet", [0, 1])
    write_parquet("test-0.parquet", [-1, -1])
    source = source_of(write_parquet("validation-0.parquet", [0, 0]))
    assert source.notes == (
        "the test split has no labels, so validation is the test split",
        "class blue has images in train but none in test",
    )


def test_files_that_are_missing_by_the_names_of_others_are_in_the_notes(write_parquet):
    write_parquet("train-00000-of-00003-1a2b.parquet", [0, 1])
    write_parquet("train-00002-of-00003-1a2b.parquet", [0, 1])
    source = source_of(write_parquet("test-00000-of-00001.parquet", [0, 1]))
    assert source.notes == (
        "only 2 of 3 files are there, such as train-00000-of-00003-1a2b.parquet",
    )


def test_text_that_is_no_path_is_shortened_in_the_message(write_parquet):
    folder = write_parquet("train-0.parquet", [0, 1])
    write_parquet("test-0.parquet", [0, 1])
    with_images(folder, pa.array(["_9j_" * 1000] * 2))
    with pytest.raises(UserError, match="only the path _9j_") as error:
        source_of(folder)
    assert len(str(error.value)) < 500

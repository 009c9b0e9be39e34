import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beamclip.cli.evaluate import other_data, own_data
from beamclip.config import UserError, load_experiment
from beamclip.preparation.context import PreparationContext


def named(path):
    return own_data(load_experiment("imagenette", {"data.source": "auto", "data.path": path})).name


def test_data_are_called_after_their_folder_however_it_is_written(tmp_path, monkeypatch):
    (tmp_path / "pets" / "more").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "pets")
    written = (
        ".",
        "..",
        "more/..",
        "../pets",
        str(tmp_path / "pets"),
        "~/pets/",
        "s3://bucket/pets",
        "/",
    )
    assert [named(path) for path in written] == [
        "pets",
        tmp_path.name,
        "pets",
        "pets",
        "pets",
        "pets",
        "pets",
        "/",
    ]


def test_a_link_keeps_the_name_it_was_given(tmp_path):
    (tmp_path / "0f3a").mkdir()
    (tmp_path / "pets").symlink_to(tmp_path / "0f3a")
    assert named(str(tmp_path / "pets")) == "pets"


@pytest.fixture
def experiment(tmp_path):
    return load_experiment("demo", {"storage.path": str(tmp_path)})


def jpeg(number):
    content = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(content, "jpeg")
    return content.getvalue()


def make_tars(folder):
    folder.mkdir()
    for split in ("train", "test"):
        with tarfile.open(folder / f"{split}-0.tar", "w") as tar:
            for number in range(4):
                for name, content in (
                    (f"{number}.jpg", jpeg(number)),
                    (f"{number}.cls", str(number % 2).encode()),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return folder


def make_parquet(folder):
    folder.mkdir()
    for split in ("train", "test"):
        rows = {
            "image": [{"bytes": jpeg(number), "path": None} for number in range(4)],
            "label": [0, 1, 0, 1],
        }
        pq.write_table(pa.table(rows), folder / f"{split}-0.parquet")
    return folder


@pytest.mark.parametrize("make", [make_tars, make_parquet])
def test_other_data_without_class_names_are_told_where_to_write_them_and_not_of_a_setting_that_is_the_model_s_own(
    experiment, tmp_path, make
):
    pets = other_data("pets", str(make(tmp_path / "there")), experiment, 32, "demo")
    with pytest.raises(
        UserError,
        match=r"--transfer pets: .*there has no class names; write them into classnames.txt beside tar",
    ) as caught:
        pets.check(PreparationContext(tmp_path))
    assert "data.class_names" not in str(caught.value)


def test_tar_shards_with_a_list_of_names_beside_them_can_be_judged_on(experiment, tmp_path):
    (make_tars(tmp_path / "there") / "classnames.txt").write_text("cat\ndog\n")
    pets = other_data("pets", str(tmp_path / "there"), experiment, 32, "demo")
    assert pets.transferred and PreparationContext(tmp_path).source(pets.experiment.data).names == (
        "cat",
        "dog",
    )


def test_a_folder_that_is_not_there_is_said_of_the_option_that_was_typed(experiment, tmp_path):
    with pytest.raises(
        UserError,
        match=r"--transfer pets: data.path .*none does not exist; say --transfer pets=DIR with the folder",
    ):
        other_data("pets", str(tmp_path / "none"), experiment, 32, "demo").check(
            PreparationContext(tmp_path)
        )


def test_other_data_by_the_own_name_is_refused(experiment):
    with pytest.raises(UserError, match="--transfer demo is what the model's own data is called"):
        other_data("demo", "x", experiment, 32, "demo")

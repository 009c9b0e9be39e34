import json
import resource

import pytest

from beamclip.config import Sweep, UserError, choice, load_experiment
from beamclip.stores.paths import default_tracking_uri, stores_root, tracking_uri
from beamclip.stores.sweep_record import SweepRecord, find_sweep, new_sweep_id, read_record

SWEEP = Sweep(
    name="temp", question="which?", space={"objective.teacher_temperature": choice(0.1, 0.2)}
)


def experiment(**values):
    return load_experiment("demo", {key.replace("__", "."): value for key, value in values.items()})


def record(tmp_path, sweep_id="20260101-000000-0001"):
    return SweepRecord(
        SWEEP,
        experiment(storage__path=str(tmp_path)),
        sweep_id,
        {"key": '{"facts": {}}'},
        {"knn/test_top1": 1.5},
    )


def test_a_saved_record_is_read_unchanged(tmp_path):
    saved = record(tmp_path)
    saved.save()
    assert read_record(saved.folder) == saved
    assert read_record(f"file://{saved.folder}") == saved


def test_the_latest_sweep_of_a_name_is_found_and_other_folders_are_ignored(tmp_path):
    for sweep_id in ("20260102-000000-0001", "20260101-235959-9999"):
        record(tmp_path, sweep_id).save()
    (tmp_path / "sweeps" / "temp" / "zz-notes").mkdir()
    assert (
        find_sweep("temp", experiment(storage__path=str(tmp_path))).sweep_id
        == "20260102-000000-0001"
    )
    assert record(tmp_path, new_sweep_id()).folder > record(tmp_path, "20260102-000000-0001").folder
    assert (
        find_sweep("temp", experiment(storage__path=str(tmp_path)), "20260101-235959-9999").sweep_id
        == "20260101-235959-9999"
    )
    with pytest.raises(
        UserError,
        match=(
            r"^sweep 20260101-235959-9998 is not in .*/temp, so it can't be resumed; "
            r"did you mean 20260101-235959-9999"
        ),
    ):
        find_sweep("temp", experiment(storage__path=str(tmp_path)), "20260101-235959-9998")


@pytest.mark.parametrize(
    ("old_name", "new_name"), [("old", "new"), ("50%20", "new"), ("old", "a?b")]
)
def test_a_moved_sweep_uses_stores_and_database_in_its_new_place(tmp_path, old_name, new_name):
    (tmp_path / old_name).mkdir()
    old, new = f"{tmp_path}/{old_name}", f"{tmp_path}/{new_name}"
    inside = {"storage__cache": f"{old}/stores", "tracking__uri": default_tracking_uri(old)}
    SweepRecord(SWEEP, experiment(storage__path=old, **inside), "20260101-000000-0001").save()
    (tmp_path / old_name).rename(tmp_path / new_name)
    found = find_sweep("temp", experiment(storage__path=new))
    assert found.folder == f"{new}/sweeps/temp/20260101-000000-0001"
    assert (stores_root(found.base), tracking_uri(found.base)) == (
        tmp_path / new_name / "stores",
        default_tracking_uri(new),
    )


def test_paths_inside_a_moved_storage_are_updated_and_others_are_not(tmp_path):
    old, new = f"{tmp_path}/old", f"{tmp_path}/new"
    settings = {
        "data__keep": f"{old}/stores/balance/1f/kept.json",
        "student__init": f"{old}/stores/starts/a/student.safetensors",
    }
    settings |= {
        "teacher__model": f"local-dir:{old}/teacher",
        "data__path": f"{old}er/images",
        "data__source": "folder",
    }
    space = {"student.init": choice("random", f"{old}/other.safetensors")}
    begun = SweepRecord(
        Sweep(name="temp", space=space),
        experiment(storage__path=old, **settings),
        "20260101-000000-0001",
        {"key": f'{{"packed": "{old}/stores/packed/1f"}}'},
    )
    begun.save()
    (tmp_path / "old").rename(tmp_path / "new")
    found = find_sweep("temp", experiment(storage__path=new))
    assert found.base.data.keep == f"{new}/stores/balance/1f/kept.json"
    assert (found.base.student.init, found.base.teacher.model) == (
        f"{new}/stores/starts/a/student.safetensors",
        f"local-dir:{new}/teacher",
    )
    assert found.base.data.path == f"{old}er/images" and json.loads(found.assets["key"]) == {
        "packed": f"{new}/stores/packed/1f"
    }
    assert found.sweep.space["student.init"].values == ("random", f"{new}/other.safetensors")


def test_a_record_is_never_half_written(tmp_path, monkeypatch):
    """A full disk, for example, while a sweep is resumed."""
    saved = record(tmp_path)
    saved.save()
    with monkeypatch.context() as full:
        full.setattr(
            "beamclip.stores.sweep_record.json.dumps", lambda *content, **how: "{".ljust(10**6)
        )
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**4, resource.RLIM_INFINITY))
        try:
            with pytest.raises(UserError, match="can't be written"):
                saved.save()
        finally:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )
    assert read_record(saved.folder) == saved


def test_a_folder_with_only_a_report_is_not_a_sweep(tmp_path):
    record(tmp_path).save()
    (tmp_path / "sweeps" / "temp" / "20260202-000000-0001" / "report").mkdir(parents=True)
    assert find_sweep("temp", experiment(storage__path=str(tmp_path))) == record(tmp_path)


def test_an_empty_folder_of_a_sweep_is_not_suggested(tmp_path):
    (tmp_path / "sweeps" / "temp").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^no sweep temp is in .*/sweeps, so none can be resumed$"):
        find_sweep("temp", experiment(storage__path=str(tmp_path)))


def test_a_sweep_in_a_storage_from_the_environment_is_found_by_a_relative_path(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("BEAMCLIP_STORAGE", str(tmp_path))
    SweepRecord(SWEEP, experiment(storage__cache="/shared"), "20260101-000000-0001").save()
    monkeypatch.setenv("BEAMCLIP_STORAGE", "/nowhere")
    monkeypatch.chdir(tmp_path.parent)
    found = find_sweep("temp", experiment(storage__path=tmp_path.name))
    assert (
        found.folder == f"{tmp_path}/sweeps/temp/20260101-000000-0001"
        and found.base.storage.cache == "/shared"
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"sweep": {"name": "temp"}, "base": {}, "sweep_id": "x", "colour": 1}',
        "\udcff",
    ],
)
def test_the_error_for_an_unreadable_record_says_how_to_continue(tmp_path, content):
    (tmp_path / "sweep.json").write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match="start it again without --resume"):
        read_record(str(tmp_path))


def test_a_record_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        record(tmp_path / "file").save()


def test_files_of_objectives_in_a_moved_storage_are_named_where_they_are_now(tmp_path):
    old, new = f"{tmp_path}/old", f"{tmp_path}/new"
    text = (
        "@register_objective(requires=Requirements(labels=True))\n"
        "def {}(inputs, *, margin: float = 0.5):\n    pass\n"
    )
    code = {f"{old}/a.py": text.format("f"), f"{old}/b.py": text.format("g")}
    name = f"csm+{old}/a.py:f+{old}/b.py:g"
    begun = experiment(storage__path=old, objective__code=code, objective__name=name)
    SweepRecord(SWEEP, begun, "20260101-000000-0001").save()
    (tmp_path / "old").rename(tmp_path / "new")
    found = find_sweep("temp", experiment(storage__path=new)).base.objective
    assert found.name == f"csm+{new}/a.py:f+{new}/b.py:g"
    assert found.code == {f"{new}/a.py": text.format("f"), f"{new}/b.py": text.format("g")}

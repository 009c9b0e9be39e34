from dataclasses import dataclass, field

import pytest

from beamclip.stores import Shards, in_process, run_shards
from beamclip.stores.shards import is_unchanged


@dataclass
class Letters:
    """A job whose shards have one letter each. It records the calls of its methods."""

    sizes: tuple[int, ...] = (3, 3, 2)
    fail_at: int = -1
    written: list = field(default_factory=list)
    opened: int = 0
    label: str = "letters"
    on_device: bool = False

    def open(self, folder, threads):
        self.opened += 1

        def write(index):
            if index == self.fail_at:
                raise KeyboardInterrupt
            (folder / f"{index}.tmp").write_text("abc"[index] * 100)
            Shards(folder).finish(
                index,
                {f"{index}.txt": folder / f"{index}.tmp"},
                {"index": index, "letter": "abc"[index]},
            )
            self.written.append(index)

        return write


def run(job, folder, seen=None):
    return list(
        run_shards(
            job, folder, in_process, lambda *state: seen.append(state) if seen is not None else None
        )
    )


def test_all_shards_are_written_recorded_and_reported(tmp_path):
    job, seen = Letters(), []
    records = run(job, tmp_path, seen)
    assert job.written == [0, 1, 2] and [record["letter"] for record in records] == ["a", "b", "c"]
    assert seen == [("letters", 0, 8), ("letters", 3, 8), ("letters", 6, 8), ("letters", 8, 8)]
    assert (tmp_path / "1.txt").read_text() == "b" * 100 and records[1]["files"]["1.txt"][
        "bytes"
    ] == 100
    assert not list(tmp_path.glob("*.tmp"))


def test_after_a_kill_only_what_is_missing_is_written(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Letters(fail_at=2), tmp_path)
    job, seen = Letters(), []
    assert len(run(job, tmp_path, seen)) == 3
    assert job.written == [2] and seen[0] == ("letters", 6, 8)
    again = Letters()
    run(again, tmp_path)
    assert again.written == [] and again.opened == 0  # the job is not opened, which could be costly


@pytest.mark.parametrize("harm", ["changed", "cut", "gone", "no record", "garbled record"])
def test_a_shard_that_has_changed_is_written_again(tmp_path, harm):
    run(Letters(), tmp_path)
    shard, record = tmp_path / "1.txt", tmp_path / Shards(tmp_path).record_name(1)
    if harm == "changed":
        shard.write_text("x" * 100)
    elif harm == "cut":
        shard.write_text("b" * 99)
    elif harm == "gone":
        shard.unlink()
    elif harm == "no record":
        record.unlink()
    else:
        record.write_text("{")
    job = Letters()
    run(job, tmp_path)
    assert job.written == [1] and shard.read_text() == "b" * 100


def test_a_file_is_read_only_if_its_stamp_is_unknown(tmp_path, monkeypatch):
    run(Letters(), tmp_path)
    record = Shards(tmp_path).record(0)
    monkeypatch.setattr("beamclip.stores.shards.file_hash", lambda path: pytest.fail("read"))
    assert Shards(tmp_path).record(0) == record
    monkeypatch.undo()
    (tmp_path / "0.txt").touch()
    assert is_unchanged(tmp_path / "0.txt", record["files"]["0.txt"], None)

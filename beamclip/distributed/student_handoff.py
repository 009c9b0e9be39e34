"""From one trial of a sweep to another that starts from what it has learnt."""

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyarrow import fs
from ray.exceptions import RayError

from beamclip.config import Experiment, UserError
from beamclip.stores import key_of
from beamclip.stores.paths import filesystem_of

_POLL = 1.0  # seconds


class StudentHandoff:
    """Where a trial leaves its student, under the name of its experiment, and finds another's.

    A trial that ends in any other way than by leaving a student says so, so that nobody waits for it for ever. One whose process was lost
    can't: where it is not tried again, the sweep's own process says it.

    Args:
        folder: folder or URI of the sweep.
        experiment: the trial's.
    """

    def __init__(self, folder: str, experiment: Experiment) -> None:
        self._folder, self._name = f"{folder}/students", _name(experiment)
        self._left = False

    def __enter__(self) -> Self:
        filesystem, path = filesystem_of(self._folder)
        filesystem.create_dir(path, recursive=True)
        if filesystem.get_file_info(f"{path}/{self._name}.failed").type != fs.FileType.NotFound:
            filesystem.delete_file(f"{path}/{self._name}.failed")  # of an earlier attempt
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._left and not isinstance(
            error, RayError
        ):  # after the loss of a process this trial is tried again
            self.give_up()

    def give_up(self) -> None:
        """Say that this trial leaves no student, unless it has left one."""
        filesystem, path = filesystem_of(self._folder)
        filesystem.create_dir(path, recursive=True)
        if (
            filesystem.get_file_info(f"{path}/{self._name}.safetensors").type
            == fs.FileType.NotFound
        ):
            with filesystem.open_output_stream(f"{path}/{self._name}.failed") as stream:
                stream.write(b"")

    def leave(self, checkpoint: Any) -> None:
        """Keep the student of a run's last checkpoint (Ray's); one that was never probed has not come to its end, and leaves none."""
        if checkpoint is None:
            return
        filesystem, path = filesystem_of(self._folder)
        names = (f"{path}/{self._name}.part", f"{path}/{self._name}.safetensors")
        with checkpoint.as_directory() as here:
            if Path(here, "probe.safetensors").exists():
                fs.copy_files(
                    str(Path(here, "student.safetensors")),
                    names[0],
                    fs.LocalFileSystem(),
                    filesystem,
                )
                filesystem.move(*names)
                self._left = True

    def wait_for(self, other: Experiment) -> str:
        """The file of another trial's student, once it is there.

        Raises:
            UserError: that trial failed.
        """
        filesystem, path = filesystem_of(self._folder)
        while True:
            student, failed = (
                f"{path}/{_name(other)}.{ending}" for ending in ("safetensors", "failed")
            )
            here, gone = (
                info.type != fs.FileType.NotFound
                for info in filesystem.get_file_info([student, failed])
            )
            if here:
                return f"{self._folder}/{_name(other)}.safetensors"
            if gone:
                raise UserError(
                    "the trial that student.init names has failed, so there is no student to start from; see that trial's error"
                )
            time.sleep(_POLL)


def forget_failures(folder: str) -> None:
    """Let trials of this sweep be waited for that failed in an earlier session, and may not in this one."""
    filesystem, path = filesystem_of(f"{folder}/students")
    for entry in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True)):
        if entry.extension == "failed":
            filesystem.delete_file(entry.path)


def _name(experiment: Experiment) -> str:
    return key_of(experiment.model_dump(mode="json", exclude={"storage", "tracking", "scaling"}))

"""Hand the student of one trial over to another trial of the same sweep that starts from it."""

import contextlib
import time
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pyarrow import fs
from ray.exceptions import RayError

from beamclip.config import Experiment, UserError
from beamclip.stores import key_of
from beamclip.stores.paths import filesystem_of

_POLL_SECONDS = 1.0


class Checkpoint(Protocol):
    """The part of Ray's checkpoint that is used here."""

    def as_directory(self) -> contextlib.AbstractContextManager[str]:
        """Make the checkpoint's files available in a local folder."""


class StudentHandoff:
    """The students of a sweep's trials, each in a file named by a hash of its trial's experiment.

    Use it as a context manager around a trial. A trial that ends without a student leaves a
    `.failed` file, so that no other trial waits for it forever. A trial whose process was lost
    can't do so: unless it is retried, the driver calls `mark_failed`.

    Args:
        folder: folder or URI of the sweep.
        experiment: the trial's experiment.
    """

    def __init__(self, folder: str, experiment: Experiment) -> None:
        self._folder = f"{folder}/students"
        self._name = _file_stem(experiment)
        self._published = False

    def __enter__(self) -> Self:
        filesystem, path = filesystem_of(self._folder)
        filesystem.create_dir(path, recursive=True)
        # An earlier attempt at this trial may have failed.
        mark = f"{path}/{self._name}.failed"
        if _exists(filesystem, mark):
            filesystem.delete_file(mark)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A RayError is the loss of a process, after which the trial is retried.
        if not self._published and not isinstance(error, RayError):
            self.mark_failed()

    def mark_failed(self) -> None:
        """Record that this trial leaves no student, unless it has left one."""
        filesystem, path = filesystem_of(self._folder)
        filesystem.create_dir(path, recursive=True)
        if not _exists(filesystem, f"{path}/{self._name}.safetensors"):
            with filesystem.open_output_stream(f"{path}/{self._name}.failed") as stream:
                stream.write(b"")

    def publish(self, checkpoint: Checkpoint | None) -> None:
        """Keep the student of a trial's last checkpoint (Ray's).

        A checkpoint without a probe is that of an unfinished trial: its student is not kept.
        """
        if checkpoint is None:
            return
        filesystem, path = filesystem_of(self._folder)
        partial = f"{path}/{self._name}.part"
        with checkpoint.as_directory() as folder:
            if not Path(folder, "probe.safetensors").exists():
                return
            student = str(Path(folder, "student.safetensors"))
            fs.copy_files(student, partial, fs.LocalFileSystem(), filesystem)
        filesystem.move(partial, f"{path}/{self._name}.safetensors")
        self._published = True

    def wait_for(self, other: Experiment) -> str:
        """Wait until the trial of another experiment has left its student.

        Returns:
            Path or URI of the student's file.

        Raises:
            UserError: that trial failed.
        """
        filesystem, path = filesystem_of(self._folder)
        name = _file_stem(other)
        while True:
            if _exists(filesystem, f"{path}/{name}.safetensors"):
                return f"{self._folder}/{name}.safetensors"
            if _exists(filesystem, f"{path}/{name}.failed"):
                raise UserError(
                    "the trial that student.init names has failed, so there is no student to "
                    "start from; see that trial's error"
                )
            time.sleep(_POLL_SECONDS)


def clear_failure_marks(folder: str) -> None:
    """Remove the `.failed` files of a sweep, whose trials are run again after a resume."""
    filesystem, path = filesystem_of(f"{folder}/students")
    for entry in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True)):
        if entry.extension == "failed":
            filesystem.delete_file(entry.path)


def _exists(filesystem: fs.FileSystem, path: str) -> bool:
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def _file_stem(experiment: Experiment) -> str:
    # Where a run is kept and on how many workers it trains doesn't change its student.
    return key_of(experiment.key_parts(exclude={"storage", "tracking", "scaling"}))

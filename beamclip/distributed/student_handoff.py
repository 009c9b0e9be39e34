"""Hand over the student of one trial to another trial of the same sweep that starts from it."""

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
    """Publishes the student of one trial, and waits for the students of others.

    A student is a file named by a hash of its trial's experiment. Use this class as a context
    manager around a trial. If the trial ends without a student, it leaves a `.failed` file, so that
    no other trial waits for it forever. A trial whose process was lost can't do so. If it is not
    retried either, the driver calls `mark_failed`.

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
        # Remove the mark of an earlier attempt at this trial: it may succeed now.
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
        # A RayError means that a process was lost. Tune retries the trial then.
        if not self._published and not isinstance(error, RayError):
            self.mark_failed()

    def mark_failed(self) -> None:
        """Record that this trial leaves no student. Does nothing if its student is published."""
        filesystem, path = filesystem_of(self._folder)
        filesystem.create_dir(path, recursive=True)
        if not _exists(filesystem, f"{path}/{self._name}.safetensors"):
            with filesystem.open_output_stream(f"{path}/{self._name}.failed") as stream:
                stream.write(b"")

    def publish(self, checkpoint: Checkpoint | None) -> None:
        """Publish the student of the trial's last checkpoint.

        Args:
            checkpoint: Ray's checkpoint. Nothing is published if it is None, or if it has no probe:
                then the trial did not finish.
        """
        if checkpoint is None:
            return
        filesystem, path = filesystem_of(self._folder)
        # Copy to another name and rename, so that a waiting trial never reads half a file.
        partial = f"{path}/{self._name}.part"
        with checkpoint.as_directory() as folder:
            if not Path(folder, "probe.safetensors").exists():
                return
            student = str(Path(folder, "student.safetensors"))
            fs.copy_files(student, partial, fs.LocalFileSystem(), filesystem)
        filesystem.move(partial, f"{path}/{self._name}.safetensors")
        self._published = True

    def wait_for(self, other: Experiment) -> str:
        """Wait until the trial of another experiment has published its student.

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
    """Remove the `.failed` files of a sweep. Its failed trials are run again after a resume."""
    filesystem, path = filesystem_of(f"{folder}/students")
    for entry in filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True)):
        if entry.extension == "failed":
            filesystem.delete_file(entry.path)


def _exists(filesystem: fs.FileSystem, path: str) -> bool:
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def _file_stem(experiment: Experiment) -> str:
    # Storage, tracking and number of workers do not change the student.
    parts = experiment.key_parts(exclude={"storage", "tracking", "scaling"})
    # Sweeps of version 0.1.0 have no such setting, and their students must still be found.
    if not parts["objective"]["code"]:
        del parts["objective"]["code"]
    return key_of(parts)

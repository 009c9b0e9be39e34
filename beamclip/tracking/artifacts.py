"""A trained student and its settings, fetched from the run that trained it."""

import os
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from beamclip.config import UserError
from beamclip.config.provenance import without_passwords
from beamclip.stores import make_folder
from beamclip.tracking.client import connect

# Files that runs keep, read and written without anybody's global state.


class Artifacts:
    """The files of runs at one tracking address.

    Raises:
        UserError: nothing answers there.
    """

    def __init__(self, uri: str) -> None:
        self._client = connect(uri, create=False)

    def read(self, run_id: str, path: str) -> bytes | None:
        """A file of a run, None where it has none of this name or the place is out of reach."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self._client.download_artifacts(run_id, path, folder)).read_bytes()
            except (MlflowException, OSError):
                return None

    def write(self, run_id: str, folder: Path, below: str) -> str | None:
        """Everything in a folder, into a run's folder `below`. Returns what went wrong, in a line, or None."""
        try:
            self._client.log_artifacts(run_id, str(folder), below)
        except (MlflowException, OSError) as error:
            return str(error).strip().split("\n")[0]
        return None


_FILE, _SETTINGS = "student.safetensors", "config.yaml"


def fetch_student(uri: str, run_id: str, folder: Path) -> Path:
    """The run's student, downloaded once into a folder.

    Raises:
        UserError: there is no such run, it kept no student, or the folder can't be written.
    """
    client = _client_of(uri, run_id)
    if not (folder / _FILE).exists():
        with tempfile.TemporaryDirectory(
            dir=make_folder(folder)
        ) as beside:  # half a file would be taken for the student ever after
            try:
                client.download_artifacts(run_id, _FILE, beside)
            except (MlflowException, OSError):
                raise UserError(
                    f"run:{run_id} kept no {_FILE}; it has to be a trial that finished"
                ) from None
            os.replace(Path(beside) / _FILE, folder / _FILE)
    return folder / _FILE


def fetch_settings(uri: str, run_id: str) -> str | None:
    """The settings that a run was made with, as YAML; None where it kept none.

    Raises:
        UserError: there is no such run.
    """
    client = _client_of(uri, run_id)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(client.download_artifacts(run_id, _SETTINGS, folder)).read_text(
                encoding="utf-8"
            )
        except (MlflowException, OSError):
            return None


def _client_of(uri: str, run_id: str) -> MlflowClient:
    client = connect(uri, create=False)
    try:
        client.get_run(run_id)
    except MlflowException:
        raise UserError(
            f"run:{run_id} is no run of {without_passwords(uri)}; copy the id from MLflow, or set --tracking-uri"
        ) from None
    return client

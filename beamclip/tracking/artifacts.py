"""Read and write the artifacts of runs: reports, trained students, and the settings of a run."""

import os
import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from beamclip.config import UserError, first_line
from beamclip.config.provenance import without_passwords
from beamclip.stores import make_folder
from beamclip.tracking.client import connect

_STUDENT = "student.safetensors"
_SETTINGS = "config.yaml"


class Artifacts:
    """Reads and writes the artifacts of runs at one tracking URI.

    MLflow's global tracking URI is not changed.

    Args:
        uri: MLflow tracking URI.

    Raises:
        UserError: the tracking server doesn't answer.
    """

    def __init__(self, uri: str) -> None:
        self._client = connect(uri, create=False)

    def read(self, run_id: str, path: str) -> bytes | None:
        """Return the content of an artifact, or None if it does not exist or can't be downloaded.

        Args:
            run_id: id of the run.
            path: path of the file among the run's artifacts.
        """
        # MLflow downloads to a folder only.
        with tempfile.TemporaryDirectory() as folder:
            try:
                return Path(self._client.download_artifacts(run_id, path, folder)).read_bytes()
            except (MlflowException, OSError):
                return None

    def write(self, run_id: str, folder: Path, artifact_path: str) -> str | None:
        """Upload the content of a folder to a run.

        Args:
            run_id: id of the run.
            folder: local folder.
            artifact_path: folder among the run's artifacts to upload to.

        Returns:
            The first line of the error, or None if there was none.
        """
        try:
            self._client.log_artifacts(run_id, str(folder), artifact_path)
        except (MlflowException, OSError) as error:
            return first_line(error)
        return None


def fetch_student(uri: str, run_id: str, folder: Path) -> Path:
    """Download the student of a run, unless the folder already has it.

    Args:
        uri: MLflow tracking URI.
        run_id: id of a trial's run.
        folder: folder for this run's student; created if it doesn't exist.

    Returns:
        Path of the student's file in `folder`.

    Raises:
        UserError: there is no such run, it has no student, or the folder can't be written.
    """
    client = _client_for_run(uri, run_id)
    path = folder / _STUDENT
    if path.exists():
        return path
    # Download next to the final path and rename, so that an interrupted download leaves no partial
    # file there. The next call would take it for the student.
    with tempfile.TemporaryDirectory(dir=make_folder(folder)) as temporary:
        try:
            client.download_artifacts(run_id, _STUDENT, temporary)
        except (MlflowException, OSError):
            raise UserError(
                f"run:{run_id} has no {_STUDENT}; name a trial that has finished"
            ) from None
        os.replace(Path(temporary) / _STUDENT, path)
    return path


def fetch_settings(uri: str, run_id: str) -> str | None:
    """Return the settings of a run (`config.yaml`) as YAML, or None if it has none.

    Args:
        uri: MLflow tracking URI.
        run_id: id of the run.

    Raises:
        UserError: there is no such run.
    """
    client = _client_for_run(uri, run_id)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = client.download_artifacts(run_id, _SETTINGS, folder)
            return Path(path).read_text(encoding="utf-8")
        except (MlflowException, OSError):
            return None


def _client_for_run(uri: str, run_id: str) -> MlflowClient:
    """Return a client, or raise UserError if the run does not exist."""
    client = connect(uri, create=False)
    try:
        client.get_run(run_id)
    except MlflowException:
        raise UserError(
            f"run:{run_id} is not a run of {without_passwords(uri)}; "
            "copy the id from MLflow, or set --tracking-uri"
        ) from None
    return client

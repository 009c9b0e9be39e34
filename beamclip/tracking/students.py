"""A trained student, fetched from the run that trained it."""

from pathlib import Path

from mlflow.exceptions import MlflowException

from beamclip.config import UserError
from beamclip.tracking.server import connect

_FILE = "student.safetensors"


def fetch_student(uri: str, run_id: str, folder: Path) -> Path:
    """The run's student, downloaded once into a folder.

    Raises:
        UserError: there is no such run, or it kept no student.
    """
    client = connect(uri, create=False)
    try:
        client.get_run(run_id)
    except MlflowException:
        raise UserError(f"run:{run_id} is no run of {uri}; copy the id from MLflow, or set --tracking-uri") from None
    if not (folder / _FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            client.download_artifacts(run_id, _FILE, str(folder))
        except (MlflowException, OSError):
            raise UserError(f"run:{run_id} kept no {_FILE}; it has to be a trial that finished") from None
    return folder / _FILE

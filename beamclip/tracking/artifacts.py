"""Files that runs keep, read and written without anybody's global state."""

import tempfile
from pathlib import Path

from mlflow.exceptions import MlflowException

from beamclip.tracking.server import connect


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

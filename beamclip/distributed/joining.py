"""Joining the cluster that is there, or starting one of this machine alone."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from beamclip.config import UserError

# Ray Train looks after its workers every 2 s; a trial of seconds would wait longer for that than it works.
# Its own metrics go to a Prometheus that a sweep does not have. What each of these saves is in docs/benchmarks.md.
_FAST = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_METRICS_ENABLED": "0"}
# Nobody takes this machine away, so nobody needs to watch for it.
_FAST_ALONE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results go to MLflow, by one writer
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every report holds the metric that a search or ASHA looks at
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A sweep starts more small processes than Ray expects, and says so itself.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
}
_ANSWER_SECONDS = 5


def connect() -> bool:
    """Join the cluster this machine or $RAY_ADDRESS knows of, or start one of this machine alone. Quiet.

    Returns:
        True where a cluster was there before.

    Raises:
        UserError: there should be one, and it doesn't answer; or none can be started.
    """
    existing = _cluster_exists()
    settings = _QUIET | _FAST | ({} if existing else _FAST_ALONE)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    import ray

    # With the dashboard, because Train's cleaner of leaked placement groups asks it.
    alone = {} if existing else {"include_dashboard": True}
    if not ray.is_initialized():
        _check_answers(os.environ.get("RAY_ADDRESS", ""))
        try:
            with _own_signals():
                ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=True, **alone)
        except (OSError, RuntimeError, ValueError) as error:
            if not existing:
                raise UserError(f"Ray can't be started on this machine ({_first_line(error)}); its logs in /tmp/ray say more") from None
            address = os.environ.get("RAY_ADDRESS")
            mend = (
                f"{address} can't be joined ({_first_line(error)}); mend or unset RAY_ADDRESS"
                if address
                else (f"of this machine can't be joined ({_first_line(error)}); `ray stop` forgets one that is gone")
            )
            raise UserError(f"the Ray cluster {mend}") from None
    for name in ("ray.train", "ray.tune", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return existing


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray ends its driver on SIGTERM with a dump of its own; what the program does then is the program's to say."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_answers(address: str) -> None:
    """Ray itself would knock for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except OSError as error:
        raise UserError(f"the Ray cluster {address} doesn't answer ({error.strerror or error}); mend or unset RAY_ADDRESS") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")[:200]


def disconnect() -> None:
    """Leave the cluster; one that we started ends."""
    import ray

    ray.shutdown()


def _cluster_exists() -> bool:
    if os.environ.get("RAY_ADDRESS", "") not in ("", "local"):
        return True
    if os.environ.get("RAY_ADDRESS") == "local":
        return False
    from ray._private import services

    # As ray.init() looks, and not at running processes: somebody else's local Ray is no cluster of ours.
    return services.canonicalize_bootstrap_address(None) is not None

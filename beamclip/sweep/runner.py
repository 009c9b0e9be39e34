"""Run a sweep from start to end: check, build stores, run trials, record, compare.

This is the driver of a sweep. It imports no torch, so it starts fast and holds no GPU.
"""

import errno
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from beamclip.config import (
    Experiment,
    Sweep,
    UserError,
    check_space,
    planned_values,
    trial_count,
    trial_experiment,
)
from beamclip.stores.absolute import absolute_paths
from beamclip.stores.paths import check_writable, local_folder, stores_root
from beamclip.stores.sweep_record import SweepRecord, find_sweep, new_sweep_id
from beamclip.sweep.local_paths import check_local_paths
from beamclip.sweep.mlflow_run import (
    open_tracker,
    print_comparison,
    write_preparation,
    write_start,
    write_summary,
)
from beamclip.sweep.next_steps import resume_command
from beamclip.sweep.objective_check import check_files_unchanged, check_own_objectives
from beamclip.sweep.plan_table import print_plan
from beamclip.sweep.progress import ProgressBars
from beamclip.sweep.recorder import Recorder, TrialTracker
from beamclip.sweep.reference_runs import demo_teacher_warning
from beamclip.sweep.same_content import (
    check_same_inputs,
    check_same_stores,
    moved_lines,
    with_first_teacher_names,
    with_moved_places_of,
)
from beamclip.sweep.student_init import fetch_initial_students

if TYPE_CHECKING:
    from beamclip.distributed.prepare_actor import Preparation

# Errors of flock if another process holds the lock. Others mean that files can't be locked here.
_LOCKED_ERRORS = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)


def run_sweep(
    sweep: Sweep,
    base: Experiment,
    resume: bool | str = False,
    repair: bool = False,
    moved: Mapping[str, Any] | None = None,
) -> str:
    """Run a sweep, or resume an earlier one of its name, and print how its trials compare.

    Args:
        sweep: the space to search. To resume, only its name is used.
        base: experiment that trials vary. To resume, only its storage is used.
        resume: the id of the sweep to resume; True for the latest of this name; False for a new
            sweep.
        repair: verify checksums, and build damaged stores again.
        moved: to resume, new places of inputs that were moved, by setting.

    Returns:
        The sweep's id.

    Raises:
        UserError: something is wrong that the user can fix, or no trial finished with a result.
            Most mistakes are found before costly work starts.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with the command to resume as its text.
            Finished trials are kept; the status of the others is KILLED.
    """
    if resume:
        record = find_sweep(sweep.name, base, resume if isinstance(resume, str) else None)
        record = with_moved_places_of(record, moved)
    else:
        resolved_sweep, resolved_base = _resolve(sweep, base)
        record = SweepRecord(resolved_sweep, resolved_base, new_sweep_id())

    # Find mistakes before anything is written or built.
    check_space(record.sweep, record.base)
    check_local_paths(record.sweep, record.base, record.moved if resume else None)
    check_writable(record.base)
    if resume:
        check_files_unchanged(record.sweep, record.base, record.folder)
    check_own_objectives(record.sweep, record.base)

    with sweep_lock(record), ProgressBars() as bars, open_tracker(record, bool(resume)) as tracker:
        try:
            write_start(tracker, record)
            record = _build_stores(record, bars, repair)
            write_preparation(tracker, record)
            # Ray Tune catches Ctrl-C and returns as usual.
            if not _run_trials(record, tracker, bars, bool(resume)):
                raise KeyboardInterrupt
        except UserError:
            # A new sweep without stores never began. Delete its run, so that it does not count as
            # the latest sweep of this name.
            never_began = not resume and not record.assets
            if never_began:
                tracker.delete()
            raise
        except KeyboardInterrupt:
            # The interruption may come before the stores are built and the record is saved.
            # Without a record, --resume would find an earlier sweep.
            record.save()
            raise KeyboardInterrupt(resume_command(record)) from None
        has_results = write_summary(tracker, record, bars)
        if not has_results:
            tracker.close("FAILED")

    # Print at the end, when the sweep's final status is written and the bars are closed.
    print_comparison(record)
    if not has_results:
        raise UserError(
            f"no trial of {record.sweep.name} finished with a result; "
            "see the errors under the table above"
        )
    return record.sweep_id


def plan_sweep(sweep: Sweep, base: Experiment) -> None:
    """Print which stores a sweep needs, and its number of trials. Builds and trains nothing.

    Args:
        sweep: the space to search.
        base: experiment that trials vary.

    Raises:
        UserError: something is wrong that the user can fix.
    """
    from beamclip.distributed.cluster import concurrent_trials, disconnect

    check_space(sweep, base)
    sweep, base = _resolve(sweep, base)
    check_local_paths(sweep, base)
    check_writable(base)
    try:
        with ProgressBars() as bars:
            _plan_stores(sweep, base, bars, repair=False).close()
        trials = trial_count(sweep)
        concurrent = min(trials, concurrent_trials(base))
        text = "1 trial" if trials == 1 else f"{trials:,} trials, {concurrent:,} at once"
        print(text, file=sys.stderr)
    finally:
        disconnect()


def _resolve(sweep: Sweep, base: Experiment) -> tuple[Sweep, Experiment]:
    """Make all paths absolute, and replace `student.init=run:ID` by the downloaded student.

    Trials run in other folders and environments, and must not need the tracking server.
    """
    return fetch_initial_students(*absolute_paths(sweep, base))


def _plan_stores(
    sweep: Sweep,
    base: Experiment,
    bars: ProgressBars,
    repair: bool,
    record: SweepRecord | None = None,
) -> "Preparation":
    """Connect to the cluster, check that a trial fits, and print the plan of the stores.

    If a record has inputs that were moved, they are checked to be the same.

    Returns:
        The preparation, which can build these stores.

    Raises:
        UserError: the cluster can't be used or is too small, the settings don't fit the data, or
            the stores don't fit on the disk.
    """
    from beamclip.distributed.cluster import concurrent_trials, connect, idle_gpus_warning
    from beamclip.distributed.prepare_actor import Preparation

    connect()
    # Called only for its error, which says that not even one trial fits.
    concurrent_trials(base)
    for warning in (idle_gpus_warning(base), demo_teacher_warning(base)):
        if warning:
            bars.write(f"beamclip: {warning}")
    planned = [trial_experiment(sweep, base, values) for values in planned_values(sweep)]
    moved = {} if record is None else record.moved
    preparation = Preparation(planned, stores_root(base), bars, repair, moved)
    if record is not None and moved:
        # Before the plan, which measures and prints the work on other content.
        check_same_inputs(record, preparation.identify())
    stores = preparation.plan()
    bars.close()
    print_plan(stores, stores_root(base))
    return preparation


def _build_stores(record: SweepRecord, bars: ProgressBars, repair: bool) -> SweepRecord:
    """Build the stores of the whole search space, and save the record with their locations."""
    preparation = _plan_stores(record.sweep, record.base, bars, repair, record)
    built = preparation.build(record.base.probe.untrained)
    preparation.close()
    bars.close()
    assets = built["assets"]
    if record.moved:
        check_same_stores(record, assets)
        assets = with_first_teacher_names(record, assets)
        for line in moved_lines(record):
            bars.write(f"beamclip: {line}")
    record = replace(record, assets=assets, untrained=built["untrained"])
    record.save()
    return record


def _run_trials(
    record: SweepRecord, tracker: TrialTracker, bars: ProgressBars, resume: bool
) -> bool:
    """Run all trials, and record what happens. Returns False if they were interrupted."""
    from beamclip.distributed.cluster import concurrent_trials, disconnect
    from beamclip.distributed.tune import run_trials

    recorder = Recorder(record, tracker, bars)
    ended = False
    try:
        ended = run_trials(record, recorder, concurrent_trials(record.base), resume)
    finally:
        # `close` raises if results can't be written. A local cluster must be shut down even then.
        try:
            recorder.close(ended)
        finally:
            disconnect()
    return ended


@contextmanager
def sweep_lock(record: SweepRecord) -> Iterator[None]:
    """Hold an exclusive flock on the sweep so that no second driver runs it.

    The kernel releases a flock even after SIGKILL. filelock is not used: on file systems without
    flock it uses the existence of a file as the lock, and a killed process would leave that file.

    A sweep is not locked if its storage is remote, or on a file system without locks.

    Args:
        record: the sweep.

    Raises:
        UserError: another process runs the sweep, or the storage can't be written.
    """
    folder = local_folder(record.folder)
    if folder is None:
        yield
        return
    # The lock file is next to the sweep's folder, which only exists once the record is saved.
    with _open_lock_file(folder.with_name(f".{record.sweep_id}.lock")) as file:
        if not _try_flock(file):
            raise UserError(
                f"sweep {record.sweep.name}, {record.sweep_id}, is being run by another process; "
                "wait for its end, or stop it before --resume"
            )
        try:
            yield
        finally:
            never_began = not folder.exists()
            if never_began:
                _remove_lock_file(Path(file.name))


def _open_lock_file(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"storage {path.parent} can't be written ({reason}); choose another with --storage"
        ) from None


def _try_flock(file: IO[bytes]) -> bool:
    """Return False if another process holds the lock; True also if files can't be locked here."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _LOCKED_ERRORS
    return True


def _remove_lock_file(path: Path) -> None:
    """Remove the lock of a sweep that never began, and its folders if they are empty.

    The lock of any other sweep stays: if it were removed, two processes could each hold a lock on
    a file of that name.
    """
    path.unlink(missing_ok=True)
    # The folders sweeps/NAME and sweeps. A folder that is not empty can't be removed.
    with suppress(OSError):
        path.parent.rmdir()
        path.parent.parent.rmdir()

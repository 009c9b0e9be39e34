"""A sweep from end to end: check, prepare, run, record, compare. Imports no torch: the driver holds none."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from beamclip.config import (
    Experiment,
    Sweep,
    UserError,
    cell,
    check_space,
    planned_values,
    trial_count,
)
from beamclip.stores.paths import absolute_paths, check_writable, local_folder, stores_root
from beamclip.stores.sweep_record import SweepRecord, begun_sweep, new_sweep_id
from beamclip.sweep.next_steps import resume_line
from beamclip.sweep.plan_table import show_plan
from beamclip.sweep.progress import ProgressBars
from beamclip.sweep.recorder import Recorder
from beamclip.sweep.reference_runs import demo_elsewhere
from beamclip.sweep.student_init import with_starts
from beamclip.sweep.tracking_log import (
    open_tracker,
    print_comparison,
    write_beginning,
    write_found,
    write_summary,
)

# One driver for a sweep at a time.


_TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def sweep_lock(record: SweepRecord) -> Iterator[None]:
    """Keep a second driver from this sweep as long as this process is at it; however the process ends, the system lets go of it.

    That is why a lock by a file's mere existence won't do, and filelock falls back to one. In storage behind a URI, and in file systems
    that know no locks, nothing keeps a second driver away.

    Raises:
        UserError: another process is at it, or the storage can't be written.
    """
    folder = local_folder(record.folder)
    if folder is None:
        yield
        return
    with _opened(
        folder.with_name(f".{record.sweep_id}.lock")
    ) as file:  # beside the folder, which is not there before the record is
        if not _lock(file):
            what = f"sweep {record.sweep.name}, {record.sweep_id}, is being run by another process"
            raise UserError(f"{what}; wait for its end, or stop it before --resume")
        try:
            yield
        finally:
            if not folder.exists():
                _forget(Path(file.name))


def _forget(path: Path) -> None:
    """Leave nothing of a sweep that never began. Any other's lock stays: were it deleted, two could each lock a file of that name."""
    path.unlink(missing_ok=True)
    with suppress(OSError):  # there are others
        path.parent.rmdir()
        path.parent.parent.rmdir()


def _opened(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"storage {path.parent} can't be written ({reason}); choose another with --storage"
        ) from None


def _lock(file: IO[bytes]) -> bool:
    """Whether nobody else has it. Where files can't be locked, nobody has."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _TAKEN
    return True


def run_sweep(
    sweep: Sweep, base: Experiment, resume: bool | str = False, repair: bool = False
) -> str:
    """Run a sweep, or go on with one of its name, and print how its trials compare.

    Args:
        resume: go on with the latest of its name, or with the one of this id.
        repair: build again what is damaged in stores that exist.

    Returns:
        The sweep's id.

    Raises:
        UserError: anything the user can mend, before anything costly starts where that is possible; and where no trial finished, so that
            whoever started the command hears of it.
        KeyboardInterrupt: after Ctrl-C or SIGTERM. What is finished is kept, the rest marked KILLED; its text is what to type to go on.
    """
    record = (
        _begun(sweep, base, resume)
        if resume
        else SweepRecord(*with_starts(*absolute_paths(sweep, base)), new_sweep_id())
    )
    check_space(record.sweep, record.base)
    check_writable(record.base)
    with sweep_lock(record), ProgressBars() as bars, open_tracker(record, bool(resume)) as tracker:
        try:
            write_beginning(tracker, record)
            record = _prepared(record, bars, repair)
            write_found(tracker, record, bars)
            if not _run(record, tracker, bars, bool(resume)):
                raise KeyboardInterrupt
        except UserError:
            if not resume and not record.assets:
                tracker.discard()
            raise
        except KeyboardInterrupt:
            record.save()  # while it was preparing there was none yet, and --resume would have found an older sweep
            raise KeyboardInterrupt(resume_line(record)) from None
        done = write_summary(tracker, record, bars)
        if not done:
            tracker.close("FAILED")
    print_comparison(record)
    if not done:
        raise UserError(
            f"no trial of {record.sweep.name} finished with a result; the reasons stand above, under the table"
        )
    return record.sweep_id


def _begun(sweep: Sweep, base: Experiment, resume: bool | str) -> SweepRecord:
    return begun_sweep(sweep.name, base, resume if isinstance(resume, str) else None)


def plan_sweep(sweep: Sweep, base: Experiment) -> None:
    """Print which stores a sweep needs, which of them exist, what the others will take, and how many trials there will be. Makes none.

    Raises:
        UserError: as `run_sweep`.
    """
    from beamclip.distributed.cluster import concurrent_trials, disconnect

    check_space(sweep, base)
    check_writable(base)
    sweep, base = with_starts(*absolute_paths(sweep, base))
    try:
        with ProgressBars() as bars:
            _preparation(sweep, base, bars, repair=False).close()
        print(_trials_line(trial_count(sweep), concurrent_trials(base)), file=sys.stderr)
    finally:
        disconnect()


def _trials_line(trials: int, room: int) -> str:
    if trials == 1:
        return "1 trial"
    return f"{trials:,} trials, {min(trials, room):,} at once"


def _preparation(sweep: Sweep, base: Experiment, bars: ProgressBars, repair: bool) -> Any:
    """Join the cluster, see that a trial fits, and show the plan."""
    from beamclip.distributed.cluster import concurrent_trials, connect, idle_gpus
    from beamclip.distributed.prepare_actor import Preparation

    connect()
    concurrent_trials(base)
    for doubt in filter(None, (idle_gpus(base), demo_elsewhere(base))):
        bars.say(f"beamclip: {doubt}")
    planned = [cell(sweep, base, values) for values in planned_values(sweep)]
    preparation = Preparation(planned, stores_root(base), bars, repair)
    needs = preparation.plan()
    bars.close()
    show_plan(needs, stores_root(base))
    return preparation


def _prepared(record: SweepRecord, bars: ProgressBars, repair: bool) -> SweepRecord:
    """Build the stores of the whole space."""
    preparation = _preparation(record.sweep, record.base, bars, repair)
    made = preparation.build(record.base.probe.untrained)
    preparation.close()
    bars.close()
    record = replace(record, assets=made["assets"], untrained=made["untrained"])
    record.save()
    return record


def _run(record: SweepRecord, tracker: Any, bars: ProgressBars, resume: bool) -> bool:
    from beamclip.distributed.cluster import concurrent_trials, disconnect
    from beamclip.distributed.tune import run_trials

    recorder, ended = Recorder(record, tracker, bars), False
    try:
        ended = run_trials(record, recorder, concurrent_trials(record.base), resume)
    finally:
        try:
            recorder.close(ended)
        finally:
            disconnect()
    return ended

"""A sweep from end to end: check, prepare, run, record, compare. Imports no torch: the driver holds none."""

import sys
from dataclasses import replace
from typing import Any

from beamclip.config import Experiment, Sweep, UserError, cell, check_space, planned_values, trial_count
from beamclip.console import Bars
from beamclip.holding import held
from beamclip.logbook import open_tracker, print_comparison, write_beginning, write_found, write_summary
from beamclip.next_steps import resume_line
from beamclip.places import pinned
from beamclip.recording import Recorder
from beamclip.records import SweepRecord, begun_sweep, new_sweep_id
from beamclip.references import demo_elsewhere
from beamclip.starts import with_starts
from beamclip.storage import check_writable, stores_root
from beamclip.storing import show_plan


def run_sweep(sweep: Sweep, base: Experiment, resume: bool | str = False, repair: bool = False) -> str:
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
    record = _begun(sweep, base, resume) if resume else SweepRecord(*with_starts(*pinned(sweep, base)), new_sweep_id())
    check_space(record.sweep, record.base)
    check_writable(record.base)
    with held(record), Bars() as bars, open_tracker(record, bool(resume)) as tracker:
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
        raise UserError(f"no trial of {record.sweep.name} finished with a result; the reasons stand above, under the table")
    return record.sweep_id


def _begun(sweep: Sweep, base: Experiment, resume: bool | str) -> SweepRecord:
    return begun_sweep(sweep.name, base, resume if isinstance(resume, str) else None)


def plan_sweep(sweep: Sweep, base: Experiment) -> None:
    """Print which stores a sweep needs, which of them exist, what the others will take, and how many trials there will be. Makes none.

    Raises:
        UserError: as `run_sweep`.
    """
    from beamclip.distributed.cluster import concurrent_trials
    from beamclip.distributed.joining import disconnect

    check_space(sweep, base)
    check_writable(base)
    sweep, base = with_starts(*pinned(sweep, base))
    try:
        with Bars() as bars:
            _preparation(sweep, base, bars, repair=False).close()
        print(_trials_line(trial_count(sweep), concurrent_trials(base)), file=sys.stderr)
    finally:
        disconnect()


def _trials_line(trials: int, room: int) -> str:
    if trials == 1:
        return "1 trial"
    return f"{trials:,} trials, {min(trials, room):,} at once"


def _preparation(sweep: Sweep, base: Experiment, bars: Bars, repair: bool) -> Any:
    """Join the cluster, see that a trial fits, and show the plan."""
    from beamclip.distributed.cluster import concurrent_trials, idle_gpus
    from beamclip.distributed.joining import connect
    from beamclip.distributed.preparation import Preparation

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


def _prepared(record: SweepRecord, bars: Bars, repair: bool) -> SweepRecord:
    """Build the stores of the whole space."""
    preparation = _preparation(record.sweep, record.base, bars, repair)
    made = preparation.build(record.base.probe.untrained)
    preparation.close()
    bars.close()
    record = replace(record, assets=made["assets"], untrained=made["untrained"])
    record.save()
    return record


def _run(record: SweepRecord, tracker: Any, bars: Bars, resume: bool) -> bool:
    from beamclip.distributed.cluster import concurrent_trials
    from beamclip.distributed.joining import disconnect
    from beamclip.distributed.sweep import run_trials

    recorder, ended = Recorder(record, tracker, bars), False
    try:
        ended = run_trials(record, recorder, concurrent_trials(record.base), resume)
    finally:
        try:
            recorder.close(ended)
        finally:
            disconnect()
    return ended

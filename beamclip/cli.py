"""`beamclip …` and the command line of every sweep script. One sentence and exit 2 for what the user can mend."""

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from beamclip.config import Sweep, UserError, checked
from beamclip.options import add_experiment_options, add_sweep_options, start_sweep
from beamclip.parser import parser

EXIT_USER, EXIT_INTERRUPTED = 2, 130


def sweep_main(sweep: Sweep, arguments: Sequence[str] | None = None) -> None:
    """The command line of a script in `sweeps/`: run this sweep with the settings given."""
    own = argparse.ArgumentParser(description=sweep.question, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    own.add_argument("--name", default=sweep.name, help=f"of the sweep and the MLflow experiment (default: {sweep.name})")
    add_experiment_options(own)
    add_sweep_options(own)
    options = own.parse_args(arguments)
    sys.exit(_guarded(lambda: start_sweep(_named(sweep, options.name), options)))


def _named(sweep: Sweep, name: str) -> Sweep:
    """The same sweep under another name: on other data, say, which should not be compared with the first."""
    return checked(Sweep, sweep.model_dump(mode="json") | {"name": name})


def main(arguments: Sequence[str] | None = None) -> None:
    """The `beamclip` command."""
    options = parser().parse_args(arguments)
    sys.exit(_guarded(lambda: options.run(options)))


def _guarded(action: Callable[[], Any]) -> int:
    """Run, and turn what the user can mend into one sentence."""
    if threading.current_thread() is threading.main_thread():  # no other may listen for signals
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(action() or 0)
    except UserError as error:
        print(f"beamclip: {error}", file=sys.stderr)
        return EXIT_USER
    except KeyboardInterrupt as interruption:
        way_on = f"; go on with  {interruption}" if str(interruption) else ""
        print(f"beamclip: interrupted; what is finished is kept{way_on}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _interrupt(number: int, frame: Any) -> None:
    """`ray job stop`, Slurm and Kubernetes end a job by SIGTERM: the same as Ctrl-C, by another hand.

    Whoever listens for Ctrl-C hears it, Tune among them; but what a script starts with `&` is deaf to it.
    """
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)

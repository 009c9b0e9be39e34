"""The `beamclip` command, and the command line of the scripts in `sweeps/`.

A mistake of the user is printed as one sentence and exits with 2. The parser imports neither torch
nor Ray; the module of a command is imported when the command runs.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pkgutil import resolve_name
from types import FrameType
from typing import TYPE_CHECKING

from beamclip import __version__
from beamclip.cli.options import (
    add_experiment_options,
    add_repair_option,
    add_sweep_options,
    start_sweep,
)
from beamclip.config import Sweep, UserError, validate

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `beamclip` command and exit.

    Args:
        arguments: default: those of the process.
    """
    options = build_parser().parse_args(arguments)
    sys.exit(exit_code_of(lambda: resolve_name(options.handler)(options)))


def sweep_main(sweep: Sweep, arguments: Sequence[str] | None = None) -> None:
    """Run a script's sweep with the settings given on its command line, and exit.

    Args:
        sweep: what to run.
        arguments: default: those of the process.
    """
    parser = argparse.ArgumentParser(
        description=sweep.question,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--name",
        default=sweep.name,
        help=f"name of the sweep and of its MLflow experiment (default: {sweep.name})",
    )
    add_experiment_options(parser)
    add_sweep_options(parser)
    options = parser.parse_args(arguments)

    def run() -> None:
        # Another name keeps a sweep on other data, for example, apart from the first.
        named = validate(Sweep, sweep.model_dump(mode="json") | {"name": options.name})
        start_sweep(named, options)

    sys.exit(exit_code_of(run))


def exit_code_of(action: Callable[[], int | None]) -> int:
    """Run an action, print mistakes of the user as one sentence, and return the exit code."""
    # Python lets only the main thread handle signals.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _forward_sigterm)
    try:
        return int(action() or 0)
    except UserError as error:
        print(f"beamclip: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt as interruption:
        # `run_sweep` raises it with the command to resume as its text.
        resume = f"; continue with  {interruption}" if str(interruption) else ""
        print(f"beamclip: interrupted; what is finished is kept{resume}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _forward_sigterm(number: int, frame: FrameType | None) -> None:
    """Forward SIGTERM as SIGINT, so that Ray Tune's handler runs as after Ctrl-C.

    `ray job stop`, Slurm and Kubernetes end jobs by SIGTERM. Processes that a script started with
    `&` ignore SIGINT; there KeyboardInterrupt is raised instead.
    """
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


# The parser. Each command names its function as `module:function`.


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command.

    The options it returns have a `handler`, the name of the function to call with them.
    """
    parser = argparse.ArgumentParser(
        prog="beamclip", description="Turn a large frozen CLIP into small, fast vision models."
    )
    parser.add_argument("--version", action="version", version=f"beamclip {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_sweep(commands)
    _add_pack(commands)
    _add_embed(commands)
    _add_balance(commands)
    _add_anchors(commands)
    _add_compare(commands)
    _add_report(commands)
    _add_evaluate(commands)
    _add_doctor(commands)
    return parser


def _add_command(
    commands: "Commands", name: str, handler: str, description: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=description, description=description, allow_abbrev=False
    )
    parser.set_defaults(handler=handler)
    add_experiment_options(parser)
    return parser


def _add_train(commands: "Commands") -> None:
    parser = _add_command(
        commands, "train", "beamclip.cli.train:run_train", "train one student: a sweep of one trial"
    )
    parser.add_argument(
        "--name",
        default="train",
        help="name of the sweep and of its MLflow experiment (default: train)",
    )
    add_sweep_options(parser)


def _add_sweep(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "sweep",
        "beamclip.cli.train:run_free_sweep",
        "run a sweep over any settings; sweeps/ has ready-made ones",
    )
    parser.add_argument(
        "--name",
        default="sweep",
        help="name of the sweep and of its MLflow experiment (default: sweep)",
    )
    parser.add_argument("--question", help="the question that the sweep should answer")
    parser.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="KEY=[V, …]",
        help="a dimension of the search space; repeatable",
    )
    parser.add_argument(
        "--search",
        choices=("grid", "random", "optuna"),
        help="how trials are chosen from the space (default: grid)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        help="number of trials to draw (default: 16); a grid runs all its combinations",
    )
    parser.add_argument("--asha", action="store_true", help="stop poor trials early")
    add_sweep_options(parser)


def _add_pack(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "pack",
        "beamclip.cli.stores:run_pack",
        "decode every image once into the packed store",
    )
    add_repair_option(parser)


def _add_embed(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "embed",
        "beamclip.cli.stores:run_embed",
        "encode every view of every image once with the teacher",
    )
    add_repair_option(parser)
    parser.add_argument(
        "--verify",
        type=int,
        nargs="?",
        const=256,
        default=0,
        metavar="N",
        help="encode N stored views again (default: 256) and compare",
    )


def _add_balance(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "balance",
        "beamclip.cli.balance:run_balance",
        "leave out training images that look much alike to the teacher, and report which",
    )
    add_repair_option(parser)


def _add_anchors(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "anchors",
        "beamclip.cli.anchors:run_anchors",
        "make the text anchors of the classes and describe them; encodes no image",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="for each class, list the senses considered and why one was chosen",
    )
    parser.add_argument(
        "--near",
        type=_parse_cosine,
        default=0.95,
        metavar="COSINE",
        help="cosine from which two anchors count as near-duplicates (default: 0.95)",
    )
    parser.add_argument(
        "--strict-senses",
        action="store_true",
        help="stop at a class name with several senses if none is pinned",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the heat map and tables (default: anchors/HASH next to the stores)",
    )


def _add_compare(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "compare",
        "beamclip.cli.compare:run_compare",
        "compare a sweep's trials with the references and published results",
    )
    _add_which_sweep(parser)


def _add_report(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "report",
        "beamclip.cli.compare:run_report",
        "write one page about a sweep to send around: tables, figures, images, costs, commands",
    )
    _add_which_sweep(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help=(
            "folder for report.html and report.md (default: report/ in the sweep's folder in the "
            "storage)"
        ),
    )


def _add_which_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="name of the sweep")
    parser.add_argument(
        "--sweep", metavar="ID", help="id of one sweep of that name (default: the latest)"
    )


def _add_evaluate(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "evaluate",
        "beamclip.cli.evaluate:run_evaluate",
        "probe a trained student or any timm model",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=(
            "a student.safetensors of beamclip; run:ID of the MLflow run that trained one (with "
            "that run's settings unless --preset is given); or a timm name such as resnet18"
        ),
    )
    parser.add_argument(
        "--untrained",
        action="store_true",
        help="for a timm name: random weights instead of pretrained ones",
    )
    parser.add_argument(
        "--transfer",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help=(
            "also probe the frozen backbone on these images (folders, parquet, tar shards or "
            "CIFAR), at the model's own image size; repeatable"
        ),
    )
    parser.add_argument(
        "--few-shot",
        action="store_true",
        help="also probe with 1, 2, 4, 8 and 16 training images a class",
    )
    parser.add_argument(
        "--class-list",
        metavar="FILE",
        help=(
            "use these class names for zero-shot, one a line in the order of labels, instead of "
            "the data's own"
        ),
    )


def _add_doctor(commands: "Commands") -> None:
    _add_command(
        commands,
        "doctor",
        "beamclip.cli.doctor:run_doctor",
        "check data, teacher, storage, tracking, devices and Ray, and report what is wrong",
    )


def _parse_cosine(text: str) -> float:
    with suppress(ValueError):
        if -1 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is no cosine; give a number from -1 to 1")

"""The `beamclip` command, and the command line of the scripts in `sweeps/`.

A user error is printed as one sentence, with exit code 2. The parser imports neither torch nor Ray:
the module of a command is imported only when the command runs.
"""

import argparse
import math
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pkgutil import resolve_name
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from beamclip import __version__
from beamclip.cli.options import (
    add_experiment_options,
    add_finished_sweep_options,
    add_repair_option,
    add_sweep_options,
    start_sweep,
)
from beamclip.cli.text_encoding import use_utf8
from beamclip.config import Sweep, UserError, validate

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

# argparse exits with 2 as well if an option is wrong.
EXIT_USER_ERROR = 2
# 128 + SIGINT, as a shell reports a process that Ctrl-C has ended.
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `beamclip` command and exit.

    Args:
        arguments: words of the command line; default `sys.argv[1:]`.
    """
    use_utf8(arguments)
    options = build_parser().parse_args(arguments)

    def run() -> int | None:
        # This imports the command's module, so it runs inside of `exit_code_of`: Ctrl-C during a
        # slow import must not end with a traceback.
        handler: Callable[[argparse.Namespace], int | None] = resolve_name(options.handler)
        return handler(options)

    sys.exit(exit_code_of(run))


def sweep_main(sweep: Sweep, arguments: Sequence[str] | None = None) -> None:
    """Run a script's sweep with the settings given on its command line, and exit.

    Args:
        sweep: the sweep that the script declares.
        arguments: words of the command line; default `sys.argv[1:]`.
    """
    use_utf8(arguments)
    parser = argparse.ArgumentParser(
        description=sweep.question,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # `resume_command` looks for --name in `sys.argv`, and would miss an abbreviation of it.
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
        # Another name keeps, for example, a sweep on other data apart from the first. It becomes
        # the name of a folder, so it is validated again.
        named = validate(Sweep, sweep.model_dump(mode="json") | {"name": options.name})
        start_sweep(named, options)

    sys.exit(exit_code_of(run))


def exit_code_of(action: Callable[[], int | None]) -> int:
    """Run a command and return its exit code. User errors and interruptions become one sentence.

    Args:
        action: returns the exit code; None means 0.
    """
    # In any other thread `signal.signal` raises ValueError.
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


def _print_user_error(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an uncaught UserError as one sentence; leave other exceptions to Python.

    A script's own lines, such as `Sweep(…)`, run outside of `exit_code_of`. The script ends with
    the exit code of user errors.
    """
    if not isinstance(error, UserError):
        sys.__excepthook__(kind, error, traceback)
        return
    print(f"beamclip: {error}", file=sys.stderr)
    # A mistake must not end an interactive session, such as `python -i`.
    if not (sys.flags.inspect or hasattr(sys, "ps1")):
        sys.exit(EXIT_USER_ERROR)


# Scripts import `sweep_main`, and thereby this module, before they declare their sweep.
if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _print_user_error


def _forward_sigterm(number: int, frame: FrameType | None) -> None:
    """Forward SIGTERM as SIGINT, so that Ray Tune's handler runs as after Ctrl-C.

    `ray job stop`, Slurm and Kubernetes end jobs by SIGTERM.
    """
    # A process that a script started with `&` ignores SIGINT. None is a handler that was not
    # installed from Python.
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


# --- The parser ---


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the `beamclip` command with all subcommands.

    The parsed options have a `handler`: the `module:function` to call with them.
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
    commands: "Commands",
    name: str,
    handler: str,
    description: str,
    add_options: Callable[[argparse.ArgumentParser], None] = add_experiment_options,
) -> argparse.ArgumentParser:
    """Add a command with the options that most commands share.

    Args:
        commands: the subparsers.
        name: name of the command.
        handler: `module:function`; a name, because some of these modules import torch.
        description: text for the help of the command and of `beamclip`.
        add_options: function that adds the shared options.
    """
    parser = commands.add_parser(
        name, help=description, description=description, allow_abbrev=False
    )
    parser.set_defaults(handler=handler)
    add_options(parser)
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
        help="how to choose trials from the space (default: grid)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        help="number of trials to draw (default: 16); a grid runs every combination instead",
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
        "find near-duplicates among the training images, keep one of each set, and report them",
    )
    add_repair_option(parser)


def _add_anchors(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "anchors",
        "beamclip.cli.anchors:run_anchors",
        "build the text anchors of the classes and describe them; encodes no image",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help=(
            "only list the senses considered for each class and why one was chosen; needs no "
            "teacher, and builds no anchors unless the teacher has encoded the images"
        ),
    )
    parser.add_argument(
        "--near",
        type=_parse_cosine,
        metavar="COSINE",
        help="smallest cosine at which two anchors count as near-duplicates (default: 0.95)",
    )
    parser.add_argument(
        "--strict-senses",
        action="store_true",
        help="stop if a class name has several senses and none is pinned",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help=(
            "write heat map and tables to DIR/HASH, with the hash of the anchor set (default DIR: "
            "anchors/ next to the stores)"
        ),
    )


def _add_compare(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "compare",
        "beamclip.cli.compare:run_compare",
        "compare a sweep's trials with the references and published results",
        add_finished_sweep_options,
    )
    _add_sweep_choice(parser)


def _add_report(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "report",
        "beamclip.cli.compare:run_report",
        "write a report of a sweep as one page to share: tables, figures, images, costs, commands",
        add_finished_sweep_options,
    )
    _add_sweep_choice(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help=(
            "folder for report.html and report.md (default: report/ in the sweep's folder in the "
            "storage)"
        ),
    )


def _add_sweep_choice(parser: argparse.ArgumentParser) -> None:
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
            "a student.safetensors of beamclip; run:ID, the MLflow run that trained a student (its "
            "settings are used unless --preset is given); or a timm name such as resnet18"
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
        help="also probe with 1, 2, 4, 8 and 16 training images per class",
    )
    parser.add_argument(
        "--class-list",
        metavar="FILE",
        help=(
            "class names to use for zero-shot instead of the data's own: one per line, in label "
            "order"
        ),
    )


def _add_doctor(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        "doctor",
        "beamclip.cli.doctor:run_doctor",
        "check data, teacher, storage, tracking, devices and Ray, and report what is wrong",
    )
    parser.add_argument(
        "--upgrade-tracking",
        action="store_true",
        help=(
            "check nothing; upgrade the sqlite database of an older MLflow for the installed one, "
            "and keep the old database as a copy"
        ),
    )


def _parse_cosine(text: str) -> float:
    try:
        cosine = float(text)
    except ValueError:
        cosine = math.nan
    # NaN fails this comparison as well.
    if not -1 <= cosine <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a cosine; give a number from -1 to 1")
    return cosine

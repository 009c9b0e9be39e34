"""`beamclip …` and the command line of every sweep script. One sentence and exit 2 for what the user can mend."""

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from beamclip import __version__
from beamclip.cli import commands as work
from beamclip.cli.options import add_experiment_options, add_repair, add_sweep_options, start_sweep
from beamclip.config import Sweep, UserError, validate

# The verbs of `beamclip` and their options.


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command; `options.run` of what it returns is to be called with them."""
    parser = argparse.ArgumentParser(
        prog="beamclip", description="Turn a large frozen CLIP into small, fast vision models."
    )
    parser.add_argument("--version", action="version", version=f"beamclip {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for add in (_add_training, _add_stores, _add_anchors, _add_comparing, _add_evaluate):
        add(verbs)
    _verb(
        verbs,
        "doctor",
        work.doctor,
        "check data, teacher, storage, tracking, devices and Ray, and say what is wrong",
    )
    return parser


def _add_training(verbs: Any) -> None:
    train = _verb(verbs, "train", work.train, "one run: a sweep of one trial")
    train.add_argument(
        "--name", default="train", help="also the MLflow experiment (default: train)"
    )
    add_sweep_options(train)

    sweep = _verb(
        verbs, "sweep", work.free_sweep, "a sweep over any settings; sweeps/ holds ready ones"
    )
    sweep.add_argument(
        "--name", default="sweep", help="also the MLflow experiment (default: sweep)"
    )
    sweep.add_argument("--question", help="what the sweep should answer")
    sweep.add_argument(
        "--space", action="append", default=[], metavar="KEY=[V, …]", help="a dimension; repeatable"
    )
    sweep.add_argument(
        "--search",
        choices=("grid", "random", "optuna"),
        help="how cells are chosen (default: grid)",
    )
    sweep.add_argument(
        "--trials",
        type=int,
        help="how many to draw (default: 16); a grid has as many as it has cells",
    )
    sweep.add_argument("--asha", action="store_true", help="stop poor trials early")
    add_sweep_options(sweep)


def _add_stores(verbs: Any) -> None:
    add_repair(_verb(verbs, "pack", work.pack, "decode every image once into the packed store"))
    embed = _verb(verbs, "embed", work.embed, "have the teacher see every view of every image once")
    add_repair(embed)
    text = "encode so many stored views again (default 256) and compare"
    embed.add_argument(
        "--verify", type=int, nargs="?", const=256, default=0, metavar="N", help=text
    )

    add_repair(
        _verb(
            verbs,
            "balance",
            work.balance,
            "leave out training images that are much alike to the teacher, and say which",
        )
    )


def _add_anchors(verbs: Any) -> None:
    anchors = _verb(
        verbs,
        "anchors",
        work.anchors,
        "make the classes' text anchors, and say what they are like; encodes no image",
    )
    anchors.add_argument(
        "--explain",
        action="store_true",
        help="per class, the senses considered and why one was chosen",
    )
    anchors.add_argument(
        "--near",
        type=_cosine,
        default=0.95,
        metavar="COSINE",
        help="from which two anchors are near-duplicates (default: 0.95)",
    )
    anchors.add_argument(
        "--strict-senses",
        action="store_true",
        help="stop at a name with several senses of which none is pinned",
    )
    anchors.add_argument(
        "--out",
        metavar="DIR",
        help="folder of heat map and tables (default: anchors/HASH beside the stores)",
    )


def _add_comparing(verbs: Any) -> None:
    compare = _verb(
        verbs,
        "compare",
        work.compare_trials,
        "a sweep's trials beside references and published results",
    )
    compare.add_argument("experiment", metavar="EXPERIMENT", help="name of the sweep")
    compare.add_argument("--sweep", metavar="ID", help="a sweep of that name (default: the latest)")

    report = _verb(
        verbs,
        "report",
        work.report,
        "one page about a sweep, to send around: tables, figures, images, costs, commands",
    )
    report.add_argument("experiment", metavar="EXPERIMENT", help="name of the sweep")
    report.add_argument("--sweep", metavar="ID", help="a sweep of that name (default: the latest)")
    report.add_argument(
        "--out",
        metavar="DIR",
        help="folder of report.html and report.md (default: report/ beside the sweep's trials)",
    )


def _add_evaluate(verbs: Any) -> None:
    evaluate = _verb(verbs, "evaluate", work.evaluate, "probe a checkpoint or any timm model")
    evaluate.add_argument(
        "model",
        metavar="MODEL",
        help="a student.safetensors of ours, run:ID of the MLflow run that kept one (with that run's settings unless --preset is given), "
        "or a timm name such as resnet18",
    )
    evaluate.add_argument(
        "--untrained",
        action="store_true",
        help="a timm name: random weights instead of pretrained ones",
    )
    text = "also probe the frozen backbone on these images (a tree, parquet, tar shards or CIFAR), at the model's own size; repeatable"
    evaluate.add_argument("--transfer", action="append", default=[], metavar="NAME=DIR", help=text)
    evaluate.add_argument(
        "--few-shot",
        action="store_true",
        help="also probe with 1, 2, 4, 8 and 16 train images a class",
    )
    text = "zero-shot with these class names, one a line in label order, instead of the data's own"
    evaluate.add_argument("--class-list", metavar="FILE", help=text)


def _cosine(text: str) -> float:
    with suppress(ValueError):
        if -1 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is no cosine; give a number from -1 to 1")


def _verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], Any], text: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text, allow_abbrev=False
    )
    parser.set_defaults(run=run)
    add_experiment_options(parser)
    return parser


EXIT_USER, EXIT_INTERRUPTED = 2, 130


def sweep_main(sweep: Sweep, arguments: Sequence[str] | None = None) -> None:
    """The command line of a script in `sweeps/`: run this sweep with the settings given."""
    own = argparse.ArgumentParser(
        description=sweep.question,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    own.add_argument(
        "--name",
        default=sweep.name,
        help=f"of the sweep and the MLflow experiment (default: {sweep.name})",
    )
    add_experiment_options(own)
    add_sweep_options(own)
    options = own.parse_args(arguments)
    sys.exit(_guarded(lambda: start_sweep(_named(sweep, options.name), options)))


def _named(sweep: Sweep, name: str) -> Sweep:
    """The same sweep under another name: on other data, say, which should not be compared with the first."""
    return validate(Sweep, sweep.model_dump(mode="json") | {"name": name})


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

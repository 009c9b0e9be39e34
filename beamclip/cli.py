"""`beamclip …` and the command line of every sweep script. One sentence and exit 2 for what the user can mend."""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from beamclip import __version__
from beamclip.config import (
    Asha,
    Experiment,
    Sweep,
    UserError,
    checked,
    load_experiment,
    parse_assignments,
    preset_names,
)
from beamclip.storage import tracking_uri
from beamclip.sweeping import plan_sweep, run_sweep

EXIT_USER, EXIT_INTERRUPTED = 2, 130
_FIXED_AT_START = ("set", "data", "tracking_uri", "workers", "gpus_per_worker", "space", "asha")


def sweep_main(sweep: Sweep, arguments: Sequence[str] | None = None) -> None:
    """The command line of a script in `sweeps/`: run this sweep with the settings given."""
    parser = argparse.ArgumentParser(description=sweep.question, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_experiment_options(parser)
    _add_sweep_options(parser)
    options = parser.parse_args(arguments)
    sys.exit(_guarded(lambda: _sweep(sweep, options)))


def main(arguments: Sequence[str] | None = None) -> None:
    """The `beamclip` command."""
    options = _parser().parse_args(arguments)
    sys.exit(_guarded(lambda: options.run(options)))


def _guarded(action: Callable[[], Any]) -> int:
    """Run, and turn what the user can mend into one sentence."""
    try:
        return int(action() or 0)
    except UserError as error:
        print(f"beamclip: {error}", file=sys.stderr)
        return EXIT_USER
    except KeyboardInterrupt:
        print("beamclip: interrupted; what is finished is kept", file=sys.stderr)
        return EXIT_INTERRUPTED


def experiment_from(options: argparse.Namespace) -> Experiment:
    """The checked experiment that the options describe.

    Raises:
        UserError: naming the setting that is wrong.
    """
    values: dict[str, Any] = {}
    if options.data is not None:
        values |= {"data.path": options.data, "data.source": "auto"}
    flags = {"storage.path": options.storage, "tracking.uri": options.tracking_uri, "scaling.workers": options.workers}
    flags["scaling.gpus_per_worker"] = options.gpus_per_worker
    values |= {key: value for key, value in flags.items() if value is not None}
    return load_experiment(options.preset, values | parse_assignments(options.set))


def _add_experiment_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("experiment")
    group.add_argument("--preset", default="demo", metavar="NAME", help=f"{', '.join(preset_names())}, or a YAML file (default: demo)")
    group.add_argument("--data", metavar="DIR", help="images: a folder or URL with train/ and test/ trees, parquet, tar shards, or CIFAR")
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, such as optimiser.lr=1e-3; repeatable")
    group.add_argument("--storage", metavar="DIR-or-URI", help="where runs and stores are kept (default: $BEAMCLIP_STORAGE or ~/beamclip)")
    group.add_argument("--tracking-uri", metavar="URI", help="MLflow server or database (default: sqlite in the storage)")
    group.add_argument("--workers", type=int, metavar="N", help="workers of one trial")
    group.add_argument("--gpus-per-worker", type=float, metavar="N", help="GPUs of one worker; may be a fraction")


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    text = "go on with the latest sweep of this name in the storage, with its own settings"
    parser.add_argument("--resume", action="store_true", help=text)
    parser.add_argument("--plan", action="store_true", help="only show which stores the sweep needs, which exist, and what the rest takes")
    _add_repair(parser)


def _add_repair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="read every store's checksums and build again what is damaged")


def _sweep(sweep: Sweep, options: argparse.Namespace) -> None:
    given = [f"--{name.replace('_', '-')}" for name in _FIXED_AT_START if getattr(options, name, None)]
    if options.resume and given:
        raise UserError(f"--resume goes on with the settings the sweep was started with; leave {' and '.join(given)} out")
    if options.plan:
        return plan_sweep(sweep, experiment_from(options))
    run_sweep(sweep, experiment_from(options), options.resume, options.repair)
    return None


def _train(options: argparse.Namespace) -> None:
    _sweep(checked(Sweep, {"name": options.name}), options)


def _free_sweep(options: argparse.Namespace) -> None:
    space = {key: _listed(key, values) for key, values in parse_assignments(options.space, "--space").items()}
    tree = {"name": options.name, "question": options.question, "search": options.search, "trials": options.trials}
    tree |= {"space": space, "asha": Asha().model_dump() if options.asha else None}
    _sweep(checked(Sweep, tree), options)


def _listed(key: str, values: Any) -> dict[str, Any]:
    if isinstance(values, dict):
        return {"kind": "uniform", **values}
    if not isinstance(values, list) or not values:
        a_range = f"{key}='{{low: 0.01, high: 1, log: true}}'"
        raise UserError(f"--space {key} needs a list such as {key}=[0.01, 0.1], or a range such as {a_range}")
    return {"kind": "choice", "values": values}


def _compare(options: argparse.Namespace) -> None:
    from rich.console import Console

    from beamclip.tracking import compare, render

    render(compare(tracking_uri(experiment_from(options)), options.experiment, options.sweep), Console())


def _evaluate(options: argparse.Namespace) -> None:
    from beamclip.evaluating import evaluate_model

    evaluate_model(options.model, options.untrained, experiment_from(options))


def _pack(options: argparse.Namespace) -> None:
    from beamclip.storing import pack_images

    pack_images(experiment_from(options), options.repair)


def _embed(options: argparse.Namespace) -> int:
    from beamclip.storing import embed_images

    return embed_images(experiment_from(options), options.repair, options.verify)


def _anchors(options: argparse.Namespace) -> None:
    from pathlib import Path

    from beamclip.anchoring import describe_anchors

    if options.strict_senses:
        options.set.append("anchors.strict_senses=true")
    describe_anchors(experiment_from(options), options.explain, options.near, Path(options.out) if options.out else None)


def _doctor(options: argparse.Namespace) -> int:
    from beamclip.doctor import examine

    return examine(experiment_from(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="beamclip", description="Turn a large frozen CLIP into small, fast vision models.")
    parser.add_argument("--version", action="version", version=f"beamclip {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    train = _verb(verbs, "train", _train, "one run: a sweep of one trial")
    train.add_argument("--name", default="train", help="also the MLflow experiment (default: train)")
    _add_sweep_options(train)

    sweep = _verb(verbs, "sweep", _free_sweep, "a sweep over any settings; sweeps/ holds ready ones")
    sweep.add_argument("--name", default="sweep", help="also the MLflow experiment (default: sweep)")
    sweep.add_argument("--question", default="", help="what the sweep should answer")
    sweep.add_argument("--space", action="append", default=[], metavar="KEY=[V, …]", help="a dimension; repeatable")
    sweep.add_argument("--search", default="grid", choices=("grid", "random", "optuna"))
    sweep.add_argument("--trials", type=int, default=16, help="how many to draw; a grid has as many as it has cells")
    sweep.add_argument("--asha", action="store_true", help="stop poor trials early")
    _add_sweep_options(sweep)

    _add_repair(_verb(verbs, "pack", _pack, "decode every image once into the packed store"))
    embed = _verb(verbs, "embed", _embed, "have the teacher see every view of every image once")
    _add_repair(embed)
    text = "encode so many stored views again (default 256) and compare"
    embed.add_argument("--verify", type=int, nargs="?", const=256, default=0, metavar="N", help=text)

    anchors = _verb(verbs, "anchors", _anchors, "make the classes' text anchors, and say what they are like; encodes no image")
    anchors.add_argument("--explain", action="store_true", help="per class, the senses considered and why one was chosen")
    anchors.add_argument(
        "--near", type=_cosine, default=0.95, metavar="COSINE", help="from which two anchors are near-duplicates (default: 0.95)"
    )
    anchors.add_argument("--strict-senses", action="store_true", help="stop at a name with several senses of which none is pinned")
    anchors.add_argument("--out", metavar="DIR", help="folder of heat map and tables (default: anchors/HASH beside the stores)")

    compare = _verb(verbs, "compare", _compare, "a sweep's trials beside references and published results")
    compare.add_argument("experiment", metavar="EXPERIMENT", help="name of the sweep")
    compare.add_argument("--sweep", metavar="ID", help="a sweep of that name (default: the latest)")

    evaluate = _verb(verbs, "evaluate", _evaluate, "probe a checkpoint or any timm model")
    evaluate.add_argument("model", metavar="MODEL", help="a student.safetensors of ours, or a timm name such as resnet18")
    evaluate.add_argument("--untrained", action="store_true", help="a timm name: random weights instead of pretrained ones")

    _verb(verbs, "doctor", _doctor, "check data, teacher, storage, tracking, devices and Ray, and say what is wrong")
    return parser


def _cosine(text: str) -> float:
    with suppress(ValueError):
        if -1 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is no cosine; give a number from -1 to 1")


def _verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], Any], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    _add_experiment_options(parser)
    return parser

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
from beamclip.seeding import with_seeds
from beamclip.storage import tracking_uri
from beamclip.sweeping import plan_sweep, run_sweep

EXIT_USER, EXIT_INTERRUPTED = 2, 130
_FIXED_AT_START = ("set", "data", "tracking_uri", "workers", "gpus_per_worker", "space", "asha", "seeds")


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
    text = "train every cell with so many seeds, from the experiment's own on; tables then show means and their intervals"
    parser.add_argument("--seeds", type=int, metavar="N", help=text)
    parser.add_argument("--plan", action="store_true", help="only show which stores the sweep needs, which exist, and what the rest takes")
    _add_repair(parser)


def _add_repair(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="read every store's checksums and build again what is damaged")


def _sweep(sweep: Sweep, options: argparse.Namespace) -> None:
    given = [f"--{name.replace('_', '-')}" for name in _FIXED_AT_START if getattr(options, name, None)]
    if options.resume and given:
        raise UserError(f"--resume goes on with the settings the sweep was started with; leave {' and '.join(given)} out")
    base = experiment_from(options)
    if options.seeds is not None and not options.resume:
        sweep = with_seeds(sweep, base, options.seeds)
    if options.plan:
        return plan_sweep(sweep, base)
    run_sweep(sweep, base, options.resume, options.repair)
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


def _report(options: argparse.Namespace) -> None:
    from pathlib import Path

    from beamclip.report import report_sweep

    report_sweep(experiment_from(options), options.experiment, options.sweep, Path(options.out) if options.out else None)


def _evaluate(options: argparse.Namespace) -> None:
    from beamclip.evaluating import Extras, evaluate_model

    extras = Extras(_named_folders(options.transfer), options.few_shot, options.class_list)
    evaluate_model(options.model, options.untrained, experiment_from(options), extras)


def _named_folders(items: Sequence[str]) -> dict[str, str]:
    folders: dict[str, str] = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not name or not folder:
            raise UserError(f"--transfer {item} is not NAME=DIR; write such as --transfer pets=/data/pets")
        if name in folders:
            raise UserError(f"--transfer names {name} twice; give each data set a name of its own")
        folders[name] = folder
    return folders


def _pack(options: argparse.Namespace) -> None:
    from beamclip.storing import pack_images

    pack_images(experiment_from(options), options.repair)


def _embed(options: argparse.Namespace) -> int:
    from beamclip.storing import embed_images

    return embed_images(experiment_from(options), options.repair, options.verify)


def _balance(options: argparse.Namespace) -> None:
    from beamclip.balancing import balance_images

    balance_images(experiment_from(options), options.repair, _typed_again(options))


def _typed_again(options: argparse.Namespace) -> list[str]:
    """The options that another command needs to mean the same experiment, without any about balance."""
    named = {"--preset": options.preset, "--data": options.data, "--storage": options.storage, "--tracking-uri": options.tracking_uri}
    kept = [("--set", item) for item in options.set if not item.startswith("balance.")]
    return [word for pair in [*named.items(), *kept] if pair[1] is not None for word in pair]


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

    _add_repair(_verb(verbs, "balance", _balance, "leave out training images that are much alike to the teacher, and say which"))

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

    report = _verb(verbs, "report", _report, "one page about a sweep, to send around: tables, figures, images, costs, commands")
    report.add_argument("experiment", metavar="EXPERIMENT", help="name of the sweep")
    report.add_argument("--sweep", metavar="ID", help="a sweep of that name (default: the latest)")
    report.add_argument("--out", metavar="DIR", help="folder of report.html and report.md (default: report/ beside the sweep's trials)")

    evaluate = _verb(verbs, "evaluate", _evaluate, "probe a checkpoint or any timm model")
    evaluate.add_argument("model", metavar="MODEL", help="a student.safetensors of ours, or a timm name such as resnet18")
    evaluate.add_argument("--untrained", action="store_true", help="a timm name: random weights instead of pretrained ones")
    text = "also probe the frozen backbone on these images (a tree, parquet, tar shards or CIFAR); repeatable"
    evaluate.add_argument("--transfer", action="append", default=[], metavar="NAME=DIR", help=text)
    evaluate.add_argument("--few-shot", action="store_true", help="also probe with 1, 2, 4, 8 and 16 train images a class")
    text = "zero-shot with these class names, one a line in label order, instead of the data's own"
    evaluate.add_argument("--class-list", metavar="FILE", help=text)

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

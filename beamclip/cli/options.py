"""Options that verbs and sweep scripts share, and what they say together."""

import argparse
from typing import Any

from beamclip.config import (
    Experiment,
    Sweep,
    UserError,
    load_experiment,
    parse_assignments,
    preset_names,
)
from beamclip.config.sweep import with_seeds
from beamclip.sweep.runner import plan_sweep, run_sweep

DEFAULT_PRESET = "demo"
_FIXED_AT_START = (
    "set",
    "data",
    "tracking_uri",
    "workers",
    "gpus_per_worker",
    "space",
    "asha",
    "seeds",
    "search",
    "trials",
    "question",
)


def experiment_from(options: argparse.Namespace) -> Experiment:
    """The checked experiment that the options describe.

    Raises:
        UserError: naming the setting that is wrong.
    """
    return load_experiment(options.preset or DEFAULT_PRESET, values_from(options))


def values_from(options: argparse.Namespace) -> dict[str, Any]:
    """What the options set over a preset, by dotted keys."""
    values: dict[str, Any] = {}
    if options.data is not None:
        values |= {"data.path": options.data, "data.source": "auto"}
    flags = {
        "storage.path": options.storage,
        "tracking.uri": options.tracking_uri,
        "scaling.workers": options.workers,
    }
    flags["scaling.gpus_per_worker"] = options.gpus_per_worker
    values |= {key: value for key, value in flags.items() if value is not None}
    return values | parse_assignments(options.set)


def add_experiment_options(parser: argparse.ArgumentParser) -> None:
    """What every command takes."""
    group = parser.add_argument_group("experiment")
    group.add_argument(
        "--preset",
        metavar="NAME",
        help=f"{', '.join(preset_names())}, or a YAML file (default: demo)",
    )
    group.add_argument(
        "--data",
        metavar="DIR",
        help="images: a folder or URL with train/ and test/ trees, parquet, tar shards, or CIFAR",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting, such as optimiser.lr=1e-3; repeatable",
    )
    group.add_argument(
        "--storage",
        metavar="DIR-or-URI",
        help="where runs and stores are kept (default: $BEAMCLIP_STORAGE or ~/beamclip)",
    )
    group.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow server or database (default: sqlite in the storage)",
    )
    group.add_argument("--workers", type=int, metavar="N", help="workers of one trial")
    group.add_argument(
        "--gpus-per-worker", type=float, metavar="N", help="GPUs of one worker; may be a fraction"
    )


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """What every command that runs trials takes."""
    text = "go on with a sweep of this name in the storage, the latest unless an ID is given, with its own settings"
    parser.add_argument("--resume", nargs="?", const=True, default=False, metavar="ID", help=text)
    text = "train every cell with so many seeds, from the experiment's own on; tables then show means and their intervals"
    parser.add_argument("--seeds", type=int, metavar="N", help=text)
    text = "only show which stores the sweep needs, which exist, what the rest takes, and how many trials there are"
    parser.add_argument("--plan", action="store_true", help=text)
    add_repair(parser)


def add_repair(parser: argparse.ArgumentParser) -> None:
    """What every command that builds stores takes."""
    parser.add_argument(
        "--repair",
        action="store_true",
        help="read every store's checksums and build again what is damaged",
    )


def start_sweep(sweep: Sweep, options: argparse.Namespace) -> None:
    """Run, plan or resume a sweep, as the options say.

    Raises:
        UserError: options that don't go together, or anything that is wrong with the sweep.
    """
    given = [
        f"--{name.replace('_', '-')}"
        for name in _FIXED_AT_START
        if _was_given(getattr(options, name, None))
    ]
    if options.resume and given:
        raise UserError(
            f"--resume goes on with the settings the sweep was started with; leave {' and '.join(given)} out"
        )
    if options.resume and options.plan:
        raise UserError(
            "--plan shows what a sweep would need before it begins, and --resume goes on with one that has; leave one out"
        )
    base = experiment_from(options)
    if options.seeds is not None and not options.resume:
        sweep = with_seeds(sweep, base, options.seeds)
    if options.plan:
        return plan_sweep(sweep, base)
    run_sweep(sweep, base, options.resume, options.repair)
    return None


def _was_given(value: Any) -> bool:
    """0 and an empty word are given, too; an option that is a switch or may be repeated is False or empty where it was not."""
    return value is not None and value is not False and value != []

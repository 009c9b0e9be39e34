"""Options that commands and sweep scripts share, and the experiment that they describe."""

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
from beamclip.config.space import with_seeds
from beamclip.sweep.runner import plan_sweep, run_sweep

DEFAULT_PRESET = "demo"
# Options that a resumed sweep can't take: it keeps the settings it was started with.
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


def experiment_from_options(options: argparse.Namespace) -> Experiment:
    """Return the validated experiment that the options describe.

    Raises:
        UserError: a setting is wrong; the message names it.
    """
    return load_experiment(options.preset or DEFAULT_PRESET, overrides_from_options(options))


def overrides_from_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the options change in the preset, by dotted key."""
    overrides: dict[str, Any] = {}
    if options.data is not None:
        overrides["data.path"] = options.data
        overrides["data.source"] = "auto"
    shortcuts = {
        "storage.path": options.storage,
        "tracking.uri": options.tracking_uri,
        "scaling.workers": options.workers,
        "scaling.gpus_per_worker": options.gpus_per_worker,
    }
    overrides |= {key: value for key, value in shortcuts.items() if value is not None}
    return overrides | parse_assignments(options.set)


def add_experiment_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command takes."""
    group = parser.add_argument_group("experiment")
    group.add_argument(
        "--preset",
        metavar="NAME",
        help=f"{', '.join(preset_names())}, or a YAML file (default: {DEFAULT_PRESET})",
    )
    group.add_argument(
        "--data",
        metavar="DIR",
        help="images: a folder or URL with train/ and test/ folders, parquet, tar shards, or CIFAR",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, such as optimizer.lr=1e-3; repeatable",
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
    group.add_argument("--workers", type=int, metavar="N", help="number of workers of one trial")
    group.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="N",
        help="number of GPUs of one worker; may be a fraction",
    )


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that runs trials."""
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="ID",
        help=(
            "continue a sweep of this name with the settings it was started with: the one with "
            "this ID, or the latest"
        ),
    )
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help=(
            "train every combination of settings with N seeds, from the experiment's own on; "
            "tables then show means and their intervals"
        ),
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help=(
            "only show which stores the sweep needs, which of them exist, what the others take, "
            "and the number of trials"
        ),
    )
    add_repair_option(parser)


def add_repair_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of every command that builds stores."""
    parser.add_argument(
        "--repair",
        action="store_true",
        help="verify the checksums of all stores, and build damaged ones again",
    )


def start_sweep(sweep: Sweep, options: argparse.Namespace) -> None:
    """Run, plan or resume a sweep, as the options say.

    Raises:
        UserError: options contradict each other, or the sweep can't be run.
    """
    if options.resume:
        _check_resume_options(options)
    base = experiment_from_options(options)
    if options.seeds is not None and not options.resume:
        sweep = with_seeds(sweep, base, options.seeds)
    if options.plan:
        plan_sweep(sweep, base)
    else:
        run_sweep(sweep, base, options.resume, options.repair)


def _check_resume_options(options: argparse.Namespace) -> None:
    """Raise UserError if options are given that a resumed sweep can't take."""
    given = []
    for name in _FIXED_AT_START:
        # Switches and repeatable options that were not given are False and []. 0 and "" were given.
        value = getattr(options, name, None)
        if value is not None and value is not False and value != []:
            given.append(f"--{name.replace('_', '-')}")
    if given:
        raise UserError(
            "--resume continues with the settings the sweep was started with; "
            f"leave {' and '.join(given)} out"
        )
    if options.plan:
        raise UserError(
            "--plan shows what a new sweep would need, and --resume continues one; leave one out"
        )

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
from beamclip.stores.moved_places import MOVABLE
from beamclip.sweep.runner import plan_sweep, run_sweep

DEFAULT_PRESET = "demo"
# Options that are refused with --resume: a resumed sweep keeps the settings it was started with.
# --preset is not one of them, because a preset may say where the storage is; nor are --data and
# --set, which may name the new place of an input that was moved.
_FIXED_AT_START = (
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
    # Not argparse's default: `beamclip evaluate run:ID` has to know whether --preset was given.
    preset = options.preset or DEFAULT_PRESET
    return load_experiment(preset, overrides_from_options(options))


def overrides_from_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the options change in the preset, by dotted key."""
    overrides: dict[str, Any] = {}
    if options.data is not None:
        overrides["data.path"] = options.data
        # The preset names the kind of its own data, such as the demo's.
        overrides["data.source"] = "auto"
    shortcuts = {
        "storage.path": options.storage,
        "tracking.uri": options.tracking_uri,
        "scaling.workers": options.workers,
        "scaling.gpus_per_worker": options.gpus_per_worker,
    }
    overrides |= {key: value for key, value in shortcuts.items() if value is not None}
    # --set wins over the shortcuts.
    return overrides | parse_assignments(options.set)


def add_experiment_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that uses an experiment's settings."""
    group = _add_location_options(parser, "change a setting, such as optimizer.lr=1e-3; repeatable")
    group.add_argument(
        "--data",
        metavar="DIR",
        help="images: a folder or URL with train/ and test/ folders, parquet, tar shards, or CIFAR",
    )
    group.add_argument("--workers", type=int, metavar="N", help="number of workers of one trial")
    group.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="N",
        help="number of GPUs of one worker; may be a fraction",
    )


def add_finished_sweep_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a finished sweep is kept."""
    _add_location_options(parser, "change a setting of storage or tracking; repeatable")
    # `overrides_from_options` looks for them.
    parser.set_defaults(data=None, workers=None, gpus_per_worker=None)


def check_only_locations(options: argparse.Namespace) -> None:
    """Raise UserError if --set has settings that a command on a finished sweep would ignore."""
    for key in parse_assignments(options.set):
        if key.partition(".")[0] not in ("storage", "tracking"):
            raise UserError(
                f"--set {key} changes nothing here: a finished sweep keeps its settings; leave it "
                "out, or set storage or tracking"
            )


def _add_location_options(
    parser: argparse.ArgumentParser, set_help: str
) -> argparse._ArgumentGroup:
    """Add --preset, --set and where runs are kept; return the group, for more options."""
    group = parser.add_argument_group("experiment")
    group.add_argument(
        "--preset",
        metavar="NAME",
        help=f"{', '.join(preset_names())}, or a YAML file (default: {DEFAULT_PRESET})",
    )
    group.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=set_help)
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
    return group


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that runs trials."""
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="ID",
        help=(
            "continue the sweep with this ID, or the latest sweep of this name, with the settings "
            "it was started with; --data and --set then give new paths of inputs that were moved"
        ),
    )
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help=(
            "train every combination of settings with N seeds, starting at the experiment's own; "
            "tables then show means with intervals"
        ),
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help=(
            "only print which stores the sweep needs, which of them exist, how much time and space "
            "the others take, and the number of trials"
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

    Args:
        sweep: the space to search. To resume, only its name is used.
        options: parsed options of a parser with `add_experiment_options` and `add_sweep_options`.

    Raises:
        UserError: options contradict each other, or the sweep can't be run.
    """
    moved: dict[str, Any] = {}
    if options.resume:
        moved = _check_resume_options(options)
        options = argparse.Namespace(**(vars(options) | {"data": None, "set": []}))
    base = experiment_from_options(options)
    if options.seeds is not None:
        sweep = with_seeds(sweep, base, options.seeds)
    if options.plan:
        plan_sweep(sweep, base)
    else:
        run_sweep(sweep, base, options.resume, options.repair, moved)


def _check_resume_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the new places of inputs that were moved, by setting.

    Raises:
        UserError: options are given that a resumed sweep can't take.
    """
    moved = parse_assignments(options.set)
    given = [f"--set {key}" for key in moved if key not in MOVABLE]
    if options.data is not None:
        moved = {"data.path": options.data} | moved
    for name in _FIXED_AT_START:
        # Not every parser has all of these options.
        value = getattr(options, name, None)
        # These are the defaults of options, switches and repeatable options. A plain truth test
        # would overlook options that were given as 0 or "".
        if value is not None and value is not False and value != []:
            given.append(f"--{name.replace('_', '-')}")
    if given:
        raise UserError(
            "--resume continues with the settings the sweep was started with; "
            f"leave {' and '.join(given)} out (--data and --set take the new paths of images, "
            "teachers and lists that were moved)"
        )
    if options.plan:
        raise UserError(
            "--plan shows what a new sweep would need, and --resume continues one; leave one out"
        )
    return moved

"""What each verb of `beamclip` does with its options. What a verb needs is imported when it is called."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beamclip.cli.options import experiment_from, start_sweep, values_from
from beamclip.config import Asha, Sweep, UserError, parse_assignments, validate
from beamclip.stores.paths import tracking_uri
from beamclip.sweep.student_init import as_trained


def train(options: argparse.Namespace) -> None:
    """A sweep of one trial."""
    start_sweep(validate(Sweep, {"name": options.name}), options)


def free_sweep(options: argparse.Namespace) -> None:
    """A sweep over the dimensions that were typed."""
    space = {
        key: _listed(key, values)
        for key, values in parse_assignments(options.space, "--space").items()
    }
    tree = {
        "name": options.name,
        "space": space,
        "asha": Asha().model_dump() if options.asha else None,
    }
    typed = {"question": options.question, "search": options.search, "trials": options.trials}
    start_sweep(
        validate(Sweep, tree | {key: value for key, value in typed.items() if value is not None}),
        options,
    )


def _listed(key: str, values: Any) -> dict[str, Any]:
    if isinstance(values, dict):
        return {"kind": "uniform", **values}
    if not isinstance(values, list) or not values:
        a_range = f"{key}='{{low: 0.01, high: 1, log: true}}'"
        raise UserError(
            f"--space {key} needs a list such as {key}=[0.01, 0.1], or, with --search random, a range such as {a_range}"
        )
    return {"kind": "choice", "values": values}


def compare_trials(options: argparse.Namespace) -> None:
    """A sweep again as a table."""
    from rich.console import Console

    from beamclip.reporting.comparison import compare
    from beamclip.reporting.tables import render

    render(
        compare(tracking_uri(experiment_from(options)), options.experiment, options.sweep),
        Console(),
    )


def report(options: argparse.Namespace) -> None:
    """A sweep as a page."""
    from beamclip.reporting.html_report import report_sweep

    report_sweep(
        experiment_from(options),
        options.experiment,
        options.sweep,
        Path(options.out) if options.out else None,
    )


def evaluate(options: argparse.Namespace) -> None:
    """A model on the experiment's probes; `run:ID` on those of its run."""
    from beamclip.cli.evaluate import Extras, evaluate_model

    extras = Extras(_named_folders(options.transfer), options.few_shot, options.class_list)
    own = (
        as_trained(options.model, values_from(options))
        if options.model.startswith("run:") and options.preset is None
        else None
    )
    experiment = own or experiment_from(options)
    evaluate_model(options.model, options.untrained, experiment, extras)


def _named_folders(items: Sequence[str]) -> dict[str, str]:
    folders: dict[str, str] = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not name or not folder:
            raise UserError(
                f"--transfer {item} is not NAME=DIR; write such as --transfer pets=/data/pets"
            )
        if name in folders:
            raise UserError(f"--transfer names {name} twice; give each data set a name of its own")
        folders[name] = folder
    return folders


def pack(options: argparse.Namespace) -> None:
    """The packed store."""
    from beamclip.cli.stores import pack_images

    pack_images(experiment_from(options), options.repair)


def embed(options: argparse.Namespace) -> int:
    """The embedding stores. 1 where stored and live embeddings disagree."""
    from beamclip.cli.stores import embed_images

    return embed_images(experiment_from(options), options.repair, options.verify)


def balance(options: argparse.Namespace) -> None:
    """The list of images that balance keeps."""
    from beamclip.cli.balance import balance_images

    balance_images(experiment_from(options), options.repair, _typed_again(options))


def _typed_again(options: argparse.Namespace) -> list[str]:
    """The options that another command needs to mean the same experiment, without any about balance."""
    named = {
        "--preset": options.preset,
        "--data": options.data,
        "--storage": options.storage,
        "--tracking-uri": options.tracking_uri,
    }
    kept = [("--set", item) for item in options.set if not item.startswith("balance.")]
    return [word for pair in [*named.items(), *kept] if pair[1] is not None for word in pair]


def anchors(options: argparse.Namespace) -> None:
    """The anchors, and what they are like."""
    from beamclip.cli.anchors import describe_anchors

    if options.strict_senses:
        options.set.append("anchors.strict_senses=true")
    describe_anchors(
        experiment_from(options),
        options.explain,
        options.near,
        Path(options.out) if options.out else None,
    )


def doctor(options: argparse.Namespace) -> int:
    """What is wrong here, if anything: 1 then."""
    from beamclip.cli.doctor import examine

    return examine(experiment_from(options))

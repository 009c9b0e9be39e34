"""`beamclip compare` and `beamclip report`: show a sweep as tables or as an HTML page."""

import argparse
from pathlib import Path

from beamclip.cli.options import check_only_locations, experiment_from_options
from beamclip.config import Experiment
from beamclip.stores.paths import tracking_uri


def run_compare(options: argparse.Namespace) -> None:
    """Print a sweep's trials next to the references and published results."""
    from rich.console import Console

    from beamclip.reporting.comparison import compare
    from beamclip.reporting.tables import render

    uri = tracking_uri(_locations(options))
    render(compare(uri, options.experiment, options.sweep), Console())


def run_report(options: argparse.Namespace) -> None:
    """Write the report of a sweep, as HTML and Markdown."""
    from beamclip.reporting.html_report import write_report

    folder = Path(options.out) if options.out else None
    write_report(_locations(options), options.experiment, options.sweep, folder)


def _locations(options: argparse.Namespace) -> Experiment:
    """Return an experiment whose storage and tracking settings say where the sweep is kept."""
    # First, because its error for a misspelled setting suggests the right one.
    experiment = experiment_from_options(options)
    check_only_locations(options)
    return experiment

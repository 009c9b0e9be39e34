"""`beamclip compare` and `beamclip report`: show a sweep as tables or as an HTML page."""

import argparse
from pathlib import Path

from beamclip.cli.options import check_only_locations, experiment_from_options
from beamclip.stores.paths import tracking_uri


def run_compare(options: argparse.Namespace) -> None:
    """Print a sweep's trials next to the references and published results."""
    from rich.console import Console

    from beamclip.reporting.comparison import compare
    from beamclip.reporting.tables import render

    check_only_locations(options)
    uri = tracking_uri(experiment_from_options(options))
    render(compare(uri, options.experiment, options.sweep), Console())


def run_report(options: argparse.Namespace) -> None:
    """Write the report of a sweep, as HTML and Markdown."""
    from beamclip.reporting.html_report import write_report

    check_only_locations(options)
    folder = Path(options.out) if options.out else None
    write_report(experiment_from_options(options), options.experiment, options.sweep, folder)

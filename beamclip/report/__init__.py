"""One page about a sweep, to read without a server and to send around, and the same as Markdown."""

from beamclip.report.reporting import report_sweep

__all__ = ["report_sweep"]

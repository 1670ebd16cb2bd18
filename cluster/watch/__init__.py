"""Watching a run: the events of its workers as log lines, a progress bar and a report."""

from cluster.watch.lines import Watch
from cluster.watch.report import RunReport

__all__ = ["RunReport", "Watch"]

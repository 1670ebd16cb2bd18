"""Watching a run: the events of its workers as log lines, a progress bar and a report."""

from cluster.watch.events import Event
from cluster.watch.lines import Watch
from cluster.watch.report import RunReport

__all__ = ["Event", "RunReport", "Watch"]

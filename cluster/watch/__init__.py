"""Watching a run: what its workers tell, as lines and a bar for a person, and as a report."""

from cluster.watch.events import Event
from cluster.watch.lines import Watch
from cluster.watch.report import RunReport

__all__ = ["Event", "RunReport", "Watch"]

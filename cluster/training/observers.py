"""The observers of a run's events: MLflow, the report, Prometheus, a sweep, and the terminal."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TextIO, TypeVar

from cluster.checkpoints import SupersededError
from cluster.outbox.run_log import RunLog
from cluster.redaction import one_line
from cluster.store.lease import Lease
from cluster.training.curves import curves
from cluster.watch import RunReport, Watch
from cluster.watch.exported import Exporter
from cluster.watch.metrics import RunMetrics
from metasr.errors import Interrupted, StoreError
from metasr.events import Event

CHANGED = "metasr.changed"
OUTCOME = "metasr.outcome"
REPORT = "run-report.json"
LAST_RECORDS_S = 20.0
T = TypeVar("T")
SeeInSweep = Callable[[Event], Mapping[str, float]]
log = logging.getLogger(__name__)


class Observers:
    """Passes every event to each observer. One that fails, such as a closed terminal, does not affect the others.

    Args:
        records: See below.
        num_steps: Total number of steps.
        tell: Prints a line.
        terminal: Terminal for a progress bar, if there is one.
        see_in_sweep: The observer of a sweep; returns values to record with those of the event.

    Attributes:
        records: The log of the run, for MLflow.
    """

    def __init__(
        self,
        records: RunLog,
        num_steps: int,
        tell: Callable[[str], None],
        *,
        terminal: TextIO | None = None,
        see_in_sweep: SeeInSweep | None = None,
    ) -> None:
        self.records, self._report, self._tell_person = records, RunReport(), tell
        exporter = Exporter(run=records.run_name, sweep=records.parent)
        self._metrics = RunMetrics(exporter, self._report, records, num_steps)
        self._watch = Watch(num_steps, self.tell, terminal=terminal)
        self._see_in_sweep: SeeInSweep = see_in_sweep or (lambda event: {})
        self._failures: set[tuple[str, type[Exception]]] = set()
        self._has_ended = False

    def tell(self, line: str) -> None:
        """Print a line, if the terminal is still open."""
        self._isolated("terminal", lambda: self._tell_person(line))

    def mark(self, name: str) -> None:
        """Record that the driver has reached a milestone."""
        self._report.mark(name)

    def see(self, event: Event) -> None:
        """Handle an event: first record it, then show it."""
        more = self._isolated("sweep", lambda: self._see_in_sweep(event)) or {}
        self._isolated("MLflow log", lambda: self._record(event, more))
        self._isolated("report", lambda: self._report.see(event))
        self._isolated("metrics", lambda: self._metrics.see(event))
        self._isolated("terminal", lambda: self._watch.see(event))

    def exported(self) -> AbstractContextManager[None]:
        """Export metrics to Prometheus, through the Ray that this process is connected to, until the block ends."""
        return self._metrics.exported()

    def _record(self, event: Event, more: Mapping[str, float]) -> None:
        if event.kind in ("steps", "validated", "resumed", "skipped"):
            values = curves(event.kind, event.step, {**event.values, **more})
            self.records.metrics(event.step, values, event.pictures)
        if event.kind == "changed":
            self.records.tag(CHANGED, event.text)

    def _isolated(self, who: str, act: Callable[[], T]) -> T | None:
        """Call one observer; log its failure, once for each type of error."""
        try:
            return act()
        except Exception as error:
            if (who, type(error)) not in self._failures:
                self._failures.add((who, type(error)))
                log.warning("the %s fails, and training continues without it: %s", who, one_line(error))
            return None

    @contextmanager
    def failures(self, lease: Lease) -> Iterator[None]:
        """Record the end of a run by an error or a second Ctrl-C, unless another driver has taken it over."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, SupersededError) or lease.lost.is_set() or self._has_ended:
                self._isolated("terminal", self._watch.close)
            elif isinstance(error, KeyboardInterrupt):
                self.finish("KILLED", f"stopped by {error.name}" if isinstance(error, Interrupted) else "interrupted")
            else:
                self.finish("FAILED", f"failed: {error}")
            raise

    def finish(self, status: str, outcome: str, keep: Callable[[bytes], object] | None = None) -> int:
        """Record how the run ended, with a report; return the number of records not sent to MLflow.

        Args:
            status: Status of the run in MLflow.
            outcome: How it ended, as text.
            keep: Stores the report beside the checkpoints.
        """
        self._isolated("terminal", self._watch.close)
        content = self._report.finish(outcome, records_not_sent=self.records.remaining)
        report = json.dumps(content, indent=1) + "\n"
        try:
            if keep is not None:
                keep(report.encode())
        except StoreError as error:
            self.tell(f"{REPORT} is in MLflow alone: {error}")
        self.records.text(REPORT, report)
        self.records.tag(OUTCOME, outcome)
        self.records.status(status)
        self._has_ended = True
        try:
            self.records.drain(LAST_RECORDS_S)
        finally:  # also if a signal ends the wait
            not_sent = self.records.remaining
            self._report.finish(outcome, records_not_sent=not_sent)
            for line in self._report.lines():
                self.tell(line)
        return not_sent

"""A run's metrics for Prometheus, from the events that its other observers see."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

from cluster.watch.report import RunReport
from metasr.errors import DivergedError
from metasr.events import Event

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
SIGNS_OF_LIFE = ("group", "resumed", "steps", "validated")
OF_EVENT: Final = {
    "group": {"num_workers": "metasr_workers"},
    "steps": {
        "steps_per_s": "metasr_steps_per_second",
        "samples_per_s": "metasr_samples_per_second",
        "waiting_share": "metasr_data_wait_share",
    },
    "validated": {"val_psnr_gain": "metasr_psnr_gain_db"},
}
"""Metrics that are values of events, by kind of event and name of the value."""


class Backlog(Protocol):
    """What MLflow has not got."""

    @property
    def remaining(self) -> int:
        """Number of records that wait."""

    @property
    def refusals(self) -> list[str]:
        """Why records were refused for good."""


class Exports(Protocol):
    """Where values go, see `Exporter`."""

    def put(self, name: str, value: float, **labels: str) -> None:
        """Export a value of a metric."""

    def renew(self) -> None:
        """Export all values again."""


class RunMetrics:
    """Exports what happens in a run. It counts nothing itself: totals are those of the run's report.

    Args:
        exports: Where values go.
        report: Sees each event before this does.
        backlog: Of the run, for MLflow.
        num_steps: Steps of the whole run.
        clock: Time of day, in seconds.
    """

    def __init__(
        self,
        exports: Exports,
        report: RunReport,
        backlog: Backlog,
        num_steps: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._exports, self._put = exports, exports.put
        self._report, self._backlog, self._clock = report, backlog, clock
        self._num_steps, self._has_begun = num_steps, False

    def see(self, event: Event) -> None:
        """Export what an event says, and the totals after it."""
        if event.kind in SIGNS_OF_LIFE:
            self._put("metasr_progress_timestamp_seconds", self._clock())
        for value, name in OF_EVENT.get(event.kind, {}).items():
            if value in event.values:
                self._put(name, event.values[value])
        match event.kind:
            case "steps" | "resumed":
                self._put("metasr_step", event.step)
                self._put_losses(event.values)
        if event.kind == "uploaded" or (event.kind == "resumed" and not self._has_begun):
            self._has_begun = True
            self._put("metasr_checkpoint_step", event.step)
            self._put("metasr_checkpoint_timestamp_seconds", self._clock())
        self._put_totals()

    @contextmanager
    def exported(self) -> Iterator[None]:
        """Export that the driver is there, and what waits for MLflow, until the block ends; then how it ended."""
        self._put("metasr_driver_started_timestamp_seconds", self._clock())
        self._put("metasr_planned_steps", self._num_steps)
        outcome, over = "ended", threading.Event()
        thread = threading.Thread(target=self._look, args=(over,), name="metrics", daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            outcome = _outcome(error)
            raise
        finally:
            over.set()
            thread.join(LOOK_EVERY_S)
            self._put("metasr_driver_ended_timestamp_seconds", self._clock(), outcome=outcome)

    def _look(self, over: threading.Event) -> None:
        """Export again what is exported, and what waits for MLflow, which changes without an event."""
        has_failed = False
        while True:
            self._exports.renew()
            try:
                self._put("metasr_records_waiting", self._backlog.remaining)
                self._put("metasr_records_refused", len(self._backlog.refusals))
            except Exception as error:
                if not has_failed:
                    log.warning("how many records wait for MLflow is not exported: %s", error)
                has_failed = True
            if over.wait(LOOK_EVERY_S):
                return

    def _put_losses(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if name.startswith("loss_"):
                self._put("metasr_loss", value, loss=name.removeprefix("loss_"))

    def _put_totals(self) -> None:
        totals = self._report.totals()
        for reason, count in totals.retries.items():
            self._put("metasr_retries", count, reason=reason)
        self._put("metasr_restarts", totals.restarts)
        self._put("metasr_skipped_updates", totals.skipped_updates)
        self._put("metasr_substituted_shards", totals.substituted_shards)
        self._put("metasr_bad_checkpoints", totals.bad_checkpoints)
        self._put("metasr_checkpoints_waiting", totals.not_uploaded)


def _outcome(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "diverged" if isinstance(error, DivergedError) else "failed"

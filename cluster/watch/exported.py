"""The metrics that runs and sweeps export to Prometheus: their names, and the way there, which is Ray's own.

Ray puts `ray_` before each name, and `_total` after that of a counter. Times of day are those of the driver's clock.
A gauge that is not set again within 20 s is gone, as are those of a process that has ended; a counter stays until its
machine's Ray ends.
"""

import logging
import threading
from functools import cache
from typing import Final, NamedTuple

import ray
from ray.util.metrics import Counter, Gauge

log = logging.getLogger(__name__)

OF_RUN, OF_SWEEP = ("run", "sweep"), ("sweep",)


class Metric(NamedTuple):
    """A metric: what it is, for people; its labels; whether it only grows."""

    text: str
    labels: tuple[str, ...] = OF_RUN
    grows: bool = False


METRICS: Final = {
    "metasr_driver_started_timestamp_seconds": Metric("When the run's driver had joined Ray"),
    "metasr_driver_ended_timestamp_seconds": Metric(
        "When the run's driver has left Ray in order: ended, interrupted, failed, diverged (NaN or Inf)",
        (*OF_RUN, "outcome"),
    ),
    "metasr_workers": Metric("Workers of the newest group"),
    "metasr_step": Metric("The newest step"),
    "metasr_planned_steps": Metric("Steps of the whole run"),
    "metasr_progress_timestamp_seconds": Metric("When the newest step, validation or group of workers was reported"),
    "metasr_steps_per_second": Metric("Steps per second, without the time for validation and checkpoints"),
    "metasr_samples_per_second": Metric("Samples per second, of all workers"),
    "metasr_data_wait_share": Metric("Part of the time in which steps waited for data, 0 to 1"),
    "metasr_loss": Metric("A loss, the mean over the newest interval of steps", (*OF_RUN, "loss")),
    "metasr_psnr_gain_db": Metric("PSNR over that of bicubic at the newest validation, mean over the scales"),
    "metasr_checkpoint_step": Metric("Step of the newest checkpoint in the store"),
    "metasr_checkpoint_timestamp_seconds": Metric(
        "When the newest checkpoint had reached the store; before the first, when training began"
    ),
    "metasr_checkpoints_waiting": Metric("Checkpoints on a worker's disk that are not in the store yet"),
    "metasr_records_waiting": Metric("Records that MLflow has not got yet"),
    "metasr_records_refused": Metric("Records that MLflow has refused for good"),
    "metasr_retries": Metric("Requests to the stores that were made again", (*OF_RUN, "reason"), grows=True),
    "metasr_restarts": Metric("Groups of workers after the first", grows=True),
    "metasr_skipped_updates": Metric("Updates that were left out because of NaN or Inf", grows=True),
    "metasr_substituted_shards": Metric("Damaged shards that were replaced", grows=True),
    "metasr_bad_checkpoints": Metric("Starts that had to pass over a damaged checkpoint", grows=True),
    "metasr_sweep_trials": Metric("Trials of a sweep", (*OF_SWEEP, "status")),
    "metasr_sweep_best_objective": Metric("The best objective of a sweep so far", OF_SWEEP),
}
"""All metrics, by name."""


def name_in_prometheus(name: str) -> str:
    """Return the name under which Prometheus has a metric."""
    return f"ray_{name}_total" if METRICS[name].grows else f"ray_{name}"


class Exporter:
    """Exports metrics while this process is connected to Ray. Training does not depend on it: it never raises.

    Args:
        labels: That all of them have, such as the name of the run.
    """

    def __init__(self, **labels: str) -> None:
        self._labels = labels
        self._newest: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()
        self._has_failed = False

    def put(self, name: str, value: float, **labels: str) -> None:
        """Export the newest value of a gauge, or what a counter has counted so far.

        Args:
            name: One of `METRICS`.
            value: The value.
            labels: Besides those of all.
        """
        if ray.is_initialized():
            with self._lock:
                self._put(name, float(value), tuple(labels.items()))

    def renew(self) -> None:
        """Export the newest values of all gauges again; call it at least every 10 s."""
        if ray.is_initialized():
            with self._lock:
                for (name, labels), value in self._newest.items():
                    if not METRICS[name].grows:
                        self._put(name, value, labels)

    def _put(self, name: str, value: float, labels: tuple[tuple[str, str], ...]) -> None:
        key = name, labels
        try:
            instrument, tags = _instrument(name), self._labels | dict(labels)
            if isinstance(instrument, Gauge):
                instrument.set(value, tags=tags)
            elif (more := value - self._newest.get(key, 0.0)) > 0:
                instrument.inc(more, tags=tags)
            self._newest[key] = value
        except Exception as error:
            if not self._has_failed:
                log.warning("metrics are not exported, going on without: %s", error)
            self._has_failed = True


@cache
def _instrument(name: str) -> Counter | Gauge:
    text, labels, grows = METRICS[name]
    kind = Counter if grows else Gauge
    return kind(name, description=text, tag_keys=labels)

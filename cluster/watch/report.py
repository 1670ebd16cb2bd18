"""The report of a training run, as a JSON document.

Times are seconds on the driver's clock, or durations that the first worker measured; its events give the steps.

    format              1; a new number when a field changes its meaning
    outcome             how the run ended, as text
    wall_s              duration of the command
    useful_s            time of the steps in the newest checkpoint, without waiting for data
    useful_share        useful_s / wall_s
    marks_s             milestones of the driver, by name: seconds after the start
    steps               from: first step of this command; to: the newest; again: repeated after restarts; unsaved:
                        newer than the newest checkpoint
    first_step          seconds: from the start of the command to the end of the first step (null: there was none);
                        parts_s: that time by part: connected, until Ray runs; fit, checks of the nodes; group, the
                        processes of Ray Train and of the workers, with their imports of torch and Ray, which take
                        long on a busy processor; data, opening the data set; first_step, weights and the step itself
    restarts            a list with an entry for each worker group after the first. num_workers; lost_at_step: newest
                        step of the previous group; resumed_step (null: it did not resume); rto_s: from the last event
                        of the previous group to the next new step (null: there was none)
    waiting             waiting for data. seconds; stalls: number of intervals that waited at least 1 s and a tenth of
                        their time; longest_stall_s, stalls_s (their sum)
    throughput          over intervals of steps, null if unknown: step_s_p50, step_s_p99, samples_per_s_p50
    kept, uploaded      checkpoints written to the worker's disk, and to the store: count, seconds; uploaded: bytes
    not_uploaded        number of checkpoints not uploaded yet
    validated           count, seconds
    retries             retried requests of all workers: a count for each reason
    skipped_updates     number of updates skipped because of NaN or Inf
    substituted_shards  names of damaged shards that were replaced
    bad_checkpoints     checkpoints skipped when resuming, as text
    changed             other code or arithmetic that computed some of the steps, as text; empty if none
    records_not_sent    number of records not sent to MLflow
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.watch.report_text import describe
from cluster.watch.starts import Starts
from cluster.watch.steps import StepLedger
from metasr.events import Event

FORMAT = 1


@dataclass(frozen=True)
class Totals:
    """What a run has counted so far; the names are those of the report's fields."""

    retries: Mapping[str, int]
    restarts: int
    skipped_updates: int
    substituted_shards: int
    bad_checkpoints: int
    not_uploaded: int


class RunReport:
    """Collects the events of a run. It can be finished at any time, also after an error or a signal.

    Args:
        clock: Monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._marks: dict[str, float] = {}
        self._starts = Starts()
        self._steps = StepLedger()
        self._kept: dict[str, float] = {"count": 0, "seconds": 0.0}
        self._uploaded: dict[str, float] = self._kept | {"bytes": 0}
        self._validated: dict[str, float] = {"count": 0, "seconds": 0.0}
        self._not_uploaded = 0
        self._retries: Counter[str] = Counter()
        self._retries_of_group: dict[int, Counter[str]] = {}
        self._skipped: set[int] = set()
        self._substituted: set[str] = set()
        self._bad_checkpoints: list[str] = []
        self._changed = ""
        self._report: dict[str, Any] = {}

    def mark(self, name: str) -> None:
        """Record that the driver has reached a milestone; only the first time counts."""
        self._marks.setdefault(name, self._now())

    def see(self, event: Event) -> None:
        """Record an event."""
        now = self._now()
        match event.kind:
            case "group":
                self._retries_of_group.clear()
                self._starts.group(event, now, self._steps.reached, self._marks)
            case "resumed":
                self._see_resumed(event)
            case "changed":
                self._changed = event.text
            case "steps":
                self._starts.steps(event, now)
                self._steps.count(event)
            case "kept" | "uploaded":
                self._see_checkpoint(event)
            case "validated":
                _add(self._validated, event)
            case "retries":
                self._see_retries(event)
            case "skipped":
                self._skipped.add(event.step)
            case "substituted":
                self._substituted.update(event.text.split(", "))
        self._steps.reach(event.step)
        self._starts.sign_of_life(now)

    def totals(self) -> Totals:
        """Return what was counted so far."""
        return Totals(
            +self._retries,
            self._starts.num_restarts,
            len(self._skipped),
            len(self._substituted),
            len(self._bad_checkpoints),
            self._not_uploaded,
        )

    def finish(self, outcome: str, *, records_not_sent: int = 0) -> dict[str, Any]:
        """Return the report so far; the docstring of this module explains its fields.

        Args:
            outcome: How the run ended, such as "finished" or "failed: out of memory".
            records_not_sent: Number of records not sent to MLflow.
        """
        wall_s, useful_s = self._now(), self._steps.useful_s()
        self._report = {
            "format": FORMAT,
            "outcome": outcome,
            "wall_s": wall_s,
            "useful_s": useful_s,
            "useful_share": useful_s / wall_s if wall_s > 0 else 0.0,
            "marks_s": dict(self._marks),
            "steps": self._steps.steps(),
            "first_step": self._starts.first_step(),
            "restarts": self._starts.restarts(),
            "waiting": self._steps.waiting(),
            "throughput": self._steps.throughput(),
            "kept": dict(self._kept),
            "uploaded": dict(self._uploaded),
            "not_uploaded": self._not_uploaded,
            "validated": dict(self._validated),
            "retries": dict(+self._retries),
            "skipped_updates": len(self._skipped),
            "substituted_shards": sorted(self._substituted),
            "bad_checkpoints": list(self._bad_checkpoints),
            "changed": self._changed,
            "records_not_sent": records_not_sent,
        }
        return self._report

    def lines(self) -> list[str]:
        """Return the lines of the last finished report."""
        return describe(self._report)

    def _see_resumed(self, event: Event) -> None:
        self._starts.resumed(event.step)
        self._steps.resume(event.step)
        if event.text:
            self._bad_checkpoints.append(event.text)

    def _see_checkpoint(self, event: Event) -> None:
        self._steps.save(event.step)
        if event.kind == "kept":
            _add(self._kept, event)
            self._not_uploaded += 1
        else:
            _add(self._uploaded, event)
            self._not_uploaded = int(event.finite("pending"))

    def _see_retries(self, event: Event) -> None:
        """Add what a worker counts now, in place of what it counted before: no event looks at all workers."""
        counts = Counter({name: int(event.finite(name)) for name in event.values})
        self._retries.subtract(self._retries_of_group.get(event.rank, {}))
        self._retries.update(counts)
        self._retries_of_group[event.rank] = counts

    def _now(self) -> float:
        return self._clock() - self._began


def _add(total: dict[str, float], event: Event) -> None:
    """Add one to the count of a total, and values of an event to its sums."""
    total["count"] += 1
    for name in total.keys() - {"count"}:
        total[name] += event.finite(name)

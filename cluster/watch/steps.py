"""The steps of a run: which of them are saved, and how long they took."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metasr.events import Event

STALL_S = 1.0
STALL_SHARE = 0.1


@dataclass(frozen=True)
class _Interval:
    """The steps after `first` up to `last`, and their time without waiting for data, in seconds."""

    first: int
    last: int
    useful_s: float

    def useful_until(self, step: int) -> float:
        """Return the seconds of its steps up to a step."""
        part = (step - self.first) / (self.last - self.first)
        return self.useful_s * min(max(part, 0.0), 1.0)


class StepLedger:
    """Accounts for steps. A restart discards those that are newer than its checkpoint."""

    def __init__(self) -> None:
        self._from: int | None = None
        self._reached = self._counted = self._saved = self._again = 0
        self._intervals: list[_Interval] = []
        self._waiting_s = 0.0
        self._stalls: list[float] = []
        self._step_s: list[float] = []
        self._samples_per_s: list[float] = []

    @property
    def reached(self) -> int:
        """The newest step."""
        return self._reached

    def resume(self, step: int) -> None:
        """Resume after a step; newer steps must be repeated."""
        if self._from is None:
            self._from = step
        else:
            self._again += max(0, self._reached - step)
        self._reached = self._counted = self._saved = step
        self._intervals = [
            _Interval(interval.first, min(interval.last, step), interval.useful_until(step))
            for interval in self._intervals
            if interval.first < step
        ]

    def reach(self, step: int) -> None:
        """Record that a step is done."""
        self._reached = max(self._reached, step)

    def save(self, step: int) -> None:
        """Record that a step is in a checkpoint."""
        self._saved = max(self._saved, step)

    def count(self, event: Event) -> None:
        """Record an interval of steps: an event of the kind `steps`."""
        first, self._counted = self._counted, max(self._counted, event.step)
        rate = event.finite("steps_per_s")
        share = min(max(event.finite("waiting_share"), 0.0), 1.0)
        if event.step <= first or rate <= 0:
            return
        seconds = (event.step - first) / rate
        self._intervals.append(_Interval(first, event.step, seconds * (1 - share)))
        self._waiting_s += seconds * share
        self._step_s.append(1 / rate)
        if samples_per_s := event.finite("samples_per_s"):
            self._samples_per_s.append(samples_per_s)
        if share >= STALL_SHARE and seconds * share >= STALL_S:
            self._stalls.append(seconds * share)

    def useful_s(self) -> float:
        """Return the time of the steps in the newest checkpoint, without waiting for data, in seconds."""
        return sum(interval.useful_until(self._saved) for interval in self._intervals)

    def steps(self) -> dict[str, int]:
        """Return the first and last step, and the numbers of repeated and of unsaved steps."""
        unsaved = max(0, self._reached - self._saved)
        return {"from": self._from or 0, "to": self._reached, "again": self._again, "unsaved": unsaved}

    def waiting(self) -> dict[str, Any]:
        """Return the time spent waiting for data, and the stalls."""
        stalls = self._stalls
        return {
            "seconds": self._waiting_s,
            "stalls": len(stalls),
            "longest_stall_s": max(stalls, default=0.0),
            "stalls_s": sum(stalls),
        }

    def throughput(self) -> dict[str, float | None]:
        """Return percentiles of the speed of intervals of steps."""
        return {
            "step_s_p50": _percentile(self._step_s, 50),
            "step_s_p99": _percentile(self._step_s, 99),
            "samples_per_s_p50": _percentile(self._samples_per_s, 50),
        }


def _percentile(values: Sequence[float], percent: int) -> float | None:
    """Return the smallest value that `percent` of the values do not exceed; None without values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]

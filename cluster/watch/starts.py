"""The starts of a run's worker groups: what the first step took, and what each restart cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.watch.events import Event, finite


@dataclass
class _Restart:
    """A worker group after the first, and the last sign of the one before, in seconds after the start."""

    last_sign: float
    num_workers: int
    lost_at_step: int
    resumed_step: int | None = None
    rto_s: float | None = None


class Starts:
    """Keeps account of worker groups. All times are seconds after the start of the command."""

    def __init__(self) -> None:
        self._num_groups = 0
        self._ready = self._last_sign = 0.0
        self._parts_s: dict[str, float] = {}
        self._first_step: float | None = None
        self._restarts: list[_Restart] = []

    def group(self, event: Event, now: float, reached: int, marks: Mapping[str, float]) -> None:
        """Note that a group is ready.

        Args:
            event: Of the kind `group`.
            now: When.
            reached: The newest step of the group before.
            marks: What the driver had come to, and when.
        """
        self._num_groups += 1
        self._ready = now
        if self._num_groups > 1:
            self._restarts.append(_Restart(self._last_sign, int(finite(event.values, "num_workers")), reached))
        if self._first_step is None:
            self._parts_s = _parts_s(event.values, now, marks)

    def resumed(self, step: int) -> None:
        """Note where the newest group goes on."""
        if self._restarts:
            self._restarts[-1].resumed_step = step

    def steps(self, event: Event, now: float) -> None:
        """Note that steps were done: an event of the kind `steps`."""
        ended = max(now - finite(event.values, "since_first_step_s"), self._ready)
        if self._first_step is None:
            self._first_step = ended
            self._parts_s["first_step"] = ended - self._ready
        for restart in self._restarts:
            if restart.rto_s is None:
                restart.rto_s = ended - restart.last_sign

    def sign_of_life(self, now: float) -> None:
        """Note that an event of the group has come."""
        self._last_sign = now

    def first_step(self) -> dict[str, Any]:
        """Return when the first step had ended, and what the time until then went to."""
        return {"seconds": self._first_step, "parts_s": dict(self._parts_s)}

    def restarts(self) -> list[dict[str, Any]]:
        """Return what is known of each restart."""
        return [
            {
                "num_workers": restart.num_workers,
                "lost_at_step": restart.lost_at_step,
                "resumed_step": restart.resumed_step,
                "rto_s": restart.rto_s,
            }
            for restart in self._restarts
        ]


def _parts_s(values: Mapping[str, float], now: float, marks: Mapping[str, float]) -> dict[str, float]:
    """Return what the time until now went to: the driver's parts, the group's own, and between them its start."""
    parts, then = {}, 0.0
    for name, at in marks.items():
        parts[name], then = at - then, at
    own = {name.removesuffix("_s"): finite(values, name) for name in values if name.endswith("_s")}
    return parts | {"group": max(0.0, now - then - sum(own.values()))} | own

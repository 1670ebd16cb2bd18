"""The starts of a run's worker groups: the time to the first step, and the cost of each restart."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from metasr.events import Event


@dataclass
class _Restart:
    """A worker group after the first; `last_sign` is the time of the previous group's last event."""

    last_sign: float
    num_workers: int
    lost_at_step: int
    resumed_step: int | None = None
    rto_s: float | None = None


class Starts:
    """Records the worker groups. All times are seconds after the start of the command."""

    def __init__(self) -> None:
        self._num_groups = 0
        self._ready = self._last_sign = 0.0
        self._parts_s: dict[str, float] = {}
        self._first_step: float | None = None
        self._restarts: list[_Restart] = []

    def group(self, event: Event, now: float, reached: int, marks: Mapping[str, float]) -> None:
        """Record that a group is ready.

        Args:
            event: An event of the kind `group`.
            now: Its time.
            reached: The newest step of the previous group.
            marks: The driver's milestones and their times.
        """
        self._num_groups += 1
        self._ready = now
        if self._num_groups > 1:
            self._restarts.append(_Restart(self._last_sign, int(event.finite("num_workers")), reached))
        if self._first_step is None:
            self._parts_s = _parts_s(event, now, marks)

    def resumed(self, step: int) -> None:
        """Record the step that the newest group resumes from."""
        if self._restarts:
            self._restarts[-1].resumed_step = step

    def steps(self, event: Event, now: float) -> None:
        """Record an event of the kind `steps`."""
        ended = max(now - event.finite("since_first_step_s"), self._ready)
        if self._first_step is None:
            self._first_step = ended
            self._parts_s["first_step"] = ended - self._ready
        for restart in self._restarts:
            if restart.rto_s is None:
                restart.rto_s = ended - restart.last_sign

    def sign_of_life(self, now: float) -> None:
        """Record the time of an event of the group."""
        self._last_sign = now

    def first_step(self) -> dict[str, Any]:
        """Return the time until the end of the first step, in all and by part."""
        return {"seconds": self._first_step, "parts_s": dict(self._parts_s)}

    @property
    def num_restarts(self) -> int:
        """Number of groups after the first."""
        return len(self._restarts)

    def restarts(self) -> list[dict[str, Any]]:
        """Return the facts of each restart."""
        return [
            {name: value for name, value in asdict(restart).items() if name != "last_sign"}
            for restart in self._restarts
        ]


def _parts_s(event: Event, now: float, marks: Mapping[str, float]) -> dict[str, float]:
    """Return the time until now by part: those of the driver, the start of the group, and the group's own."""
    parts, then = {}, 0.0
    for name, at in marks.items():
        parts[name], then = at - then, at
    own = {name.removesuffix("_s"): event.finite(name) for name in event.values if name.endswith("_s")}
    return parts | {"group": max(0.0, now - then - sum(own.values()))} | own

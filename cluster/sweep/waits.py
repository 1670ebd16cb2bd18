"""How long the workers of a trial have waited for a store that was away, from what they tell."""

import time
from collections.abc import Callable

from cluster.store import IS_BACK, WAITS_FOR_STORE
from metasr.events import Event


class StoreWaits:
    """Counts the time that training stood still because a store was away.

    While a store is away training goes on from memory, until data runs out. So of the time that it was away counts
    what the steps took longer than steps did before.

    Args:
        clock: Seconds, as `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._forget(clock())

    def see(self, event: Event) -> float:
        """Take an event of the run; return for how many seconds training stood still until it."""
        now = self._clock()
        if event.kind == "warning":
            self._note(event, now)
            return 0.0
        if event.kind == "group":
            self._forget(now)
            return 0.0
        away_s = self._take_away_s(now) if event.kind in ("resumed", "steps") else 0.0
        idle_s = min(away_s, self._longer_than_before(event, now, away_s))
        if event.kind in ("resumed", "steps", "validated", "kept"):
            self._moved = now
        return max(0.0, idle_s)

    def _forget(self, now: float) -> None:
        """Start anew, with a group of workers."""
        self._away: dict[int, float] = {}
        self._past_s, self._moved = 0.0, now
        self._step: int | None = None
        self._step_s: float | None = None

    def _note(self, event: Event, now: float) -> None:
        """Note which worker waits for a store, since when."""
        if event.text.startswith(WAITS_FOR_STORE):
            self._away.setdefault(event.rank, now)
        elif IS_BACK in event.text and event.rank in self._away:
            since = self._away.pop(event.rank)
            self._past_s = max(self._past_s, now - since)  # all wait for the one that waits longest

    def _take_away_s(self, now: float) -> float:
        """Return for how long a store was away since the last time that this was asked."""
        away_s = max([self._past_s, *(now - since for since in self._away.values())])
        self._past_s, self._away = 0.0, dict.fromkeys(self._away, now)
        return away_s

    def _longer_than_before(self, event: Event, now: float, away_s: float) -> float:
        """Return how much longer the last steps took than those before; all of the time if none are known."""
        if event.kind != "steps":
            return away_s
        took_s, before, self._step = now - self._moved, self._step, event.step
        if before is None or event.step <= before:
            return away_s
        number = event.step - before
        idle_s = away_s if self._step_s is None else took_s - number * self._step_s
        if not away_s:
            self._step_s = took_s / number
        return idle_s

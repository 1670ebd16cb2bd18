"""The display of a training run: lines in a job's log, a progress bar on a terminal."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TextIO

from cluster.watch.bar import Bar
from metasr.events import Event

LINES_AT_ONCE = 10
LINES_APART_S = 30.0
FLOODS = ("retries", "skipped", "warning")
RATE_WINDOW_S = 300.0
LONGEST_ETA_S = 1e9


class Watch:
    """Shows events as they arrive.

    A job's log gets a line per interval of steps: the first ones at once, later ones some seconds apart, so that
    long runs have short logs. On a terminal the newest interval is a bar in place. Both get lines for validations,
    uploads, restarts, retries, skipped updates and warnings.

    Args:
        num_steps: Total number of steps.
        tell: Prints a permanent line.
        terminal: The terminal that `tell` prints to; None for a file or a pipe.
        clock: Monotonic clock, in seconds.
    """

    def __init__(
        self,
        num_steps: int,
        tell: Callable[[str], None],
        *,
        terminal: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_steps = num_steps
        self._tell = tell
        self._clock = clock
        self._bar = Bar(terminal) if terminal is not None else None
        self._rate = _Rate()
        self._paces: defaultdict[str, _Pace] = defaultdict(_Pace)
        self._groups = self._skipped = 0
        self._retries: dict[int, Counter[str]] = {}
        self._all_retries: Counter[str] = Counter()
        self._unsaid = self._changed = ""

    def see(self, event: Event) -> None:
        """Show an event."""
        if event.kind == "steps":
            self._show_steps(event)
            return
        if event.kind == "resumed":
            self._start_from(event.step)
        if line := self._line(event):
            self._say(event.kind, line)

    def close(self) -> None:
        """Print what was held back, and move the terminal below the bar."""
        if self._bar:
            self._bar.end()
        if self._unsaid:
            self._tell(self._unsaid)
            self._unsaid = ""
        for kind in FLOODS:
            if left_out := self._paces[kind].left_out():
                self._tell(f"not shown: {left_out} more of {kind}")

    def _show_steps(self, event: Event) -> None:
        now = self._clock()
        self._rate.see(event.step, event.values.get("steps_per_s", math.nan), now)
        at, numbers, eta = self._at(event.step), _numbers(event.values), self._eta(event.step)
        line = "  ".join([at, *numbers, *eta])
        if self._bar:
            self._draw([at, *eta, *numbers], event.step)
        elif self._paces["steps"].allows(now) or event.step == self._num_steps:
            self._tell(line)
            self._unsaid = ""
        else:
            self._unsaid = line

    def _start_from(self, step: int) -> None:
        self._rate.restart(step, self._clock())
        self._paces["steps"].allow_one()
        self._draw([self._at(step)], step)

    def _draw(self, facts: Sequence[str], step: int) -> None:
        if self._bar:
            self._bar.draw(facts, step / self._num_steps if self._num_steps > 0 else 1.0)

    def _eta(self, step: int) -> list[str]:
        eta_s = self._rate.eta_s(self._num_steps - step)
        return [] if eta_s is None else [f"ETA {timedelta(seconds=round(eta_s))}"]

    def _at(self, step: int) -> str:
        return f"step {step}/{self._num_steps}"

    def _say(self, kind: str, line: str) -> None:
        """Print a permanent line above the bar; lines of frequent kinds are limited."""
        if kind in FLOODS and not self._paces[kind].allows(self._clock()):
            return
        left_out = self._paces[kind].left_out()
        line = f"{line} ({left_out} more not shown)" if left_out else line
        if self._bar:
            self._bar.clear()
        self._tell(line)
        if self._bar:
            self._bar.redraw()

    def _line(self, event: Event) -> str:
        """Return the line for an event; empty for none."""
        at, values, text = self._at(event.step), event.values, _one_line(event.text)
        own = {"group": self._group_line, "changed": self._changed_line, "retries": self._retries_line}
        if event.kind in own:
            return own[event.kind](event)
        match event.kind:
            case "resumed":
                return f"{at}  {_origin(event.step)}{_bad_checkpoints(text)}"
            case "skipped":
                self._skipped += 1
                return f"{at}  update skipped: NaN or Inf ({self._skipped} so far)"
            case "validated":
                return f"{at}  validation: {_gain(values)}{_taking(values)}"
            case "uploaded":
                return f"{at}  checkpoint uploaded{_size(values)}{_taking(values)}{_pending(values)}"
            case "substituted":
                return f"{at}  damaged shards replaced: {text}"
            case "warning":
                return f"{at}  warning: {_who(event)}{text}"
            case "stopping":
                return f"{at}  stopping: {text}" if text else f"{at}  stopping"
        return ""

    def _group_line(self, event: Event) -> str:
        self._groups += 1
        self._retries.clear()
        self._all_retries.clear()
        workers = event.values.get("num_workers", math.nan)
        who = f"{workers:.0f} worker{'' if workers == 1 else 's'}"
        return f"{who} ready" if self._groups == 1 else f"restart {self._groups - 1}: {who} ready"

    def _changed_line(self, event: Event) -> str:
        before, self._changed = self._changed, event.text
        if event.text == before:
            return ""
        text = _one_line(event.text)
        return f"{self._at(event.step)}  code or arithmetic changed, so the bits may differ: {text}"

    def _retries_line(self, event: Event) -> str:
        counts = Counter({reason: round(event.finite(reason)) for reason in event.values})
        before = self._retries.get(event.rank, Counter())
        if not counts.total() > before.total():
            return ""
        self._all_retries.subtract(before)
        self._all_retries.update(counts)
        self._retries[event.rank] = counts
        reasons = ", ".join(f"{reason} {count}" for reason, count in (+self._all_retries).items())
        return f"{self._at(event.step)}  requests retried so far: {reasons}"


class _Rate:
    """The rate of recent steps in wall time: validation and checkpoints count, restarts do not."""

    def __init__(self) -> None:
        self.restart(0, 0.0)

    def restart(self, step: int, now: float) -> None:
        self._step, self._then = step, now
        self._steps = self._seconds = 0.0

    def see(self, step: int, steps_per_s: float, now: float) -> None:
        """Count the steps since the last call.

        Args:
            step: The newest step.
            steps_per_s: Rate measured by the worker: the first estimate, and an upper bound when several events
                arrive at once.
            now: Current time in seconds.
        """
        steps = step - self._step
        if steps < 0:
            self.restart(step, now)
            return
        own = steps / steps_per_s if 0 < steps_per_s < math.inf else 0.0
        if self._steps:
            then = max(now, self._then + own)
            seconds = then - self._then
        elif own:
            then, seconds = now, own
        else:
            return
        fade = math.exp(-seconds / RATE_WINDOW_S)
        self._steps, self._seconds = fade * self._steps + steps, fade * self._seconds + seconds
        self._step, self._then = step, then

    def eta_s(self, remaining: int) -> float | None:
        """Return the estimated time for the remaining steps, in seconds; None if unknown."""
        if remaining <= 0:
            return 0.0
        if self._steps <= 0 or self._seconds <= 0:
            return None
        eta_s = remaining * self._seconds / self._steps
        return eta_s if eta_s < LONGEST_ETA_S else None


class _Pace:
    """A rate limit: the first lines pass at once, later ones some seconds apart."""

    def __init__(self) -> None:
        self._at_once = LINES_AT_ONCE
        self._last = -math.inf
        self._left_out = 0

    def allows(self, now: float) -> bool:
        if self._at_once <= 0 and now - self._last < LINES_APART_S:
            self._left_out += 1
            return False
        self._at_once -= 1
        self._last = now
        return True

    def allow_one(self) -> None:
        self._at_once = max(self._at_once, 1)

    def left_out(self) -> int:
        """Return the number of lines held back since the last call."""
        count, self._left_out = self._left_out, 0
        return count


def _numbers(values: Mapping[str, float]) -> list[str]:
    """Return the available measurements of an interval of steps."""
    forms: dict[str, Callable[[float], str]] = {
        "loss_total": lambda loss: f"loss {_short(loss)}",
        "steps_per_s": lambda rate: f"{_short(rate)} steps/s",
        "samples_per_s": lambda rate: f"{_short(rate)} samples/s",
        "waiting_share": lambda share: f"waiting {100 * share:.0f} %",
    }
    return [form(values[name]) for name, form in forms.items() if name in values]


def _short(value: float) -> str:
    """Return three significant digits: 0.0123, 12.3, 123, 12345."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def _one_line(text: str) -> str:
    """Return untrusted text on one line, without control characters."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())


def _who(event: Event) -> str:
    return f"worker {event.rank}: " if event.rank else ""


def _origin(step: int) -> str:
    return "resuming from the checkpoint of this step" if step else "starting"


def _bad_checkpoints(text: str) -> str:
    return f"; bad checkpoints skipped: {text}" if text else ""


def _gain(values: Mapping[str, float]) -> str:
    if "val_psnr_gain" in values:
        return f"{values['val_psnr_gain']:+.2f} dB over bicubic"
    return f"score {values.get('selection_score', math.nan):.4g}"


def _size(values: Mapping[str, float]) -> str:
    return f": {values['bytes'] / 1e6:.1f} MB" if "bytes" in values else ""


def _taking(values: Mapping[str, float]) -> str:
    return f" in {values['seconds']:.1f} s" if "seconds" in values else ""


def _pending(values: Mapping[str, float]) -> str:
    return f", {values['pending']:.0f} more to upload" if values.get("pending") else ""

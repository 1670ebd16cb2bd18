"""Where the values of a searched setting lie on a chart, and how they are written."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from matplotlib.ticker import IndexLocator, Locator, LogLocator, MaxNLocator

from cluster.sweep.record import SweepRecord

_NUMBER = r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?"
_RANGE = re.compile(
    rf"(?P<kind>\w*uniform) (?P<low>{_NUMBER}) to (?P<high>{_NUMBER})(?: in steps of (?P<step>{_NUMBER}))?"
)
_EDGE = 0.05


@dataclass(frozen=True)
class Axis:
    """The axis of one setting: a range, or choices beside each other.

    Attributes:
        name: Dotted name of the setting.
        domain: Where it is searched, in words.
        low: Lowest value that the axis shows; of no meaning for choices.
        high: Highest value.
        is_log: Whether equal steps are equal factors.
        step: Values lie so far apart; 0 says anywhere.
        choices: Their texts, in order; empty for a range.
    """

    name: str
    domain: str
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    step: float = 0.0
    choices: tuple[str, ...] = ()

    def place(self, value: object) -> float | None:
        """Return where a value lies, from 0 (low) to 1 (high); None if it lies nowhere."""
        if self.choices:
            text = value_text(value)
            return (self.choices.index(text) + 0.5) / len(self.choices) if text in self.choices else None
        if not _is_number(value) or (self.is_log and value <= 0):
            return None
        ends = self.low, self.high
        low, high, at = map(math.log, (*ends, value)) if self.is_log else (*ends, float(value))
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self, most: int = 5) -> list[tuple[float, str]]:
        """Return places from 0 to 1 and what to write there; of a range, about so many at most."""
        if self.choices:
            return [((index + 0.5) / len(self.choices), text) for index, text in enumerate(self.choices)]
        ticks: list[tuple[float, str]] = []
        for locator in self._locators(most):
            values = [float(value) for value in locator.tick_values(self.low, self.high)]
            ticks = [(place, f"{value:.4g}") for value in values if -1e-9 <= (place := self.place(value)) <= 1 + 1e-9]
            if len(ticks) > 2:
                break
        return ticks

    def is_at_edge(self, value: object) -> bool:
        """Return whether a value lies next to an end of the range, so that a better one may lie beyond it."""
        place = self.place(value)
        return not self.choices and place is not None and not _EDGE <= place <= 1 - _EDGE

    def _locators(self, most: int) -> list[Locator]:
        """Return what finds round values, the one to be asked first first: a range may hold no power of ten."""
        if self.step and (self.high - self.low) / self.step < most:
            return [IndexLocator(self.step, 0)]
        even = MaxNLocator(most, steps=[1, 2, 5, 10])
        powers = [LogLocator(subs=subs, numticks=most + 1) for subs in ([1.0], [1.0, 2.0, 5.0])]
        return [*powers, even] if self.is_log else [even]


def axes_of(record: SweepRecord) -> list[Axis]:
    """Return an axis for each setting that was searched, in the order of the space."""
    tried = {name: [t.settings[name] for t in record.trials if name in t.settings] for name in record.space}
    return [_axis(name, domain, tried[name]) for name, domain in record.space.items()]


def _axis(name: str, domain: str, tried: Sequence[Any]) -> Axis:
    """Return the axis of a setting, long enough for what was tried outside the domain too."""
    found = _RANGE.fullmatch(domain)
    if found is None or not all(map(_is_number, tried)):
        in_order = sorted(
            tried, key=lambda value: (not _is_number(value), value if _is_number(value) else value_text(value))
        )
        return Axis(name, domain, choices=tuple(dict.fromkeys(map(value_text, in_order))))
    ends = [float(found["low"]), float(found["high"]), *tried]
    low, high = min(ends), max(ends)
    is_log = found["kind"] == "loguniform" and low > 0
    return Axis(name, domain, low, high, is_log, float(found["step"] or 0))


def value_text(value: object) -> str:
    """Return the value of a setting as a person writes it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def shortened(text: str, most: int) -> str:
    """Return a text without what is too long of it."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""Searched settings on charts: the axis of each, where its values lie on it, and how they are written."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from cluster.sweep.record import SweepRecord
from metasr.charts import Axis

_NUMBER = r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?"
_RANGE = re.compile(rf"(?P<kind>\w*uniform) (?P<low>{_NUMBER}) to (?P<high>{_NUMBER})(?: in steps of {_NUMBER})?")
_EDGE = 0.05


@dataclass(frozen=True)
class Setting:
    """A setting that was searched.

    Attributes:
        name: Its dotted name.
        domain: Where it was searched, in words.
        axis: Long enough for what was tried outside the domain too.
    """

    name: str
    domain: str
    axis: Axis

    def position(self, value: object) -> float:
        """Return where a value lies on the axis; NaN if it lies nowhere."""
        if self.axis.choices:
            text = value_text(value)
            return float(self.axis.choices.index(text)) if text in self.axis.choices else math.nan
        return float(value) if _is_number(value) and (value > 0 or not self.axis.is_log) else math.nan

    def is_at_edge(self, value: object) -> bool:
        """Return whether a value lies next to an end of the range, so that a better one may lie beyond it."""
        at = self.position(value)
        if self.axis.limits is None or math.isnan(at):
            return False
        low, high, at = (math.log(one) if self.axis.is_log else one for one in (*self.axis.limits, at))
        return high > low and not _EDGE <= (at - low) / (high - low) <= 1 - _EDGE


def settings_of(record: SweepRecord) -> list[Setting]:
    """Return the settings that were searched, in the order of the space."""
    tried = {name: [t.settings[name] for t in record.trials if name in t.settings] for name in record.space}
    return [Setting(name, domain, _axis(name, domain, tried[name])) for name, domain in record.space.items()]


def value_text(value: object) -> str:
    """Return the value of a setting as text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _axis(name: str, domain: str, tried: Sequence[Any]) -> Axis:
    found = _RANGE.fullmatch(domain)
    if found is None or not all(map(_is_number, tried)):
        numbers = sorted(value for value in tried if _is_number(value))
        others = sorted(value_text(value) for value in tried if not _is_number(value))
        return Axis(name, choices=tuple(dict.fromkeys([*map(value_text, numbers), *others])))
    values = [float(found["low"]), float(found["high"]), *tried]
    low, high = min(values), max(values)
    return Axis(name, (low, high), is_log=found["kind"] == "loguniform" and low > 0)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

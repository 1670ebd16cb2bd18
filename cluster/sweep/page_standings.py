"""The trials of a sweep in the order of the page, with the rank and the symbol of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles

from cluster.sweep.record import Status, SweepRecord, Trial
from metasr.report.template import number_text

SYMBOLS: dict[Status, str] = {
    "finished": "●",
    "stopped early": "◆",
    "replaced": "◇",
    "failed": "\N{MULTIPLICATION SIGN}",
    "running": "▲",
    "waiting": "▲",
}
BEST_SYMBOL = "★"
FAINTEST = 0.4


@dataclass(frozen=True)
class Standing:
    """A trial and its rank.

    Attributes:
        trial: The trial.
        place: 1 is the best; None for one that failed, has not ended, or was not validated.
        strength: Of its colour on charts, from 0 to 1: the better the stronger.
    """

    trial: Trial
    place: int | None
    strength: float

    @property
    def key(self) -> str:
        """Its identifier in the table, and its CSS class on charts."""
        return f"trial-{self.trial.number}"

    @property
    def objective(self) -> float | None:
        """Objective of the checkpoint it keeps; None before the first validation."""
        return self.trial.best_objective

    @property
    def trade_off(self) -> tuple[float, float] | None:
        """Perceptual and PSNR gain (dB) of the checkpoint it keeps; None if it failed or one was not measured."""
        metrics = self.trial.best.metrics if self.trial.best and self.trial.status != "failed" else {}
        perceptual, psnr = (metrics.get(name) for name in ("val_perceptual_gain", "val_psnr_gain"))
        return None if perceptual is None or psnr is None else (perceptual, psnr)

    @property
    def is_best(self) -> bool:
        """Whether no other is better."""
        return self.place == 1

    @property
    def symbol(self) -> str:
        """The symbol of its status."""
        return BEST_SYMBOL if self.is_best else SYMBOLS[self.trial.status]

    @property
    def tip(self) -> str:
        """The text that a browser shows where a pointer rests on it."""
        ending = f": {self.trial.reason}" if self.trial.reason else ""
        return f"trial {self.trial.number}, objective {number_text(self.objective)}, {self.trial.status}{ending}"


def standings_of(record: SweepRecord) -> list[Standing]:
    """Return all trials: the ranked ones, the best first, then the others by number."""
    ranked = record.ranking
    others = [trial for trial in record.trials if trial not in ranked]
    weaker = (1 - FAINTEST) / max(len(ranked) - 1, 1)
    return [
        *(Standing(trial, place, 1 - weaker * (place - 1)) for place, trial in enumerate(ranked, start=1)),
        *(Standing(trial, None, 1.0) for trial in others),
    ]


def pareto_front(standings: Sequence[Standing]) -> list[Standing]:
    """Return the trials that no other beats in both perceptual and PSNR gain, by perceptual gain."""
    measured = [(standing.trade_off, standing) for standing in standings if standing.trade_off]
    front: list[Standing] = []
    highest = -math.inf
    for (_, psnr), standing in sorted(measured, key=lambda pair: pair[0], reverse=True):
        if psnr > highest:
            highest = psnr
            front.insert(0, standing)
    return front


def low_end(values: Sequence[float]) -> float:
    """Return the lower end for a chart of these values: the lowest that is no outlier.

    An outlier lies more than three interquartile ranges below the first quartile (Tukey's outer fence).
    """
    if len(values) < 5:
        return min(values, default=0.0)
    lower, _, upper = quantiles(values, n=4)
    return min(value for value in values if value >= lower - 3 * (upper - lower))


def duration_text(seconds: float) -> str:
    """Return a duration in its two largest units."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return (
        f"{minutes} min"
        if minutes < 90
        else f"{minutes // 60} h {minutes % 60:02d} min"
        if hours < 48
        else f"{hours // 24} d {hours % 24} h"
    )

"""The objective of a sweep: one number from a validation, at scales that are the same for all trials."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from cluster.sweep.record import Point


@dataclass(frozen=True)
class Objective:
    """The mean gain over bicubic at fixed scales, or the gain at the worst scale where that is below a floor.

    So a trial above the floor at all scales is better than any that is not, and one trained on a narrow range of
    scales cannot win by its gains there.

    Attributes:
        scales: Such as `1.5` and `1x4`.
        metric: Whose gain is taken: ssim, or psnr in dB.
        floor: Minimum of the gain at the worst scale.
    """

    scales: tuple[str, ...]
    metric: Literal["ssim", "psnr"] = "ssim"
    floor: float = 0.0

    def __str__(self) -> str:
        gain = f"gain in {self.metric.upper()} over bicubic"
        return (
            f"mean {gain} at scales {', '.join(self.scales)}; where the gain at the worst of them is below "
            f"{self.floor:g}, that gain instead"
        )

    def __call__(self, metrics: Mapping[str, float]) -> float:
        """Return the objective for the metrics of a validation; NaN if one is missing."""
        gains = [self._gain(metrics, scale) for scale in self.scales]
        if any(map(math.isnan, gains)):
            return math.nan
        return fmean(gains) if min(gains) >= self.floor else min(gains)

    def point(self, step: int, values: Mapping[str, float]) -> Point | None:
        """Return the result of a validation; None if its objective is not a number."""
        metrics = {
            name: value
            for name, value in values.items()
            if math.isfinite(value) and (name.startswith("val_") or name == "selection_score")
        }
        objective = self(metrics)
        return None if math.isnan(objective) else Point(step=step, objective=objective, metrics=metrics)

    def _gain(self, metrics: Mapping[str, float], scale: str) -> float:
        name = f"val_{self.metric}_{{}}_x{scale}".format
        return metrics.get(name("model"), math.nan) - metrics.get(name("bicubic"), math.nan)

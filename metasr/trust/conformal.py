"""Conformal prediction: bounds on errors that hold with a stated coverage, from errors that were seen.

Pixels are put in bins of like doubt, and in each bin the bound is the quantile of the errors seen in it: the
ceil((n + 1) coverage)-th smallest of n. A further pixel that is exchangeable with those of its bin has an error
within the bound with at least this probability, whatever the distribution; and so have those of any bins together,
such as the ones whose bound is small enough to believe them.

Pixels of one patient resemble each other, so that what holds for pixels of many patients may not for one that is
unlike them. `infra/calibrate.py` measures that by leaving out one patient at a time.

Source: split conformal prediction within groups: Vovk 2012; masks for super-resolution: arXiv 2502.09664.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metasr.errors import ScaleError
from metasr.formats import FORMAT, FORMAT_KEY

NUM_BINS = 20
COVERAGE = 0.9
TOLERANCE = 0.05
"""Largest error that is believed, of the range from background to the 99.9th percentile of the brain."""
KIND = "metasr.trust"
NO_BOUND = 1e9  # JSON has no infinity


@dataclass(frozen=True)
class Bounds:
    """The bound on the error for each bin of doubt.

    Attributes:
        edges: Between the bins, growing.
        bounds: One more than edges.
    """

    edges: tuple[float, ...]
    bounds: tuple[float, ...]

    @classmethod
    def fit(cls, scores: NDArray[np.floating], errors: NDArray[np.floating], coverage: float = COVERAGE) -> "Bounds":
        """Return the bounds for bins of equal size, from the score and the error of each pixel."""
        edges = np.quantile(scores, np.linspace(0, 1, NUM_BINS + 1)[1:-1])
        bins = np.searchsorted(edges, scores)
        bounds = [conformal_quantile(errors[bins == number], coverage) for number in range(NUM_BINS)]
        return cls(tuple(map(float, edges)), tuple(min(bound, NO_BOUND) for bound in bounds))

    def __call__(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the bound on the error where the doubt is `scores`, in the same shape."""
        return np.asarray(self.bounds, np.float64)[np.searchsorted(np.asarray(self.edges), scores)]


@dataclass(frozen=True)
class Calibration:
    """What a model's doubt means at each scale.

    Attributes:
        weights_sha256: Of the weights that it was made with.
        patients: Number of patients that it was made of.
        coverage: Share of the pixels whose error is within the bound.
        tolerance: Largest bound of a pixel that is believed.
        scales: Bounds for each scale.
    """

    weights_sha256: str
    patients: int
    coverage: float
    tolerance: float
    scales: Mapping[float, Bounds]

    def bound(self, scores: NDArray[np.floating], scale: float) -> NDArray[np.float64]:
        """Return the bound on the error; between two scales that were calibrated it is interpolated.

        Raises:
            ScaleError: The scale is larger than all that were calibrated.
        """
        known = sorted(self.scales)
        if scale > known[-1]:
            raise ScaleError(
                f"--trust at scale {scale:g}", f"the model was calibrated up to {known[-1]:g}", "Leave out --trust"
            )
        after = bisect_left(known, scale)
        if after == 0 or known[after] == scale:
            return self.scales[known[after]](scores)
        low, high = known[after - 1], known[after]
        part = (scale - low) / (high - low)
        return (1 - part) * self.scales[low](scores) + part * self.scales[high](scores)

    def to_json(self) -> str:
        """Return the content of `trust.json`."""
        scales = {f"{scale:g}": asdict(bounds) for scale, bounds in sorted(self.scales.items())}
        return json.dumps({FORMAT_KEY: FORMAT, "kind": KIND, **asdict(self), "scales": scales}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Calibration":
        """Parse what `to_json` wrote.

        Raises:
            ValueError, LookupError, TypeError: It is something else.
        """
        content: dict[str, Any] = json.loads(text)
        if content["kind"] != KIND:
            raise ValueError("it is no calibration")
        scales = {
            float(scale): Bounds(tuple(map(float, found["edges"])), tuple(map(float, found["bounds"])))
            for scale, found in content["scales"].items()
        }
        if not scales or any(len(found.bounds) != len(found.edges) + 1 for found in scales.values()):
            raise ValueError("its bounds do not fit its bins")
        numbers = float(content["coverage"]), float(content["tolerance"])
        return cls(str(content["weights_sha256"]), int(content["patients"]), *numbers, scales)


def conformal_quantile(errors: NDArray[np.floating], coverage: float) -> float:
    """Return the ceil((n + 1) coverage)-th smallest of n errors; infinity where there are too few for a bound."""
    rank = math.ceil((len(errors) + 1) * coverage - 1e-9)
    return float(np.partition(errors, rank - 1)[rank - 1]) if rank <= len(errors) else math.inf

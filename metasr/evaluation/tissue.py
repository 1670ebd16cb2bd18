"""Unsupervised intensity classes in the brain: a Gaussian mixture fitted to HR, applied to HR and SR."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metasr.errors import DataError
from metasr.evaluation.downstream import Grid, Images, Labeller, Labels, StepName

CLASSES = ("dark", "middle", "bright")
# Initial means of the components. Most of a brain has similar intensities: equal thirds all converge to them.
START_QUANTILES = (0.02, 0.5, 0.98)
MAX_SAMPLE = 50_000
MAX_ITERATIONS = 3_000
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Tissue:
    """Three intensity classes: in T1 about fluid, gray and white matter; after contrast agent fluid, brain, bright.

    The mixture is fitted once, to the subject's HR, and labels every image inside the brain of HR: so differences
    come from the images, not from the fit. The components share one variance, so that each class is an interval of
    intensities: with separate variances, the broad dark class would include the brightest voxels as well.
    """

    name: StepName = "tissue"
    all_slices: bool = False
    has_distances: bool = False

    def labeller(self, subject: str, hr: Images, grid: Grid) -> Labeller:
        """Fit the mixture to the brain of HR, by expectation maximisation from a fixed start: deterministic.

        Raises:
            DataError: There is no brain, or it has too few intensities.
        """
        brain = hr[hr != 0].astype(np.float64)
        sample = brain[:: max(1, brain.size // MAX_SAMPLE)]
        if np.unique(sample).size < len(CLASSES):
            reason = f"its brain has fewer than {len(CLASSES)} intensities"
            raise DataError(f"subject {subject}", reason, "Omit --downstream tissue for such data")
        thresholds = _thresholds(sample)

        def label(images: Images, brain: NDArray[np.bool_]) -> Labels:
            return np.where(brain, np.searchsorted(thresholds, images) + 1, 0)

        return label

    def class_name(self, label: int) -> str:
        """Return dark, middle or bright."""
        return CLASSES[label - 1]


def _thresholds(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intensities at which the more probable class changes.

    With a common variance v, classes of weights w and means m meet at (m1 + m2) / 2 + v log(w1 / w2) / (m2 - m1).
    """
    from sklearn.mixture import GaussianMixture

    start = np.quantile(values, START_QUANTILES)[:, None]
    mixture = GaussianMixture(
        len(CLASSES),
        covariance_type="tied",
        weights_init=np.full(len(CLASSES), 1 / len(CLASSES)),
        means_init=start,
        precisions_init=np.array([[len(CLASSES) ** 2 / values.var()]]),
        max_iter=MAX_ITERATIONS,
        tol=TOLERANCE,
    ).fit(values[:, None])
    order = mixture.means_[:, 0].argsort()
    means, log_weights = mixture.means_[order, 0], np.log(mixture.weights_[order] + 1e-300)
    gaps = np.maximum(np.diff(means), 1e-12)
    between = (means[:-1] + means[1:]) / 2 - float(mixture.covariances_[0, 0]) * np.diff(log_weights) / gaps
    thresholds: NDArray[np.float64] = np.maximum.accumulate(between)
    return thresholds

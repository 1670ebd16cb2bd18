"""Statistics over patients: means, and paired differences with their intervals and tests."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from statistics import fmean
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from metasr.data.patients import patient_of_row
from metasr.evaluation.methods import MODEL_NAME
from metasr.evaluation.protocol import Score
from metasr.evaluation.regions import RegionName
from metasr.scale import Scale

Measure = Literal["psnr", "ssim", "nrmse", "consistency", "perceptual", "mismatch", "covered"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
NUM_RESAMPLES = 10_000
# With five pairs the smallest possible two-sided p-value of the signed-rank test is 0.0625.
MIN_PATIENTS_FOR_TEST = 6


class Mean(NamedTuple):
    """Mean over patients of each patient's mean over slices; NaN if not measured."""

    psnr: float
    ssim: float
    nrmse: float
    consistency: float
    perceptual: float
    mismatch: float
    covered: float


@dataclass(frozen=True)
class PairedDifference:
    """The model minus a rival at one scale, paired by patient.

    Attributes:
        by_patient: Difference of each patient.
        interval: 95 % interval of the mean; None for a single patient, or if a difference is not finite.
        p_value: Two-sided Wilcoxon signed-rank test with Holm's correction over the scales; None for fewer than 6
            patients.
    """

    rival: str
    scale: Scale
    measure: Measure
    by_patient: Mapping[str, float]
    mean: float
    interval: tuple[float, float] | None
    p_value: float | None


def by_patient(
    scores: Sequence[Score], measure: Measure, region: RegionName = "whole"
) -> dict[tuple[Scale, str], dict[str, float]]:
    """Return each patient's mean over slices, for each measured (scale, method)."""
    values: dict[tuple[Scale, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for score in scores:
        value: float | None = getattr(score, measure)
        if score.region == region and value is not None:
            values[score.scale, score.method][patient_of_row(score)].append(value)
    return {
        cell: {patient: fmean(of_slices) for patient, of_slices in sorted(patients.items())}
        for cell, patients in values.items()
    }


def mean_by_scale(scores: Sequence[Score], region: RegionName = "whole") -> dict[tuple[Scale, str], Mean]:
    """Return the means for each (scale, method). Each patient has equal weight, whatever the number of slices."""
    found = [by_patient(scores, measure, region) for measure in MEASURES]
    return {
        cell: Mean(*(fmean(means[cell].values()) if cell in means else nan for means in found)) for cell in found[0]
    }


def differences(scores: Sequence[Score], rival: str, measure: Measure, *, seed: int = 0) -> list[PairedDifference]:
    """Return the model's gain over a rival on whole slices, for each scale that both have."""
    patients = by_patient(scores, measure)
    scales = sorted(scale for scale, method in patients if method == rival)
    pairs = [(patients[scale, MODEL_NAME], patients[scale, rival]) for scale in scales]
    gains = [{name: ours[name] - theirs[name] for name in ours} for ours, theirs in pairs]
    arrays = [np.array(list(gain.values())) for gain in gains]
    tested = [values for values in arrays if len(values) >= MIN_PATIENTS_FOR_TEST]
    p_values = iter(holm([signed_rank_p(values) for values in tested]))
    return [
        PairedDifference(
            rival,
            scale,
            measure,
            gain,
            float(values.mean()),
            bootstrap_interval(values, seed) if len(values) > 1 and np.isfinite(values).all() else None,
            next(p_values) if len(values) >= MIN_PATIENTS_FOR_TEST else None,
        )
        for scale, gain, values in zip(scales, gains, arrays, strict=True)
    ]


def bootstrap_interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of `values` under resampling of the patients.

    Source: Efron and Tibshirani 1993, section 13.3.
    """
    random = np.random.default_rng(seed)
    resampled = values[random.integers(0, len(values), (NUM_RESAMPLES, len(values)))].mean(axis=1)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return float(low), float(high)


def signed_rank_p(values: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test that differences are symmetric about 0."""
    if not values.any():
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(values).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple tests.

    Source: Holm 1979.
    """
    adjusted, largest = list(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted

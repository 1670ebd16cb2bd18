"""Explain where SSIM of the slice and of the brain disagree: the background makes the difference."""

from collections.abc import Sequence

from metasr.evaluation.methods import BICUBIC_NAME, MODEL_NAME
from metasr.evaluation.protocol import Score
from metasr.evaluation.regions import RegionName
from metasr.evaluation.statistics import mean_by_scale
from metasr.scale import Scale

BELOW = (
    "below bicubic on the slice and above it in the brain: the slice includes the black background, where even faint "
    "values lower SSIM."
)
ABOVE = (
    "above bicubic on the slice and below it in the brain: the gain lies in the background, which the slice includes."
)


def disagreements(scores: Sequence[Score]) -> list[str]:
    """Return a sentence for scales at which SSIM is below bicubic on the slice only, and one for the opposite."""
    whole, brain = _gains(scores, "whole"), _gains(scores, "brain")
    scales = sorted(scale for scale in whole.keys() & brain.keys() if whole[scale] * brain[scale] < 0)
    found = [
        ([str(scale) for scale in scales if whole[scale] < 0], BELOW),
        ([str(scale) for scale in scales if whole[scale] > 0], ABOVE),
    ]
    return [f"At scale{'s' * (len(names) > 1)} {', '.join(names)} SSIM is {what}" for names, what in found if names]


def _gains(scores: Sequence[Score], region: RegionName) -> dict[Scale, float]:
    means = mean_by_scale(scores, region)
    return {
        scale: mean.ssim - means[scale, BICUBIC_NAME].ssim
        for (scale, method), mean in means.items()
        if method == MODEL_NAME and (scale, BICUBIC_NAME) in means
    }

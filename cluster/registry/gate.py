"""The promotion gate: rules for the scores of a version that is to become the champion."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

import numpy as np

from cluster.config import GateConfig
from metasr.evaluation import Score, differences
from metasr.evaluation.methods import BICUBIC_NAME, MODEL_NAME
from metasr.evaluation.statistics import Measure, PairedDifference, bootstrap_interval

CHAMPION_NAME = "champion"
# Displayed name, decimals and unit of each measure.
SHOWN: dict[Measure, tuple[str, int, str]] = {"psnr": ("PSNR", 3, " dB"), "ssim": ("SSIM", 5, "")}


class RuleResult(NamedTuple):
    """Whether a rule holds, with the numbers."""

    rule: str
    passed: bool
    numbers: str

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'FAILED'}  {self.rule}: {self.numbers}"


def side_by_side(scores: Sequence[Score], champion: Sequence[Score]) -> list[Score]:
    """Return the scores of a version, with those of the champion added as the method `champion`."""
    others = [replace(score, method=CHAMPION_NAME) for score in champion if score.method == MODEL_NAME]
    return [*(score for score in scores if score.method in (BICUBIC_NAME, MODEL_NAME)), *others]


def judge(scores: Sequence[Score], gate: GateConfig) -> list[RuleResult]:
    """Return the result of each rule on whole slices. The rules about the champion apply if its scores are given.

    Args:
        scores: Scores of bicubic, the model and the champion, see `side_by_side`.
        gate: The margins.
    """
    margins: dict[Measure, float] = {"psnr": gate.psnr_margin_db, "ssim": gate.ssim_margin}
    findings = [_nowhere_below(scores, BICUBIC_NAME, measure, 0.0) for measure in margins]
    if any(score.method == CHAMPION_NAME for score in scores):
        findings += [_nowhere_below(scores, CHAMPION_NAME, measure, margin) for measure, margin in margins.items()]
        findings += [_better_on_average(scores, measure, gate.min_patients) for measure in margins]
    return findings


def _nowhere_below(scores: Sequence[Score], rival: str, measure: Measure, margin: float) -> RuleResult:
    """Compare means over patients scale by scale."""
    name, digits, unit = SHOWN[measure]
    than = f"{margin:g}{unit} below" if margin else "below"
    rule = f"{name} nowhere {'more than ' if margin else ''}{than} {'the ' * (rival == CHAMPION_NAME)}{rival}"
    gains = differences(scores, rival, measure)
    if not gains:
        return RuleResult(rule, False, f"{rival} was not evaluated")
    # A mean that is NaN is the worst, and fails.
    worst = min(gains, key=lambda gain: gain.mean if np.isfinite(gain.mean) else -np.inf)
    return RuleResult(rule, worst.mean >= -margin, f"least at scale {worst.scale}, {worst.mean:+.{digits}f}{unit}")


def _better_on_average(scores: Sequence[Score], measure: Measure, min_patients: int) -> RuleResult:
    """Compare each patient's mean over scales: by a confidence interval if there are enough patients."""
    name, digits, unit = SHOWN[measure]
    rule = f"{name} better than the champion on average"
    gains = _over_scales(differences(scores, CHAMPION_NAME, measure))
    mean = f"{gains.mean():+.{digits}f}{unit}"
    if len(gains) < min_patients:
        numbers = f"{mean}, a mean of {len(gains)} patient{'s' * (len(gains) > 1)}"
        return RuleResult(rule, bool(gains.mean() > 0), f"{numbers}: too few for a 95 % interval")
    if not np.isfinite(gains).all():
        return RuleResult(rule, False, f"{mean}, not finite for every patient")
    low, high = bootstrap_interval(gains, seed=0)
    interval = f"95 % interval [{low:+.{digits}f}, {high:+.{digits}f}]"
    return RuleResult(rule, low > 0, f"{mean}, {interval} of {len(gains)} patients")


def _over_scales(gains: Sequence[PairedDifference]) -> np.ndarray:
    """Return each patient's mean difference over the scales."""
    patients = sorted({name for gain in gains for name in gain.by_patient})
    return np.array([fmean(gain.by_patient[name] for gain in gains if name in gain.by_patient) for name in patients])

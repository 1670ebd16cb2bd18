"""The rules of the promotion gate about detail: Fourier ring correlation, and the coverage of the mask of trust."""

from collections.abc import Sequence
from math import isnan
from typing import NamedTuple

from cluster.config import GateConfig, TrackingConfig
from cluster.registry.gate import RuleResult
from cluster.registry.records import Evaluated
from metasr.errors import RegistryError
from metasr.evaluation import Score, mean_by_scale
from metasr.evaluation.methods import MODEL_NAME
from metasr.scale import Scale


class _Rule(NamedTuple):
    """A limit of a measure, for the mean over patients at every scale.

    Attributes:
        measure: Of the scores.
        setting: That states the limit.
        limit: The limit.
        is_most: Whether it is the largest that passes, else the smallest.
        advice: What helps a version that fails.
        lacking: Why an evaluation may lack it.
    """

    measure: str
    setting: str
    limit: float
    is_most: bool
    advice: str
    lacking: str


def require_detail(ours: Evaluated, reference: str, gate: GateConfig, tracking: TrackingConfig) -> None:
    """Raise RegistryError, with what to run, if an evaluation lacks a measure that the gate requires.

    Args:
        ours: The evaluation.
        reference: Reference of the evaluated version.
        gate: Settings of the gate.
        tracking: MLflow of the version, for the command to run.
    """
    for rule in _rules(gate):
        if not _means(ours.scores, rule.measure):
            command = ours.evidence.evaluate(reference, tracking)
            reason = f"{rule.setting} {rule.limit:g} requires a measure that its evaluation lacks ({rule.lacking})"
            raise RegistryError(reference, reason, f"Run `{command}`, and promote again")


def judge_detail(scores: Sequence[Score], gate: GateConfig) -> list[RuleResult]:
    """Return the results of the rules about detail; none where the gate has no such rule.

    Args:
        scores: Of the version.
        gate: The limits.
    """
    return [_judge(rule, _means(scores, rule.measure)) for rule in _rules(gate)]


def _judge(rule: _Rule, means: dict[Scale, float]) -> RuleResult:
    text = f"{rule.measure} nowhere {'above' if rule.is_most else 'below'} {rule.limit:.1%} ({rule.setting})"
    if not means:
        return RuleResult(text, False, "it was not measured")
    worst = (max if rule.is_most else min)(means, key=lambda scale: means[scale])
    passed = means[worst] <= rule.limit if rule.is_most else means[worst] >= rule.limit
    numbers = f"{'most' if rule.is_most else 'least'} at scale {worst}, {means[worst]:.1%}"
    return RuleResult(text, passed, numbers if passed else f"{numbers} ({rule.advice})")


def _rules(gate: GateConfig) -> list[_Rule]:
    rules = []
    if gate.max_mismatch < 1:
        advice = "its detail is not that of HR: train it longer, with less adversarial weight or on more patients"
        lacking = "it is older, or no patch has enough brain"
        rules.append(_Rule("mismatch", "gate.max_mismatch", gate.max_mismatch, True, advice, lacking))
    if gate.min_covered > 0:
        advice = "its bounds do not hold for these patients: infra/calibrate.py calibrates it on such"
        lacking = "it is older, or the bundle has no calibration, which infra/calibrate.py makes"
        rules.append(_Rule("covered", "gate.min_covered", gate.min_covered, False, advice, lacking))
    return rules


def _means(scores: Sequence[Score], measure: str) -> dict[Scale, float]:
    """Return the model's mean over patients at each scale where it was measured."""
    means = {scale: mean for (scale, method), mean in mean_by_scale(scores).items() if method == MODEL_NAME}
    found = {scale: float(getattr(mean, measure)) for scale, mean in means.items()}
    return {scale: value for scale, value in found.items() if not isnan(value)}

"""The rules of the promotion gate about downstream evaluation."""

from collections.abc import Sequence
from statistics import fmean

from cluster.config import GateConfig, TrackingConfig
from cluster.registry.gate import CHAMPION_NAME, RuleResult
from cluster.registry.records import Evaluated
from metasr.errors import RegistryError
from metasr.evaluation.downstream import Outcome
from metasr.evaluation.methods import BICUBIC_NAME, MODEL_NAME
from metasr.evaluation.outcomes import ALL_CLASSES, by_patient
from metasr.scale import Scale

ByScale = dict[Scale, dict[str, float]]


def require_downstream(ours: Evaluated, reference: str, gate: GateConfig, tracking: TrackingConfig) -> None:
    """Raise RegistryError, with what to run, if an evaluation lacks a step that the gate requires.

    Args:
        ours: The evaluation.
        reference: Reference of the evaluated version.
        gate: Settings of the gate.
        tracking: MLflow of the version, for the command to run.
    """
    step = gate.downstream
    if step == "none" or step in ours.evidence.downstream:
        return
    command = ours.evidence.evaluate(reference, tracking, *_flags(step))
    raise RegistryError(reference, f"gate.downstream {step} requires an evaluation that it lacks", f"Run `{command}`")


def require_comparable_downstream(
    ours: Evaluated, theirs: Evaluated, champion: str, gate: GateConfig, tracking: TrackingConfig
) -> None:
    """Raise RegistryError, with what to run, unless both evaluations did the required step in the same way.

    Args:
        ours: Evaluation of the version.
        theirs: Evaluation of the champion.
        champion: Reference of the champion.
        gate: Settings of the gate.
        tracking: MLflow of the versions, for the command to run.
    """
    if gate.downstream == "none":
        return
    mine, other = ours.evidence, theirs.evidence
    same = gate.downstream == "tissue" or mine.downstream_command == other.downstream_command
    if gate.downstream not in other.downstream or not same:
        reason = f"it was not evaluated in the same way by {gate.downstream}, which gate.downstream requires"
        raise RegistryError(
            f"{champion}, the champion", reason, f"Run `{mine.evaluate(champion, tracking)}`, and promote again"
        )


def judge_downstream(
    ours: Sequence[Outcome], champion: Sequence[Outcome] | None, gate: GateConfig
) -> list[RuleResult]:
    """Return the results of the downstream rules: mean Dice over classes and patients, scale by scale.

    Args:
        ours: Outcomes of the version.
        champion: Outcomes of the champion, if there is one.
        gate: The step and the margin.
    """
    if gate.downstream == "none":
        return []
    model = _dice(ours, gate.downstream, MODEL_NAME)
    rivals = [(BICUBIC_NAME, _dice(ours, gate.downstream, BICUBIC_NAME), 0.0)]
    if champion is not None:
        rivals.append((CHAMPION_NAME, _dice(champion, gate.downstream, MODEL_NAME), gate.dice_margin))
    return [_nowhere_below(gate.downstream, model, name, theirs, margin) for name, theirs, margin in rivals]


def _nowhere_below(step: str, ours: ByScale, rival: str, theirs: ByScale, margin: float) -> RuleResult:
    than = f"more than {margin:g} below the {rival}" if margin else f"below {rival}"
    rule = f"Dice ({step}) nowhere {than}"
    if not ours or ours.keys() != theirs.keys():
        return RuleResult(rule, False, f"{rival} was not compared at the same scales")
    gains = {scale: _gain(ours[scale], theirs[scale]) for scale in ours}
    worst = min(gains, key=lambda scale: gains[scale])
    return RuleResult(rule, gains[worst] >= -margin, f"least at scale {worst}, {gains[worst]:+.4f}")


def _gain(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Return the mean over patients. A patient without rows has no class in HR and none in SR: Dice is 1."""
    return fmean(ours.get(name, 1.0) - theirs.get(name, 1.0) for name in sorted({*ours, *theirs}))


def _dice(outcomes: Sequence[Outcome], step: str, method: str) -> ByScale:
    """Return each patient's mean Dice over the classes, by scale."""
    return {
        scale: patients
        for (scale, label, measure, name), patients in by_patient(outcomes, step).items()
        if (label, measure, name) == (ALL_CLASSES, "dice", method)
    }


def _flags(step: str) -> tuple[str, ...]:
    return ("--downstream", "tissue") if step == "tissue" else ("--downstream-command", "COMMAND")

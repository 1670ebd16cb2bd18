"""What evidence must cover: the scales that the gate requires, and no less than the champion's evidence."""

from collections.abc import Sequence

from cluster.config import GateConfig, TrackingConfig
from cluster.registry.records import Evidence
from metasr.errors import RegistryError
from metasr.scale import Scale

ALL_SLICES = 0


def require_scales(
    ours: Evidence, reference: str, only: Scale | None, gate: GateConfig, tracking: TrackingConfig
) -> None:
    """Raise RegistryError, with what to do, unless a version was evaluated at all scales that the gate requires.

    Args:
        ours: Evidence of the version.
        reference: Reference of the version.
        only: The single scale that its network supports; None for any.
        gate: Settings of the gate.
        tracking: MLflow of the version, for the command to run.
    """
    missing = [str(scale) for scale in gate.scales if str(scale) not in ours.scales]
    if not missing:
        return
    if only is not None and set(gate.scales) != {only}:
        raise RegistryError(
            reference,
            f"it supports scale {only} only, and gate.scales requires {', '.join(map(str, gate.scales))}",
            f"Train it under its own name (--tracking.model NAME), and promote it there with --gate.scales {only}",
        )
    reason = f"it was not evaluated at {_named(missing)}, which gate.scales requires"
    raise RegistryError(reference, reason, _evaluate(ours, reference, tracking, missing, ours.slices_per_subject))


def require_no_less(
    ours: Evidence, champions: Evidence, reference: str, only: Scale | None, tracking: TrackingConfig
) -> None:
    """Raise RegistryError, with what to do, if a version was evaluated on less than the champion at its promotion.

    Otherwise a narrower evaluation of both would hide where the version is worse.

    Args:
        ours: Evidence of the version.
        champions: Evidence with which the champion was promoted.
        reference: Reference of the version.
        only: The single scale that its network supports; None for any.
        tracking: MLflow of the version, for the command to run.
    """
    missing = [scale for scale in champions.scales if scale not in ours.scales]
    fewer = _is_fewer(ours.slices_per_subject, champions.slices_per_subject)
    if not missing and not fewer:
        return
    slices = champions.slices_per_subject if fewer else ours.slices_per_subject
    lacks = [_named(missing)] if missing else []
    lacks += [f"{slices or 'all'} slices of each subject"] if fewer else []
    fix = _evaluate(ours, reference, tracking, missing, slices)
    if missing and only is not None:
        fix = f"It supports scale {only} only: train it under its own name (--tracking.model NAME)"
    raise RegistryError(
        reference, f"it was evaluated on less than the champion, which had {' and '.join(lacks)}", fix
    )


def _is_fewer(slices: int, than: int) -> bool:
    return slices != ALL_SLICES and (than == ALL_SLICES or slices < than)


def _named(scales: Sequence[str]) -> str:
    return f"scale{'s' * (len(scales) > 1)} {', '.join(scales)}"


def _evaluate(
    ours: Evidence, reference: str, tracking: TrackingConfig, more_scales: Sequence[str], slices: int
) -> str:
    """Return the command that evaluates more scales and the given number of slices."""
    scales = sorted({*ours.scales, *more_scales}, key=Scale.parse)
    wider = ours.model_copy(update={"scales": tuple(scales), "slices_per_subject": slices})
    return f"Run `{wider.evaluate(reference, tracking)}`, and promote again"

"""What computed which steps of a run: its code and arithmetic may change wherever it goes on."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

from metasr.errors import CheckpointError

What = Literal["code_version", "arithmetic"]
NAMES: dict[What, str] = {"code_version": "code", "arithmetic": "arithmetic"}


class Stretch(NamedTuple):
    """Steps that were computed alike: those after `after_step`, until the next stretch begins.

    Attributes:
        after_step: The step before its first.
        code_version: See `RunIdentity`.
        arithmetic: See `metasr.arithmetic`, of the first worker.
    """

    after_step: int
    code_version: str
    arithmetic: str


def lineage_of(about: Mapping[str, Any]) -> tuple[Stretch, ...]:
    """Return what computed the steps of a checkpoint, by what its manifest says.

    Raises:
        CheckpointError: It does not say so.
    """
    try:
        if "lineage" in about:
            return tuple(Stretch(**stretch) for stretch in about["lineage"])
        return (Stretch(0, about["code_version"], about["arithmetic"]),)  # from before there was a lineage
    except (KeyError, TypeError) as error:
        raise CheckpointError("its checkpoint", "its manifest names no code or arithmetic", "Use another") from error


def told(lineage: Sequence[Stretch], what: What) -> str:
    """Return in words what a lineage says of code or arithmetic, such as `a; after step 500: b`."""
    words = [(value, f"after step {next(same).after_step}: {value}") for value, same in _by_value(lineage, what)]
    return "; ".join([alone for alone, _ in words[:1]] + [since for _, since in words[1:]])


def changes(lineage: Sequence[Stretch]) -> str:
    """Return in words what changed on the way; empty if nothing did."""
    changed = [what for what in NAMES if len(list(_by_value(lineage, what))) > 1]
    return ". ".join(f"{NAMES[what]} {told(lineage, what)}" for what in changed)


def part_after(a: Sequence[Stretch], b: Sequence[Stretch], what: What) -> int | None:
    """Return the step after which code or arithmetic of two lineages differ for the first time; None if nowhere."""
    steps = sorted({stretch.after_step for stretch in (*a, *b)})
    return next((step for step in steps if _at(a, step, what) != _at(b, step, what)), None)


def _by_value(lineage: Sequence[Stretch], what: What) -> "groupby[str, Stretch]":
    return groupby(lineage, lambda stretch: str(getattr(stretch, what)))


def _at(lineage: Sequence[Stretch], step: int, what: What) -> str | None:
    """Return what computed the step after `step`."""
    return next((getattr(stretch, what) for stretch in reversed(lineage) if stretch.after_step <= step), None)

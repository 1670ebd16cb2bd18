"""What happens when, at random by seed: the same seed and length are the same faults at the same times."""

import random
from typing import NamedTuple

FIRST_S, GAP_S = 5.0, (8.0, 22.0)


class Fault(NamedTuple):
    """Something that happens.

    Attributes:
        at_s: Seconds after the first step.
        kind: One of KINDS.
        lasts_s: For how long; 0 for what happens in a moment.
        place: From 0 to 1, where a fault needs to choose: a worker, a byte.
    """

    at_s: float
    kind: str
    lasts_s: float
    place: float


KINDS = {
    "worker killed": (3, (0, 0)),
    "worker frozen": (1, (5, 60)),
    "driver killed": (2, (0, 0)),
    "driver asked to end": (1, (0, 0)),
    "store fails": (3, (5, 20)),
    "store away": (2, (5, 40)),
    "MLflow killed": (2, (2, 20)),
    "bit flipped": (2, (0, 0)),
}
"""Kinds of faults: how often each comes beside the others, and for how many seconds."""


def schedule(seed: int, length_s: float) -> list[Fault]:
    """Return the faults of the first `length_s` seconds, in order."""
    draw, faults, at_s = random.Random(seed), [], FIRST_S
    weights = [weight for weight, _ in KINDS.values()]
    while at_s < length_s:
        (kind,) = draw.choices(list(KINDS), weights)
        faults.append(Fault(at_s, kind, draw.uniform(*KINDS[kind][1]), draw.random()))
        at_s += draw.uniform(*GAP_S)
    return faults

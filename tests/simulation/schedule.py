"""What happens to a simulated run, by seed: the same seed, workers and steps are the same happenings."""

import random
from typing import Literal, NamedTuple

WORKERS_PER_MACHINE = 8
FIRST, GAP = 6, (10, 22)  # steps
Kind = Literal["worker fails", "machine lost", "machine leaves", "machines join", "store busy", "driver frozen"]
WEIGHTS: dict[Kind, int] = {
    "worker fails": 4,
    "machine lost": 2,
    "machine leaves": 2,
    "machines join": 3,
    "store busy": 2,
    "driver frozen": 1,
}
"""Kinds, and how often each comes beside the others."""


class Happening(NamedTuple):
    """Something that happens when a run first reaches a step.

    Attributes:
        step: Which.
        kind: What: a worker is killed; a machine is gone with its disk; one is announced to leave; machines join;
            each worker has had to ask a store again; a driver is frozen, another takes its place, and it wakes up.
        place: From 0 to 1, where it needs to choose.
    """

    step: int
    kind: Kind
    place: float


def schedule(seed: int, steps: int) -> list[Happening]:
    """Return what happens in a run of so many steps, in order: first each kind once, then at random."""
    draw, found, step = random.Random(seed), [], FIRST
    once = list(WEIGHTS)
    draw.shuffle(once)
    while step < steps - GAP[0]:
        kind = once.pop() if once else draw.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        found.append(Happening(step, kind, draw.random()))
        step += draw.randint(*GAP)
    return found


def machines_after(happened: list[Happening], num_workers: int) -> tuple[int, ...]:
    """Return the machines there are, by number, after all this: at first as many as the workers need.

    At least one stays, and there are never more than at first.
    """
    most = max(2, num_workers // WORKERS_PER_MACHINE)
    machines, newest = list(range(most)), most
    for one in happened:
        if one.kind in ("machine lost", "machine leaves") and len(machines) > 1:
            machines.pop(int(one.place * len(machines)))
        elif one.kind == "machines join":
            number = min(most - len(machines), 1 + int(one.place * max(1, most // 4)))
            machines += range(newest, newest + number)
            newest += number
    return tuple(machines)

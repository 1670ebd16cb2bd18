"""Run all tasks of an evaluation, and collect their results in the order of the subjects."""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from cluster.evaluation.tasks import Setup, Share, downstream, score
from cluster.runtime.ordered_map import InOrder, Lost, in_order
from metasr.errors import DataError
from metasr.evaluation import Evaluation
from metasr.evaluation.downstream import Outcome, Step

# Starting Ray locally takes 10 to 25 s; this many images, counted at each scale, take one core about a minute.
MIN_IMAGES_FOR_RAY = 250
T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class EvaluationResults:
    """The results of an evaluation.

    Attributes:
        result: Scores and pictures, as `evaluate` returns them for all slices at once.
        outcomes: Results of the downstream steps.
        device: Names of the devices used.
    """

    result: Evaluation
    outcomes: list[Outcome]
    device: str


def measure(
    setup: Setup, parts: Sequence[Share], steps: Sequence[Step], *, workers: int | None, progress: Progress
) -> EvaluationResults:
    """Score all parts, and do the downstream steps of all subjects, in parallel.

    Scores do not depend on the number of parallel tasks: each part is computed alone, with a fixed number of
    threads, and results are collected in the order of the parts.

    Args:
        setup: Inputs that all tasks share.
        parts: Parts to score, see `shares`.
        steps: Steps of downstream evaluation.
        workers: Number of parallel tasks, see `in_order`. None uses Ray if RAY_ADDRESS is set, or if the work takes
            long compared with the start of Ray.
        progress: Called with what is done and the completed fraction.

    Raises:
        MetaSRError: A task failed, or its worker died repeatedly; it names the subject.
    """
    result = Evaluation([], [], defaultdict(list))
    outcomes: list[Outcome] = []
    devices: dict[str, None] = {}
    works = [(step, share) for step in steps for share in parts if not share.number]
    total = len(parts) + len(works)
    with in_order(workers, len(parts), setup.needs, _min_for_ray(setup, parts, steps)) as map_in_order:
        scored = _all(map_in_order, partial(score, setup), parts, lambda share: share.subject)
        for done, (share, found) in enumerate(scored, start=1):
            _add(result, found.result)
            devices[found.device] = None
            progress(f"{share.subject}: slices scored, {share.number + 1} of {share.of}", done / total)
        several = _all(map_in_order, partial(downstream, setup), works, lambda work: work[1].subject)
        for done, ((step, share), rows) in enumerate(several, start=len(parts) + 1):
            outcomes += rows
            progress(f"{share.subject}: {step.name} compared", done / total)
    return EvaluationResults(result, outcomes, ", ".join(devices))


def _all(
    map_in_order: InOrder, function: Callable[[T], R], things: Sequence[T], subject: Callable[[T], str]
) -> Iterator[tuple[T, R]]:
    """Yield each item with its result."""
    for thing, found in zip(things, map_in_order(function, things), strict=True):
        if isinstance(found, Lost):
            raise DataError(f"subject {subject(thing)}", str(found), "Give tasks more memory, or fewer --workers")
        yield thing, found


def _add(result: Evaluation, part: Evaluation) -> None:
    result.scores.extend(part.scores)
    result.comparisons.extend(part.comparisons)
    for cell, seconds in part.seconds.items():
        result.seconds[cell].extend(seconds)


def _min_for_ray(setup: Setup, parts: Sequence[Share], steps: Sequence[Step]) -> int:
    """Return the number of parts from which Ray is used: 0 (always) or `sys.maxsize` (never)."""
    images = sum(part.num_slices for part in parts) * len(setup.scales) * (1 + len(steps))
    return 0 if os.environ.get("RAY_ADDRESS") or (images >= MIN_IMAGES_FOR_RAY and len(parts) > 1) else sys.maxsize

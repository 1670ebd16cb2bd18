"""All tasks of an evaluation, and their results in the order of the subjects."""

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

# Starting Ray on this machine takes 10 to 25 s. So many images at a scale take about a minute of a core.
MIN_IMAGES_FOR_RAY = 250
T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class EvaluationResults:
    """What was found.

    Attributes:
        result: Scores and pictures, as `evaluate` returns them for all slices at once.
        outcomes: Of the downstream steps.
        device: What it was computed on.
    """

    result: Evaluation
    outcomes: list[Outcome]
    device: str


def measure(
    setup: Setup, parts: Sequence[Share], steps: Sequence[Step], *, workers: int | None, progress: Progress
) -> EvaluationResults:
    """Score all parts, and do the downstream steps of all subjects, several at a time.

    Scores do not depend on how many are in hand: each part is computed alone, with the same number of threads, and
    results are put together in the order of the parts.

    Args:
        setup: What the tasks share.
        parts: See `shares`.
        steps: Downstream evaluation.
        workers: Tasks in hand at a time, see `in_order`. None also takes Ray where RAY_ADDRESS names one, and for
            work that is long beside the start of Ray.
        progress: Told what is done, and which part of all that is.

    Raises:
        MetaSRError: A task failed, or whoever worked on it died again and again; it names the subject.
    """
    result = Evaluation([], [], defaultdict(list))
    outcomes: list[Outcome] = []
    devices: dict[str, None] = {}
    works = [(step, share) for step in steps for share in parts if not share.number]
    total = len(parts) + len(works)
    with in_order(workers, len(parts), setup.needs, _min_for_ray(setup, parts, steps)) as map_in_order:
        for done, (share, found) in enumerate(_all(map_in_order, partial(score, setup), parts, _subject), start=1):
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
    """Yield each thing with its result."""
    for thing, found in zip(things, map_in_order(function, things), strict=True):
        if isinstance(found, Lost):
            raise DataError(f"subject {subject(thing)}", str(found), "Give tasks more memory, or fewer --workers")
        yield thing, found


def _subject(share: Share) -> str:
    return share.subject


def _add(result: Evaluation, part: Evaluation) -> None:
    result.scores.extend(part.scores)
    result.comparisons.extend(part.comparisons)
    for cell, seconds in part.seconds.items():
        result.seconds[cell].extend(seconds)


def _min_for_ray(setup: Setup, parts: Sequence[Share], steps: Sequence[Step]) -> int:
    """Return from how many parts on Ray is worth it: all or none."""
    images = sum(part.num_slices for part in parts) * len(setup.scales) * (1 + len(steps))
    return 0 if os.environ.get("RAY_ADDRESS") or (images >= MIN_IMAGES_FOR_RAY and len(parts) > 1) else sys.maxsize

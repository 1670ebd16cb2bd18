"""The cases of a report: the slices at which the model gains least and most over bicubic, and typical ones."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from metasr.evaluation.methods import BICUBIC_NAME, MODEL_NAME
from metasr.evaluation.protocol import Score
from metasr.scale import Scale

Kind = Literal["worst", "best", "typical"]
NUM_WORST, NUM_BEST, NUM_TYPICAL = 3, 2, 4


@dataclass(frozen=True)
class Case:
    """A slice at a scale.

    Attributes:
        kind: Why it was chosen: the lowest or highest gain of all, or the middle one at its scale.
        psnr_gain: Model minus bicubic on the whole slice, in dB.
        ssim_gain: The same of SSIM.
        psnr: PSNR of each method, in dB.
        ssim: SSIM of each method.
    """

    kind: Kind
    subject: str
    slice: int
    scale: Scale
    psnr_gain: float
    ssim_gain: float
    psnr: dict[str, float]
    ssim: dict[str, float]


def cases_of(scores: Sequence[Score]) -> list[Case]:
    """Return a typical case at a few scales, and the worst and the best of all, each of another subject if possible.

    A gain that is not a number counts as the worst.
    """
    cells: dict[tuple[str, int, Scale], dict[str, Score]] = {}
    for score in scores:
        if score.region == "whole":
            cells.setdefault((score.subject, score.slice, score.scale), {})[score.method] = score
    found = [
        _case("typical", key, methods)
        for key, methods in cells.items()
        if {BICUBIC_NAME, MODEL_NAME} <= methods.keys()
    ]
    ranked = sorted(found, key=_gain)
    scales = sorted({case.scale for case in found})
    typical = [_middle([case for case in ranked if case.scale == scale]) for scale in _spread(scales)]
    return [
        *typical,
        *_as("worst", _one_each(ranked, NUM_WORST)),
        *_as("best", _one_each(reversed(ranked), NUM_BEST)),
    ]


def _case(kind: Kind, key: tuple[str, int, Scale], methods: dict[str, Score]) -> Case:
    ours, theirs = methods[MODEL_NAME], methods[BICUBIC_NAME]
    return Case(
        kind,
        *key,
        ours.psnr - theirs.psnr,
        ours.ssim - theirs.ssim,
        {name: score.psnr for name, score in methods.items()},
        {name: score.ssim for name, score in methods.items()},
    )


def _gain(case: Case) -> float:
    return -math.inf if math.isnan(case.psnr_gain) else case.psnr_gain


def _one_each(cases: Iterable[Case], count: int) -> list[Case]:
    """Return the first cases of different subjects; of the same ones where there are too few."""
    cases = list(cases)
    chosen: dict[str, Case] = {}
    for case in cases:
        chosen.setdefault(case.subject, case)
    first = list(chosen.values())[:count]
    slices = {(case.subject, case.slice) for case in first}
    for case in cases:
        if len(first) < count and (case.subject, case.slice) not in slices:
            first.append(case)
            slices.add((case.subject, case.slice))
    return first


def _as(kind: Kind, cases: Iterable[Case]) -> list[Case]:
    return [Case(**{**vars(case), "kind": kind}) for case in cases]


def _middle(cases: Sequence[Case]) -> Case:
    return cases[len(cases) // 2]


def _spread(scales: Sequence[Scale]) -> list[Scale]:
    """Return a few scales, evenly spread, the last one among them."""
    if len(scales) <= NUM_TYPICAL:
        return list(scales)
    step = (len(scales) - 1) / NUM_TYPICAL
    return [scales[round(step * number)] for number in range(1, NUM_TYPICAL + 1)]

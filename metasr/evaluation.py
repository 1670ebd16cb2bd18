"""Evaluation: subjects x scales x methods, every score a row."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from itertools import groupby
from statistics import fmean
from typing import NamedTuple

from torch import Tensor

from metasr.data.degrade import Degrade, resize_bicubic
from metasr.data.slices import exact_sizes, scale_fraction
from metasr.metrics import border_px, crop_border, psnr, ssim
from metasr.models import SuperResolver, evaluating


@dataclass(frozen=True)
class HeldOutSlice:
    """A whole slice of a subject that was not trained on.

    Attributes:
        subject: Whose.
        number: Which slice, counted from the feet.
        image: Intensities in about [0, 1], `[1, 1, H, W]`.
    """

    subject: str
    number: int
    image: Tensor


@dataclass(frozen=True)
class Score:
    """How close one method came to one slice at one scale."""

    subject: str
    slice: int
    scale: float
    method: str
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Comparison:
    """The images behind the scores of a slice, each `[1, 1, ., .]`."""

    slice: HeldOutSlice
    scale: float
    lr: Tensor
    bicubic: Tensor
    sr: Tensor
    hr: Tensor


class Mean(NamedTuple):
    """Mean over patients of each patient's mean over slices."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class Evaluation:
    """The scores, and the images of the slices they came from."""

    scores: list[Score]
    comparisons: list[Comparison]


def evaluate(
    generator: SuperResolver,
    slices: Sequence[HeldOutSlice],
    scales: Sequence[float],
    degrade: Degrade = resize_bicubic,
) -> Evaluation:
    """Degrade whole slices, super-resolve them and score model and bicubic against the originals.

    PSNR and SSIM take a data range of 1 and leave out a border of ceil(r) pixels.

    Args:
        generator: Left in the mode it was in.
        slices: What to evaluate on.
        scales: Real scales above 1; a slice is cropped to the largest size whose ratio is exact.
        degrade: Makes LR from HR.
    """
    scores, comparisons = [], []
    with evaluating(generator):
        for held_out in slices:
            for scale in scales:
                comparison = compare(generator, held_out, scale, degrade)
                comparisons.append(comparison)
                scores += [
                    _score(comparison, "bicubic", comparison.bicubic),
                    _score(comparison, "model", comparison.sr),
                ]
    return Evaluation(scores, comparisons)


def compare(
    generator: SuperResolver, held_out: HeldOutSlice, scale: float, degrade: Degrade = resize_bicubic
) -> Comparison:
    """Make the LR image of a slice and enlarge it again, by bicubic interpolation and with the generator."""
    device = next(generator.parameters()).device
    fraction = scale_fraction(scale, min(held_out.image.shape[2:]))
    height, lr_height = exact_sizes(held_out.image.shape[2], fraction)
    width, lr_width = exact_sizes(held_out.image.shape[3], fraction)
    top, left = (held_out.image.shape[2] - height) // 2, (held_out.image.shape[3] - width) // 2
    hr = held_out.image[..., top : top + height, left : left + width].to(device)
    lr = degrade(hr, (lr_height, lr_width))
    sr = generator(lr, (height, width))
    return Comparison(held_out, scale, *(x.cpu() for x in (lr, resize_bicubic(lr, (height, width)), sr, hr)))


def _score(comparison: Comparison, method: str, image: Tensor) -> Score:
    border = border_px(comparison.scale)
    pair = crop_border(image, border), crop_border(comparison.hr, border)
    where = comparison.slice
    return Score(where.subject, where.number, comparison.scale, method, psnr(*pair).item(), ssim(*pair).item())


def mean_by_scale(scores: Sequence[Score]) -> dict[tuple[float, str], Mean]:
    """Return the means for each (scale, method). The unit is the patient, whatever the number of slices."""

    def cell(score: Score) -> tuple[float, str]:
        return score.scale, score.method

    means = {}
    for key, group in groupby(sorted(scores, key=lambda s: (*cell(s), s.subject)), key=cell):
        patients = [list(rows) for _, rows in groupby(group, key=lambda s: s.subject)]
        means[key] = Mean(
            fmean(fmean(s.psnr for s in rows) for rows in patients),
            fmean(fmean(s.ssim for s in rows) for rows in patients),
        )
    return means


def table(scores: Sequence[Score]) -> str:
    """Return the means as text: a row per scale, bicubic and the model side by side."""
    means = mean_by_scale(scores)
    lines = ["scale   bicubic PSNR / SSIM     model PSNR / SSIM    difference"]
    for scale in sorted({scale for scale, _ in means}):
        bicubic, model = means[scale, "bicubic"], means[scale, "model"]
        lines.append(
            f"x{scale:<5g}  {bicubic.psnr:6.2f} dB / {bicubic.ssim:.4f}    {model.psnr:6.2f} dB / {model.ssim:.4f}"
            f"    {model.psnr - bicubic.psnr:+.2f} dB / {model.ssim - bicubic.ssim:+.4f}"
        )
    return "\n".join(lines)


def to_csv(scores: Sequence[Score]) -> str:
    """Return the scores as tidy CSV, a row per subject, slice, scale and method."""
    text = StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Score)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    return text.getvalue()

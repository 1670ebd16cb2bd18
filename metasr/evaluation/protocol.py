"""The evaluation protocol: slices x scales x methods, one row per score."""

import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from metasr.data.degrade import Degradation
from metasr.data.slices import slice_lengths
from metasr.errors import ScaleError
from metasr.evaluation.coverage import covered
from metasr.evaluation.methods import BICUBIC, MODEL_NAME, Method
from metasr.evaluation.regions import RegionName, regions_of
from metasr.evaluation.ring_correlation import mismatch
from metasr.metrics import SSIM_WINDOW, border_px, crop_border, psnr, ssim_map
from metasr.models import SuperResolver
from metasr.scale import Scale
from metasr.trust.conformal import Calibration

Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Conditions:
    """What LR images are made with, and what judges SR images besides PSNR, SSIM and NRMSE.

    Attributes:
        degrade: Makes LR from HR.
        distance: Perceptual distance of images `[N, 1, H, W]` in [0, 1] on the CPU, `[N]`; see
            `metasr.perceptual_distance`.
        trust: The model's calibration, whose bounds are checked.
    """

    degrade: Degradation = field(default_factory=Degradation)
    distance: Distance | None = None
    trust: Calibration | None = None


BICUBIC_CONDITIONS = Conditions()


@dataclass(frozen=True, eq=False)
class HeldOutSlice:
    """A whole slice of a validation subject.

    Attributes:
        subject: The subject.
        number: Number of the slice, counted from the feet.
        image: Intensities in about [0, 1], `[1, 1, H, W]`.
        patient: The patient, if the name of the subject does not tell it.
    """

    subject: str
    number: int
    image: Tensor
    patient: str = ""

    @property
    def seed(self) -> int:
        """Seed for the noise of its LR image; the same in every evaluation."""
        return int.from_bytes(hashlib.sha256(f"{self.subject}:{self.number}".encode()).digest()[:6])


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of one method on one slice at one scale, in one region.

    Attributes:
        consistency: PSNR of the degraded SR image against the LR image; only for the whole slice.
        perceptual: Distance in the features of a network, if one was given; only for the whole slice.
        mismatch: Share of the patches in the brain whose detail is not that of HR, by Fourier ring correlation; only
            for the whole slice, and None where no patch has enough brain.
        covered: Share of the brain's pixels whose error is within the bound of the model's calibration; only of the
            model, for the whole slice, up to the largest calibrated scale.
        patient: The patient, if the name of the subject does not tell it.
    """

    subject: str
    slice: int
    scale: Scale
    method: str
    region: RegionName
    psnr: float
    ssim: float
    nrmse: float
    consistency: float | None = None
    perceptual: float | None = None
    mismatch: float | None = None
    covered: float | None = None
    patient: str = ""


@dataclass(frozen=True)
class Comparison:
    """The images behind the scores of a slice at a scale, each `[1, 1, ., .]` on the CPU.

    Attributes:
        images: Output of each method for `lr`, by name.
        seconds: Duration of each method.
    """

    slice: HeldOutSlice
    scale: Scale
    lr: Tensor
    hr: Tensor
    images: Mapping[str, Tensor]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        scores: One row per subject, slice, scale, method and region.
        comparisons: Images of the pictured slices.
        seconds: Duration of each call, by scale and method.
    """

    scores: list[Score]
    comparisons: list[Comparison]
    seconds: Mapping[tuple[Scale, str], list[float]]


def evaluate(
    generator: SuperResolver,
    slices: Sequence[HeldOutSlice],
    scales: Sequence[Scale],
    conditions: Conditions = BICUBIC_CONDITIONS,
    *,
    rivals: Sequence[Method] = (),
    pictured: Sequence[HeldOutSlice] | None = None,
) -> Evaluation:
    """Degrade whole slices, enlarge them and score the model, bicubic interpolation and rivals against the originals.

    Conventions: `metasr/README.md`, "How models are evaluated".

    Args:
        generator: The model; its mode is restored.
        slices: Slices to evaluate on.
        scales: Scales. Slices are cropped to sizes whose ratio is the scale, see `slice_lengths`.
        conditions: Of the comparison.
        rivals: Other methods; networks that support one scale only are compared at that scale.
        pictured: Slices whose images are kept; None: all.

    Raises:
        ScaleError: The generator does not support a scale, or a slice is too small for it.
    """
    model = Method(MODEL_NAME, generator)
    methods = [BICUBIC, *rivals, model]
    for scale in scales:
        if model.only_scale not in (None, scale):
            raise ScaleError(f"scale {scale}", f"the model supports scale {model.only_scale} only", "Use that scale")
    result = Evaluation([], [], defaultdict(list))
    for held_out in slices:
        for scale in scales:
            able = [method for method in methods if method.only_scale in (None, scale)]
            comparison = compare(able, held_out, scale, conditions.degrade)
            result.scores.extend(_scores(comparison, conditions))
            for method, seconds in comparison.seconds.items():
                result.seconds[scale, method].append(seconds)
            if pictured is None or held_out in pictured:
                result.comparisons.append(comparison)
    return result


def compare(methods: Sequence[Method], held_out: HeldOutSlice, scale: Scale, degrade: Degradation) -> Comparison:
    """Make the LR image of a slice, and enlarge it with each method.

    Raises:
        ScaleError: The slice is too small.
    """
    hr, lr_size = _exact_crop(held_out, scale)
    return enlarge_with(methods, held_out, scale, degrade(hr, lr_size, [held_out.seed]), hr)


def enlarge_with(
    methods: Sequence[Method], held_out: HeldOutSlice, scale: Scale, lr: Tensor, hr: Tensor
) -> Comparison:
    """Enlarge an LR image to the size of `hr` with each method."""
    height, width = hr.shape[-2:]
    images, seconds = {}, {}
    for method in methods:
        started = time.perf_counter()
        images[method.name] = method(lr, (height, width))
        seconds[method.name] = time.perf_counter() - started
    return Comparison(held_out, scale, lr, hr, images, seconds)


def _exact_crop(held_out: HeldOutSlice, scale: Scale) -> tuple[Tensor, tuple[int, int]]:
    """Return the centre crop of a slice whose ratio to an LR size is the scale, and that LR size."""
    rows, columns = held_out.image.shape[-2:]
    (height, lr_height), (width, lr_width) = slice_lengths(rows, scale.rows), slice_lengths(columns, scale.columns)
    require_size(held_out, scale, (height, width))
    top, left = (rows - height) // 2, (columns - width) // 2
    return held_out.image[..., top : top + height, left : left + width], (lr_height, lr_width)


def require_size(held_out: HeldOutSlice, scale: Scale, size: tuple[int, int]) -> None:
    """Raise ScaleError unless an HR image of this size can be scored."""
    inside = (length - 2 * border for length, border in zip(size, border_px(scale), strict=True))
    if min(inside) < SSIM_WINDOW:
        rows, columns = held_out.image.shape[-2:]
        raise ScaleError(
            f"scale {scale}",
            f"slice {held_out.number} of {held_out.subject}, {rows} x {columns} pixels, is too small for it",
            "Leave it out, or use larger images",
        )


def _scores(comparison: Comparison, conditions: Conditions) -> Iterator[Score]:
    """Yield a score for each method and region."""
    held_out, scale, distance = comparison.slice, comparison.scale, conditions.distance
    lr, border = comparison.lr, border_px(comparison.scale)
    regions, hr = regions_of(comparison.hr, border), crop_border(comparison.hr, border)
    for method, image in comparison.images.items():
        again = conditions.degrade(image, (lr.shape[2], lr.shape[3]), [held_out.seed])
        sr = crop_border(image, border)
        consistency = psnr(again, lr).item()
        perceptual = None if distance is None else distance(sr.clamp(0, 1), hr.clamp(0, 1)).item()
        similarity = ssim_map(sr, hr)
        for region in regions:
            score = Score(
                held_out.subject,
                held_out.number,
                scale,
                method,
                region.name,
                *region.measure(sr, hr, similarity),
                patient=held_out.patient,
            )
            if region.name == "whole":
                detail = mismatch(sr, hr, scale)
                within = _covered(comparison, method, conditions)
                score = replace(
                    score, consistency=consistency, perceptual=perceptual, mismatch=detail, covered=within
                )
            yield score


def _covered(comparison: Comparison, method: str, conditions: Conditions) -> float | None:
    if conditions.trust is None or method != MODEL_NAME:
        return None
    sr = comparison.images[method]
    return covered(sr, comparison.lr, comparison.hr, comparison.scale, conditions.trust)

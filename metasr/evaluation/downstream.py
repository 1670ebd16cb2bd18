"""Downstream evaluation: what a program that reads images finds in SR, against what it finds in HR."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metasr.data.degrade import Degradation
from metasr.evaluation.methods import BICUBIC_NAME, MODEL_NAME, Method
from metasr.evaluation.overlap import dice, surface_distances
from metasr.evaluation.protocol import HeldOutSlice, compare
from metasr.scale import Scale

StepName = Literal["tissue", "command"]
Images = NDArray[np.float32]
Labels = NDArray[np.int64]
# Classes of the voxels of images `[S, H, W]`, given where the brain is in them; 0 is none.
Labeller = Callable[[Images, NDArray[np.bool_]], Labels]


@dataclass(frozen=True)
class Grid:
    """How far neighbouring slices, rows and columns lie apart, in mm where that is known and in pixels otherwise."""

    spacing: tuple[float, float, float]
    unit: Literal["mm", "px"]

    @classmethod
    def of(cls, spacing_mm: tuple[float, float] | None, slice_mm: float, numbers: Sequence[int]) -> "Grid":
        """Return the grid of a subject's slices.

        Args:
            spacing_mm: Smallest and largest distance of pixels in the data set; None where it is not known. If they
                differ by more than 1 % it is not known of a single subject.
            slice_mm: Distance of neighbouring slices of the volume; 0: that of the pixels.
            numbers: Of the slices; where some are missing between, they lie further apart.
        """
        known = spacing_mm is not None and spacing_mm[1] <= 1.01 * spacing_mm[0]
        pixel = spacing_mm[0] if known and spacing_mm is not None else 1.0
        step = float(np.median(np.diff(numbers))) if len(numbers) > 1 else 1.0
        return cls((step * ((slice_mm if known else 0) or pixel), pixel, pixel), "mm" if known else "px")


class Step(Protocol):
    """A way to find classes in images."""

    @property
    def name(self) -> StepName:
        """What results call it."""

    @property
    def all_slices(self) -> bool:
        """Whether it is to see all slices of a subject that there are, or those that are evaluated."""

    @property
    def has_distances(self) -> bool:
        """Whether the surfaces of its classes are worth a distance."""

    def labeller(self, subject: str, hr: Images, grid: Grid) -> Labeller:
        """Return what labels images of a subject, HR and SR alike."""

    def class_name(self, label: int) -> str:
        """Return the name of a class."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How alike a class in SR and in HR are, by one measure.

    Attributes:
        measure: dice, hausdorff_mm, hausdorff95_mm, or the same in px.
        patient: The patient, where the name of the subject does not tell it.
    """

    step: str
    subject: str
    scale: Scale
    method: str
    label: str
    measure: str
    value: float
    patient: str = ""


def compare_labels(
    step: Step,
    slices: Sequence[HeldOutSlice],
    scales: Sequence[Scale],
    degrade: Degradation,
    methods: Sequence[Method],
    grid: Grid,
) -> Iterator[Outcome]:
    """Yield how alike the classes in what each method makes of a subject's slices are to those in the slices.

    HR and SR have the same field of view at each scale, that of `evaluate`. A class counts that is in HR or in what
    bicubic or the model made: where neither HR nor a method has it, they agree. What only a rival made counts for
    that rival alone: how good the model is does not depend on who is beside it.

    Args:
        step: Finds the classes.
        slices: Of one subject, all of one size.
        scales: As for `evaluate`.
        degrade: Makes LR from HR.
        methods: Those for one scale are compared at that scale.
        grid: Of these slices.
    """
    subject, patient = slices[0].subject, slices[0].patient
    label = step.labeller(subject, _stack([one.image for one in slices]), grid)
    of_hr: dict[tuple[int, ...], Labels] = {}
    for scale in scales:
        able = [method for method in methods if method.only_scale in (None, scale)]
        compared = [compare(able, one, scale, degrade) for one in slices]
        hr = _stack([one.hr for one in compared])
        brain = hr != 0
        if hr.shape not in of_hr:  # of one size there is one cut
            of_hr[hr.shape] = label(hr, brain)
        found = {method.name: label(_stack([one.images[method.name] for one in compared]), brain) for method in able}
        for method, number, measure, value in _measures(step, of_hr[hr.shape], found, grid):
            yield Outcome(step.name, subject, scale, method, step.class_name(number), measure, value, patient)


def _measures(
    step: Step, hr: Labels, found: Mapping[str, Labels], grid: Grid
) -> Iterator[tuple[str, int, str, float]]:
    """Yield method, class, measure and value."""
    common = _classes(hr, *(labels for method, labels in found.items() if method in (BICUBIC_NAME, MODEL_NAME)))
    for method, labels in found.items():
        for number in sorted(common | _classes(labels)):
            masks = hr == number, labels == number
            yield method, number, "dice", dice(*masks)
            if step.has_distances:
                for name, value in surface_distances(*masks, grid.spacing)._asdict().items():
                    yield method, number, f"{name}_{grid.unit}", value


def _classes(*several: Labels) -> set[int]:
    return {int(number) for labels in several for number in np.unique(labels)} - {0}


def _stack(images: Sequence[Tensor]) -> Images:
    stacked: Images = np.stack([image[0, 0].numpy() for image in images])
    return stacked

"""Downstream evaluation: compare segmentations of SR with those of HR."""

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
# Maps images `[S, H, W]` and a brain mask to the class of each voxel; 0 is background.
Labeller = Callable[[Images, NDArray[np.bool_]], Labels]


@dataclass(frozen=True)
class Grid:
    """The spacing of slices, rows and columns, in mm if known, else in pixels."""

    spacing: tuple[float, float, float]
    unit: Literal["mm", "px"]

    @classmethod
    def of(cls, spacing_mm: tuple[float, float] | None, slice_mm: float, numbers: Sequence[int]) -> "Grid":
        """Return the grid of a subject's slices.

        Args:
            spacing_mm: Smallest and largest pixel spacing in the data set; None if unknown. If they differ by more
                than 1 %, the spacing of a single subject is unknown.
            slice_mm: Distance between slices of the volume; 0: the pixel spacing.
            numbers: Numbers of the slices; gaps between them increase the distance.
        """
        known = spacing_mm is not None and spacing_mm[1] <= 1.01 * spacing_mm[0]
        pixel = spacing_mm[0] if known and spacing_mm is not None else 1.0
        step = float(np.median(np.diff(numbers))) if len(numbers) > 1 else 1.0
        return cls((step * ((slice_mm if known else 0) or pixel), pixel, pixel), "mm" if known else "px")


class Step(Protocol):
    """A way to find classes in images."""

    @property
    def name(self) -> StepName:
        """Name in the results."""

    @property
    def all_slices(self) -> bool:
        """Whether it needs all slices of a subject, or only the evaluated ones."""

    @property
    def has_distances(self) -> bool:
        """Whether surface distances of its classes are meaningful."""

    def labeller(self, subject: str, hr: Images, grid: Grid) -> Labeller:
        """Return the labeller for a subject's HR and SR images."""

    def class_name(self, label: int) -> str:
        """Return the name of a class."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The similarity of a class in SR and in HR, by one measure.

    Attributes:
        measure: dice, hausdorff_mm, hausdorff95_mm, or the same in px.
        patient: The patient, if the name of the subject does not tell it.
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
    """Compare the classes in each method's SR slices of a subject with those in HR; yield the outcomes.

    HR and SR have the same field of view at each scale, that of `evaluate`. A class counts if it is in HR or in the
    output of bicubic or the model; if neither HR nor a method has it, they agree. A class that only a rival has
    counts only for that rival, so the model's results do not depend on the rivals.

    Args:
        step: Finds the classes.
        slices: Slices of one subject, all of one size.
        scales: Scales, as for `evaluate`.
        degrade: Makes LR from HR.
        methods: Methods; those that support one scale only are compared at that scale.
        grid: Spacing of these slices.
    """
    subject, patient = slices[0].subject, slices[0].patient
    label = step.labeller(subject, _stack([one.image for one in slices]), grid)
    of_hr: dict[tuple[int, ...], Labels] = {}
    for scale in scales:
        able = [method for method in methods if method.only_scale in (None, scale)]
        compared = [compare(able, one, scale, degrade) for one in slices]
        hr = _stack([one.hr for one in compared])
        brain = hr != 0
        if hr.shape not in of_hr:  # crops of equal size are equal
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

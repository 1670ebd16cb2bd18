"""Cut the file of one subject into the images for the shards."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.config import PrepareConfig
from metasr.config import Section
from metasr.data.intensity import IntensityScale, find_background
from metasr.data.labels import label_reason
from metasr.data.photos import load_luminance, tiles
from metasr.data.slices import brain_slices, informational_crop
from metasr.data.subjects import Subject
from metasr.data.volume import Volume, load_volume
from metasr.errors import DataError

MAX_UNIT = 10.0
MAX_INTENSITY = 1e30  # far above any scanner's values, and far below the limit of float32
Spacing = tuple[float, float]


class Statistics(Section):
    """Sums for the mean and the standard deviation of images."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, image: NDArray[np.floating]) -> "Statistics":
        """Return the sums of an image."""
        values = image.astype(np.float64)
        return cls(count=values.size, total=float(values.sum()), squares=float((values**2).sum()))

    def __add__(self, other: "Statistics") -> "Statistics":
        """Return the sums of both together."""
        return Statistics(
            count=self.count + other.count, total=self.total + other.total, squares=self.squares + other.squares
        )

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return self.total / self.count

    @property
    def std(self) -> float:
        """Standard deviation of all values."""
        return math.sqrt(max(self.squares / self.count - self.mean**2, 0.0))


@dataclass(frozen=True)
class Cut:
    """The images of a subject.

    Attributes:
        images: Number of the slice or tile, and the image, float16 `[H, W]`.
        statistics: Statistics of all images together.
        spacing_mm: Smallest and largest pixel spacing; None for photographs.
        skull_stripped: Whether a constant surrounds the brain; None for photographs.
    """

    images: list[tuple[int, NDArray[np.float16]]]
    statistics: Statistics
    spacing_mm: Spacing | None = None
    skull_stripped: bool | None = None


def cut(subject: Subject, options: PrepareConfig, *, crop: bool) -> Cut:
    """Return the slices of a volume, or the tiles of a photograph.

    Args:
        subject: The subject.
        options: See `PrepareConfig`.
        crop: Crop slices to the window with the most brain, and cut photographs into tiles; False keeps them whole.

    Raises:
        DataError: The file cannot be used.
    """
    spacing = stripped = None
    if options.kind == "photos":
        images = list(_tiles(subject, options, crop=crop))
    else:
        volume = load_volume(subject.file)
        images = list(_slices(volume, options, crop=crop))
        in_plane = [volume.spacing_mm[axis] for axis in volume.axes("axial")[1:]]
        spacing = min(in_plane), max(in_plane)
        stripped = find_background(volume.data) is not None
    statistics = sum((Statistics.of(image) for _, image in images), start=Statistics())
    return Cut(images, statistics, spacing, stripped)


def widest(one: Spacing | None, other: Spacing | None) -> Spacing | None:
    """Return the smallest range that contains two ranges of spacings."""
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])


def _slices(volume: Volume, options: PrepareConfig, *, crop: bool) -> Iterator[tuple[int, NDArray[np.float16]]]:
    """Yield the slices with enough brain, from feet to head."""
    file = str(volume.source)
    if np.abs(volume.data).max() > MAX_INTENSITY:
        raise DataError(file, f"its intensities exceed {MAX_INTENSITY:g}", "Repair or leave it out")
    if reason := label_reason(volume.data, int(volume.header["intent_code"])):
        raise DataError(file, reason, "Leave it out, or give --modality, which selects images")
    intensities = IntensityScale.fit(volume.data)
    if intensities is None:
        raise DataError(file, "all its voxels are the same", "Leave it out")
    axial = intensities.to_unit(volume.slices())
    numbers = brain_slices(axial, options.min_brain)[:: options.slice_step]
    if not len(numbers):
        raise DataError(file, f"no slice has {options.min_brain:.0%} of brain", "Lower --min-brain")
    for number in numbers:
        image = informational_crop(axial[number], options.crop_px) if crop else axial[number]
        # Values beyond the limit are defects, not tissue: they must not dominate the mean or become infinite.
        yield int(number), np.ascontiguousarray(image.clip(-MAX_UNIT, MAX_UNIT), dtype=np.float16)


def _tiles(subject: Subject, options: PrepareConfig, *, crop: bool) -> Iterator[tuple[int, NDArray[np.float16]]]:
    """Yield the tiles of a photograph, row by row, or the whole photograph."""
    image = load_luminance(subject.file)
    if min(image.shape) < options.crop_px:
        size = " x ".join(map(str, image.shape[::-1]))
        raise DataError(str(subject.file), f"its {size} pixels hold no tile of {options.crop_px}", "Lower --crop-px")
    if image.min() == image.max():
        raise DataError(str(subject.file), "all its pixels are the same", "Leave it out")
    for number, tile in enumerate(tiles(image, options.crop_px) if crop else [image]):
        yield number, np.ascontiguousarray(tile, dtype=np.float16)

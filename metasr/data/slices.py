"""From a volume to the slices a network sees: which ones, which part of them, and who is in which split."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from metasr.data.subjects import patient_of
from metasr.errors import DataError


def brain_slices(axial: NDArray[np.float32], min_brain_fraction: float) -> NDArray[np.intp]:
    """Return the indices of the slices `[S, H, W]` of which at least this fraction is not background (0)."""
    fractions = np.count_nonzero(axial, axis=(1, 2)) / (axial.shape[1] * axial.shape[2])
    return np.flatnonzero(fractions >= min_brain_fraction)


def informational_crop(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the `side` x `side` window with the most brain (pixels not 0); smaller images are padded.

    Source: paper, section 3.1 and Fig. 6 ("maximal informational crop", 128 x 128).
    """
    missing = [max(0, side - length) for length in image.shape]
    image = np.pad(image, [(m // 2, m - m // 2) for m in missing])
    counts = np.pad(np.cumsum(np.cumsum(image != 0, axis=0), axis=1), ((1, 0), (1, 0)))
    inside = counts[side:, side:] - counts[:-side, side:] - counts[side:, :-side] + counts[:-side, :-side]
    # Many windows may hold the whole brain: take the middle one, so that the brain is not pushed to a border.
    rows, columns = np.nonzero(inside == inside.max())
    row, column = int(np.median(rows)), int(np.median(columns))
    if inside[row, column] != inside.max():
        row, column = int(rows[len(rows) // 2]), int(columns[len(columns) // 2])
    return image[row : row + side, column : column + side]


def split_subjects(subjects: Sequence[str], val_fraction: float, seed: int) -> list[str]:
    """Return the subjects that validate, sorted: a seeded choice of whole patients, at least one.

    A patient's place depends on the seed and the name alone, so that adding patients moves no one else's rank.

    Raises:
        DataError: There are fewer than two patients.
    """
    patients = {patient_of(name) for name in subjects}
    if len(patients) < 2:
        raise DataError(
            f"{len(patients)} subject to split",
            "training and validation must not share a patient",
            "Give a folder with at least two subjects",
        )
    ranked = sorted(patients, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    count = min(max(1, round(len(patients) * val_fraction)), len(patients) - 1)
    return sorted(name for name in subjects if patient_of(name) in ranked[:count])


def scale_fraction(scale: float, length: int) -> Fraction:
    """Return the scale as p/q in lowest terms, q at most 100 and p within `length`: 2.7 is 27/10."""
    return Fraction(scale).limit_denominator(max(1, min(100, int(length / scale))))


def exact_sizes(length: int, scale: Fraction) -> tuple[int, int]:
    """Return (HR, LR) lengths whose ratio is exactly `scale`: HR is the largest multiple of p within `length`.

    Raises:
        ValueError: Not even one period fits.
    """
    periods = length // scale.numerator
    if not periods:
        raise ValueError(f"{length} pixels cannot hold scale {scale}")
    return periods * scale.numerator, periods * scale.denominator


def central_crop(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return the middle `height` x `width` of an image."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]

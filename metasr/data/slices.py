"""From a volume to the slices a network sees: which ones, and which part of them."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def brain_slices(axial: NDArray[np.float32], min_brain_fraction: float) -> NDArray[np.intp]:
    """Return the indices of the slices `[S, H, W]` of which at least this fraction is not background (0)."""
    fractions = np.count_nonzero(axial, axis=(1, 2)) / (axial.shape[1] * axial.shape[2])
    return np.flatnonzero(fractions >= min_brain_fraction)


def informational_window(image: NDArray[np.float32], side: int) -> tuple[slice, slice]:
    """Return rows and columns of the `side` x `side` window with the most brain (pixels not 0).

    Along an axis that is shorter than `side` the window is the whole axis.

    Source: paper, section 3.1 and Fig. 6 ("maximal informational crop", 128 x 128).
    """
    height, width = (min(side, length) for length in image.shape)
    counts = np.pad(np.cumsum(np.cumsum(image != 0, axis=0), axis=1), ((1, 0), (1, 0)))
    inside = counts[height:, width:] - counts[:-height, width:] - counts[height:, :-width] + counts[:-height, :-width]
    # Many windows may hold the whole brain: take the middle one, so that the brain is not pushed to a border.
    rows, columns = np.nonzero(inside == inside.max())
    row, column = int(np.median(rows)), int(np.median(columns))
    if inside[row, column] != inside.max():
        row, column = int(rows[len(rows) // 2]), int(columns[len(columns) // 2])
    return slice(row, row + height), slice(column, column + width)


def informational_crop(image: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Return the `side` x `side` window with the most brain (pixels not 0); smaller images are padded."""
    missing = [max(0, side - length) for length in image.shape]
    crop = image[informational_window(image, side)]
    return np.pad(crop, [(m // 2, m - m // 2) for m in missing])


def exact_sizes(length: int, scale: Fraction) -> tuple[int, int]:
    """Return (HR, LR) lengths whose ratio is exactly `scale`: HR is the largest multiple of p within `length`.

    Raises:
        ValueError: Not even one period fits.
    """
    periods = length // scale.numerator
    if not periods:
        raise ValueError(f"{length} pixels cannot hold scale {scale}")
    return periods * scale.numerator, periods * scale.denominator


def slice_lengths(length: int, scale: float) -> tuple[int, int]:
    """Return the (HR, LR) lengths that a slice is evaluated at, HR as large as possible within `length`.

    Where the scale is a fraction p/q with q up to 10 of which a period fits, such as every tenth, their ratio is
    exactly the scale. Other scales are met to within half an HR pixel, for which hardly anything is cut off.
    """
    fraction = Fraction(scale).limit_denominator(10)
    if abs(fraction - Fraction(scale)) < 1e-9 and fraction.numerator <= length:
        return exact_sizes(length, fraction)
    lr = int(length / scale)
    return int(lr * scale + 0.5), lr


def central_crop(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Return the middle `height` x `width` of an image."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]

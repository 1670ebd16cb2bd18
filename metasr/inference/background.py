"""A constant background: it stays that constant, nothing rings into it, and nothing is computed for it."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


class Area(NamedTuple):
    """Rows and columns of a part of an image, in LR and in HR pixels: both at the image's scale exactly."""

    lr: tuple[slice, slice]
    hr: tuple[slice, slice]


def surrounding(old: int, new: int) -> tuple[Indices, Indices]:
    """Return the first and the last of `old` pixels that each of `new` pixels of an axis lies among.

    Where the axis gets finer they are the two whose centres enclose that of the new pixel: the same one twice where
    the centres coincide and beyond the outermost ones. Where it gets coarser they are all that the new pixel covers.
    """
    pixel = np.arange(new)
    if new < old:
        return pixel * old // new, -(-(pixel + 1) * old // new) - 1
    centre = (2 * pixel + 1) * old - new  # on the old grid, in units of 1 / (2 * new)
    return (centre // (2 * new)).clip(0, old - 1), (-(-centre // (2 * new))).clip(0, old - 1)


def nearest(old: int, new: int) -> Indices:
    """Return which of `old` pixels of an axis the centre of each of `new` pixels lies in."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def keep_background(sr: NDArray[np.floating], lr: NDArray[np.floating], background: float) -> None:
    """Hold `sr` `[H, W]`, in place, to the range of the LR pixels around it where the nearest of `lr` is background.

    Those around are the up to four that it lies among. Where all of them are background, so is the result, exactly;
    that holds wherever the 3 x 3 LR pixels around are background, and nearer to the brain too.
    """
    (top, bottom), (left, right) = (surrounding(old, new) for old, new in zip(lr.shape, sr.shape, strict=True))
    rows, columns = (nearest(old, new) for old, new in zip(lr.shape, sr.shape, strict=True))
    low, high = np.minimum(lr[top], lr[bottom]), np.maximum(lr[top], lr[bottom])
    low, high = np.minimum(low[:, left], low[:, right]), np.maximum(high[:, left], high[:, right])
    np.clip(sr, low, high, out=sr, where=lr[rows][:, columns] == background)


def working_area(lr: NDArray[np.floating], size: tuple[int, ...], background: float, reach_px: int) -> Area:
    """Return the part of an image `[h, w]` to compute: what is not background and all that it depends on.

    Both its ends lie where LR and HR pixels begin together, so that scale and positions are those of the whole image:
    every q LR pixels, if the scale of the axis is p / q in lowest terms.

    Args:
        lr: Not background alone.
        size: Of the image to make.
        background: The constant.
        reach_px: How many LR pixels away the network sees.
    """
    brain = lr != background
    parts = [
        _part(np.flatnonzero(brain.any(axis=1 - axis)), old, new, reach_px)
        for axis, (old, new) in enumerate(zip(lr.shape, size, strict=True))
    ]
    return Area((parts[0][0], parts[1][0]), (parts[0][1], parts[1][1]))


def unseen_rim(lr: NDArray[np.floating], background: float) -> tuple[int, int]:
    """Return how many pixels at both ends of the rows, and of the columns, of an image have no part in its result.

    They are background, as are the pixels beside them, so that `keep_background` takes the constant for them.

    Args:
        lr: `[h, w]`, not background alone.
        background: The constant.
    """
    brain = [np.flatnonzero((lr != background).any(axis=1 - axis)) for axis in (0, 1)]
    ends = [min(int(at[0]), side - 1 - int(at[-1])) for at, side in zip(brain, lr.shape, strict=True)]
    return max(0, ends[0] - 1), max(0, ends[1] - 1)


def _part(brain: Indices, old: int, new: int, reach_px: int) -> tuple[slice, slice]:
    periods = math.gcd(old, new)
    lr_period, hr_period = old // periods, new // periods
    margin = 1 + reach_px  # the pixels beside the brain lie among pixels of it, too
    first = max(0, int(brain[0]) - margin) // lr_period
    last = -(-min(old, int(brain[-1]) + 1 + margin) // lr_period)
    return slice(first * lr_period, last * lr_period), slice(first * hr_period, last * hr_period)

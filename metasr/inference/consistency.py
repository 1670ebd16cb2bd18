"""Consistency: the result, degraded again, against the input. What was invented shows where the two differ."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from metasr.data.degrade import Degradation
from metasr.data.intensity import IntensityScale
from metasr.data.planes import Plane
from metasr.data.volume import Volume


def consistency_db(
    volume: Volume, result: NDArray[np.floating], plane: Plane, degradation: Degradation
) -> float | None:
    """Return the PSNR in dB of a degraded result against its input, where that is not background.

    1.0 of the range is the 99.9th percentile of the brain, as in the evaluation. Noise is not added.

    Args:
        volume: The input.
        result: Super-resolved, along the same axes.
        plane: Of the slices that are degraded first; then the axis across them.
        degradation: How the LR images of the training were made.

    Returns:
        None where there is nothing to compare: a volume of one value, an axis that got coarser, or equal voxels.
    """
    intensities = IntensityScale.fit(volume.data)
    if intensities is None or any(new < old for new, old in zip(result.shape, volume.data.shape, strict=True)):
        return None
    shrink = Degradation(degradation.kind)
    _, rows, columns = volume.data.shape if volume.data.ndim != 3 else volume.slices(plane).shape
    within = np.stack(
        [_shrunk(image, (rows, columns), intensities, shrink) for image in volume.slices(plane, result)]
    )
    original = intensities.to_unit(volume.slices(plane))
    if len(within) != len(original):
        lines = torch.from_numpy(np.moveaxis(within, 0, -1).copy())[:, None]
        within = np.moveaxis(shrink(lines, (lines.shape[2], len(original)))[:, 0].numpy(), -1, 0)
    inside = slice(None) if intensities.background is None else volume.slices(plane) != intensities.background
    error = float(np.square(within[inside] - original[inside], dtype=np.float64).mean())
    return -10 * math.log10(error) if error else None


def _shrunk(
    image: NDArray[np.floating], size: tuple[int, int], intensities: IntensityScale, shrink: Degradation
) -> NDArray[np.float32]:
    unit = torch.from_numpy(np.ascontiguousarray(intensities.to_unit(image)))[None, None]
    return np.asarray(shrink(unit, size)[0, 0].numpy(), dtype=np.float32)

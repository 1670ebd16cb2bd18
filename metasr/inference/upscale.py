"""Volume in, volume out: super-resolve every axial slice at any scale and keep the world."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from metasr.data.intensity import IntensityScale
from metasr.data.volume import MAX_VOXELS, Volume
from metasr.errors import ScaleError
from metasr.models import SuperResolver, evaluating

MAX_SCALE = 16.0


def check_scale(scale: float) -> None:
    """Raise ScaleError unless `scale` is a number from 1 to 16."""
    if not (math.isfinite(scale) and 1 <= scale <= MAX_SCALE):
        raise ScaleError(f"scale {scale:g}", "super-resolution enlarges", f"Give a scale from 1 to {MAX_SCALE:g}")


def upscale_volume(
    volume: Volume,
    generator: SuperResolver,
    scale: float,
    on_slice: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float64]:
    """Super-resolve the axial slices of a volume.

    The field of view stays: an axis of n voxels gets round(n * scale), and the exact scale of the axis is the ratio.
    Intensities stay within the volume's own range. Slices of one value are filled with it; scale 1 returns the
    volume unchanged.

    Args:
        volume: Its slices closest to axial are enlarged, the distance between slices stays.
        generator: On the device to compute on.
        scale: HR size / LR size within the slice, 1 to 16.
        on_slice: Called with the slices done and their total.

    Returns:
        Intensities in the orientation and units of `volume.data`.

    Raises:
        ScaleError: The scale is outside the range, or the result would be too large.
    """
    check_scale(scale)
    axial = volume.axial()
    size = _round(axial.shape[1] * scale), _round(axial.shape[2] * scale)
    voxels = axial.shape[0] * size[0] * size[1]
    if voxels > MAX_VOXELS:
        raise ScaleError(f"scale {scale:g}", f"the result would have {voxels:,} voxels", "Give a smaller scale")
    intensities = IntensityScale.fit(volume.data)
    if size == axial.shape[1:]:
        return volume.data
    result = np.empty((axial.shape[0], *size))
    with evaluating(generator):
        for index, image in enumerate(axial):
            result[index] = _upscale_slice(image, generator, size, intensities)
            on_slice(index + 1, len(axial))
    np.clip(result, volume.data.min(), volume.data.max(), out=result)
    own: NDArray[np.float64] = np.ascontiguousarray(volume.from_axial(result))
    return own


def _upscale_slice(
    image: NDArray[np.float64],
    generator: SuperResolver,
    size: tuple[int, int],
    intensities: IntensityScale | None,
) -> NDArray[np.float64]:
    """Super-resolve one slice `[H, W]` in the units of its volume."""
    if intensities is None or image.min() == image.max():
        return np.full(size, image.flat[0])
    device = next(generator.parameters()).device
    lr = torch.from_numpy(np.ascontiguousarray(intensities.to_unit(image)))[None, None].to(device)
    sr = intensities.from_unit(generator(lr, size)[0, 0].cpu().numpy())
    if intensities.background is not None and intensities.background != intensities.low:
        # A background far from the brain cannot be interpolated: it is cut out along the nearest LR voxels.
        rows, columns = (
            (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, image.shape, strict=True)
        )
        sr[image[rows][:, columns] == intensities.background] = intensities.background
    return sr


def _round(value: float) -> int:
    """Round half up, so that 0.5 voxels more are always kept."""
    return math.floor(value + 0.5)

"""Volumes resized without a network: axes that get coarser, and label maps."""

import numpy as np
import torch
from numpy.typing import NDArray

from metasr.data.degrade import resize_bicubic
from metasr.data.intensity import IntensityScale
from metasr.data.volume import Volume
from metasr.inference.background import nearest, surrounding
from metasr.inference.memory import available_bytes, check_memory, float_type
from metasr.inference.target import Target


def shrink(
    data: NDArray[np.floating], shape: tuple[int, ...], intensities: IntensityScale | None
) -> NDArray[np.floating]:
    """Shrink the axes of a volume that are longer than those of `shape`, by antialiased bicubic interpolation.

    A voxel that covers nothing but background is exactly background; where the background lies far from the brain,
    so is a voxel whose centre lies in it.

    Args:
        data: Left as it is.
        shape: Voxels wanted; longer axes stay as they are.
        intensities: Of the volume; None where all voxels have one value.
    """
    for axis, (old, new) in enumerate(zip(data.shape, shape, strict=True)):
        if new < old:
            data = _shrink_axis(data, axis, new, intensities)
    return data


def _shrink_axis(
    data: NDArray[np.floating], axis: int, new: int, intensities: IntensityScale | None
) -> NDArray[np.floating]:
    if intensities is None:
        return data.take(range(new), axis)
    lines = np.moveaxis(data, axis, -1)
    images = torch.from_numpy(np.ascontiguousarray(intensities.to_unit(lines)))[:, None]
    shrunk = intensities.from_unit(resize_bicubic(images, (lines.shape[1], new))[:, 0].numpy())
    background = intensities.background
    if background is not None:
        brain = np.pad(np.cumsum(lines != background, axis=-1), ((0, 0), (0, 0), (1, 0)))
        first, last = surrounding(lines.shape[-1], new)
        shrunk[brain[..., last + 1] == brain[..., first]] = background
        if background != intensities.low:
            shrunk[lines[..., nearest(lines.shape[-1], new)] == background] = background
    return np.moveaxis(shrunk.clip(data.min(), data.max()), -1, axis)


def resize_labels(volume: Volume, target: Target, memory_bytes: int | None = None) -> NDArray[np.floating]:
    """Give every voxel of a target the label of the LR voxel that its centre lies in.

    Raises:
        ScaleError: The result does not fit into memory: `memory_bytes`, or what the machine has available.
    """
    check_memory(volume, target, available_bytes() if memory_bytes is None else memory_bytes)
    labels = volume.data.astype(float_type(volume), copy=False)
    return labels[np.ix_(*(nearest(old, new) for old, new in zip(labels.shape, target.shape, strict=True)))]

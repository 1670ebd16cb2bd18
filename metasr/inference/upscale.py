"""Volume in, volume out: super-resolve slices of one plane, or of all three, in the same field of view."""

from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from metasr.data.intensity import IntensityScale
from metasr.data.planes import PLANES, Plane
from metasr.data.volume import Volume
from metasr.inference.memory import available_bytes, check_memory, float_type
from metasr.inference.target import Target
from metasr.models import SuperResolver, evaluating

Pass = tuple[tuple[int, ...], list[Plane]]


def upscale_volume(
    volume: Volume,
    generator: SuperResolver,
    target: Target,
    on_slice: Callable[[int, int], None] = lambda done, total: None,
    memory_bytes: int | None = None,
) -> NDArray[np.floating]:
    """Super-resolve a volume, first within the slices of the target's plane, then through that plane.

    Within the plane each slice is super-resolved by itself: those are the images that were acquired, and they are
    what the network was trained on. If the axis across them gets finer too, that volume is cut into slices along the
    two planes that contain the axis, each slice is super-resolved along this axis alone (scale 1 along the other),
    and the two results are averaged. No axis is enlarged twice, both planes see the final grid, neither in-plane axis
    is preferred, and what one plane cannot see (a structure that runs along its slices) the other can.

    The field of view stays. Intensities stay within the volume's own range. Slices of one value are filled with it,
    and a background far from the brain is cut out again along the nearest LR voxels, in every pass. A target of the
    volume's own shape returns the volume unchanged.

    Args:
        volume: Left as it is.
        generator: On the device to compute on.
        target: Shape of the result, and plane of the slices that are super-resolved first.
        on_slice: Called with the slices done and their total over all passes.
        memory_bytes: Memory that may be used; by default what the machine has available.

    Returns:
        Intensities along the axes and in the units of `volume.data`: float32, or float64 where the file holds numbers
        that float32 does not.

    Raises:
        ScaleError: The result does not fit into memory, or the generator has one scale and it is another.
    """
    data: NDArray[np.floating] = volume.data
    if target.shape == data.shape:
        return data
    check_memory(volume, target, available_bytes() if memory_bytes is None else memory_bytes)
    intensities = IntensityScale.fit(data)
    limits = float(data.min()), float(data.max())
    passes = _passes(volume, target)
    done, total = count(1), sum(shape[volume.axes(plane)[0]] for shape, planes in passes for plane in planes)
    with evaluating(generator):
        for shape, planes in passes:
            result = np.zeros(shape, float_type(volume))
            for plane in planes:
                for image, sr in zip(volume.slices(plane, data), volume.slices(plane, result), strict=True):
                    sr += _upscale_slice(image, generator, sr.shape, intensities).clip(*limits) / len(planes)
                    on_slice(next(done), total)
            data = result
    return data


def _passes(volume: Volume, target: Target) -> list[Pass]:
    """Return the passes to make: the shape after each, and the planes whose results are averaged."""
    across = volume.axes(target.plane)[0]
    within = tuple(volume.data.shape[axis] if axis == across else n for axis, n in enumerate(target.shape))
    passes: list[Pass] = [(within, [target.plane]), (target.shape, [p for p in PLANES if p != target.plane])]
    before = [volume.data.shape, within]
    return [step for step, shape in zip(passes, before, strict=True) if step[0] != shape]


def _upscale_slice(
    image: NDArray[np.floating],
    generator: SuperResolver,
    size: tuple[int, ...],
    intensities: IntensityScale | None,
) -> NDArray[np.float64]:
    """Super-resolve one slice `[H, W]` in the units of its volume."""
    if intensities is None or image.min() == image.max():
        return np.full(size, image.flat[0], np.float64)
    lr = torch.from_numpy(np.ascontiguousarray(intensities.to_unit(image)))[None, None].to(generator.mean.device)
    sr = intensities.from_unit(generator(lr, (size[0], size[1]))[0, 0].cpu().numpy())
    if intensities.background is not None and intensities.background != intensities.low:
        # A background far from the brain cannot be interpolated: it is cut out along the nearest LR voxels.
        rows, columns = (
            (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, image.shape, strict=True)
        )
        sr[image[rows][:, columns] == intensities.background] = intensities.background
    return sr

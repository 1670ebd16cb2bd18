"""Volume in, volume out: super-resolve slices of one plane, or of all three, in the same field of view."""

from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from metasr.data.intensity import IntensityScale
from metasr.data.planes import PLANES, Plane
from metasr.data.volume import Volume
from metasr.inference.background import keep_background, nearest, unseen_rim, working_area
from metasr.inference.engine import Engine
from metasr.inference.memory import available_bytes, check_memory, float_type
from metasr.inference.reach import reach_px
from metasr.inference.resample import shrink
from metasr.inference.target import Target
from metasr.models import SuperResolver

Pass = tuple[tuple[int, ...], list[Plane]]


def upscale_volume(
    volume: Volume,
    generator: SuperResolver,
    target: Target,
    on_slice: Callable[[int, int], None] = lambda done, total: None,
    memory_bytes: int | None = None,
    *,
    bfloat16: bool = False,
) -> NDArray[np.floating]:
    """Super-resolve a volume, first within the slices of the target's plane, then through that plane.

    Within the plane each slice is super-resolved by itself: those are the images that were acquired, and they are
    what the network was trained on. If the axis across them gets finer too, that volume is cut into slices along the
    two planes that contain the axis, each slice is super-resolved along this axis alone (scale 1 along the other),
    and the two results are averaged. No axis is enlarged twice, both planes see the final grid, neither in-plane axis
    is preferred, and what one plane cannot see (a structure that runs along its slices) the other can.

    Axes that get coarser are shrunk before, with antialiased bicubic interpolation.

    The field of view stays. Intensities stay within the volume's own range. A constant background stays exactly that
    constant, in every pass: wherever the LR voxels that an output voxel lies among (up to four in a slice) are all
    background, and so wherever the 3 x 3 around it are. Beside the brain, where the nearest LR voxel is background,
    values stay in the range of those voxels, so that nothing rings. A background far from the brain is cut out again
    along the nearest LR voxels. Slices of one value are filled with it, and of the others only the part that is not
    background, and what the network sees around it, is computed: the result is that of the whole slice, to float32's
    rounding. A target of the volume's own shape returns the volume unchanged.

    Args:
        volume: Left as it is.
        generator: On the device to compute on.
        target: Shape of the result, and plane of the slices that are super-resolved first.
        on_slice: Called with the slices done and their total over all passes.
        memory_bytes: Memory that may be used; by default what the machine has available.
        bfloat16: Whether the convolutions are computed in bfloat16, which is fast only where the device has it.

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
    intensities, reach = IntensityScale.fit(data), reach_px(generator)
    limits = float(data.min()), float(data.max())
    data = shrink(data, target.shape, intensities)
    passes = _passes(volume, data.shape, target)
    done, total = count(1), sum(shape[volume.axes(plane)[0]] for shape, planes in passes for plane in planes)
    engine = Engine(generator, bfloat16=bfloat16)
    for shape, planes in passes:
        result = np.zeros(shape, float_type(volume))
        for plane in planes:
            for image, sr in zip(volume.slices(plane, data), volume.slices(plane, result), strict=True):
                sr += _upscale_slice(image, engine, sr.shape, intensities, reach).clip(*limits) / len(planes)
                on_slice(next(done), total)
        data = result
    return data


def _passes(volume: Volume, shape: tuple[int, ...], target: Target) -> list[Pass]:
    """Return the passes to make from `shape` on: the shape after each, and the planes whose results are averaged."""
    across = volume.axes(target.plane)[0]
    within = tuple(shape[axis] if axis == across else n for axis, n in enumerate(target.shape))
    passes: list[Pass] = [(within, [target.plane]), (target.shape, [p for p in PLANES if p != target.plane])]
    return [step for step, before in zip(passes, [shape, within], strict=True) if step[0] != before]


def _upscale_slice(
    image: NDArray[np.floating],
    engine: Engine,
    size: tuple[int, ...],
    intensities: IntensityScale | None,
    reach: int | None,
) -> NDArray[np.float64]:
    """Super-resolve one slice `[H, W]` in the units of its volume; `reach` is how many LR pixels the network sees."""
    if intensities is None or image.min() == image.max():
        return np.full(size, image.flat[0], np.float64)
    background = intensities.background
    if background is None or reach is None:
        return _compute(image, engine, size, intensities)
    area = working_area(image, size, background, reach)
    sr = np.full(size, background, np.float64)
    rim = unseen_rim(image[area.lr], background)
    sr[area.hr] = _compute(image[area.lr], engine, sr[area.hr].shape, intensities, rim)
    return sr


def _compute(
    image: NDArray[np.floating],
    engine: Engine,
    size: tuple[int, ...],
    intensities: IntensityScale,
    rim: tuple[int, int] = (0, 0),
) -> NDArray[np.float64]:
    lr = torch.from_numpy(np.ascontiguousarray(intensities.to_unit(image)))[None, None]
    background = intensities.background
    sr = intensities.from_unit(engine(lr, (size[0], size[1]), rim)[0, 0].cpu().numpy())
    if background is None:
        return sr
    if background != intensities.low:  # far from the brain it cannot be interpolated
        rows, columns = (nearest(old, new) for old, new in zip(image.shape, size, strict=True))
        sr[image[rows][:, columns] == background] = background
    else:
        keep_background(sr, image, background)
    return sr

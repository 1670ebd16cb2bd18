"""Two volumes or pictures on one grid compared: PSNR, SSIM, the largest difference, and a picture of three planes."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from metasr.data.intensity import IntensityScale
from metasr.data.planes import PLANES, Plane
from metasr.data.volume import Volume
from metasr.errors import DataError
from metasr.metrics import SSIM_WINDOW, ssim

SAME_PLACE = 0.05  # of a voxel
TILE_PX = 360
CAPTION_PX = 24
GAP_PX = 6
GAIN = 5.0


@dataclass(frozen=True)
class Difference:
    """How far B is from A.

    Attributes:
        psnr_db: With A's 99.9th percentile of the brain as range; infinite where all voxels are the same.
        ssim: Mean over the axial slices that are not of one value; None where they are smaller than its window.
        largest: Largest absolute difference, in A's units.
        largest_at: The voxel where it is.
        mean: Mean absolute difference, in A's units.
        differing: Fraction of the voxels that differ at all.
    """

    psnr_db: float
    ssim: float | None
    largest: float
    largest_at: tuple[int, int, int]
    mean: float
    differing: float


def compare(a: Volume, b: Volume) -> Difference:
    """Compare two volumes voxel by voxel.

    Raises:
        DataError: They are not on one grid.
    """
    _check_grid(a, b)
    error = np.abs(b.data - a.data)
    largest_at = np.unravel_index(int(error.argmax()), error.shape)
    unit_a, unit_b = _units(a, b)
    squared = float(np.square(unit_b - unit_a, dtype=np.float64).mean())
    i, j, k = (int(index) for index in largest_at)
    return Difference(
        psnr_db=-10 * math.log10(squared) if squared else math.inf,
        ssim=_mean_ssim(a.slices("axial", unit_a), a.slices("axial", unit_b)),
        largest=float(error.max()),
        largest_at=(i, j, k),
        mean=float(error.mean()),
        differing=float((error > 0).mean()),
    )


def picture(a: Volume, b: Volume, names: tuple[str, str]) -> Image.Image:
    """Draw A, B and their difference in three planes, through the voxel of the largest error of each.

    The difference is shown from blue (B below A) over black to red (B above A), five times as strong.

    Args:
        a: The first volume.
        b: The second, on the same grid.
        names: What the captions call them.
    """
    _check_grid(a, b)
    unit_a, unit_b = _units(a, b)
    rows = [_row(a, (unit_a, unit_b), plane, names) for plane in PLANES if min(a.slices(plane).shape[1:]) > 1]
    panel = Image.new("RGB", (max(row.width for row in rows), sum(row.height + GAP_PX for row in rows) - GAP_PX))
    top = 0
    for row in rows:
        panel.paste(row, (0, top))
        top += row.height + GAP_PX
    return panel


def _check_grid(a: Volume, b: Volume) -> None:
    fix = f"Bring one to the grid of the other first, as with `metasr upscale --like {a.source}`"
    if a.data.shape != b.data.shape:
        shapes = " and ".join(" x ".join(map(str, each.data.shape)) for each in (a, b))
        raise DataError(f"{a.source} and {b.source}", f"their shapes differ: {shapes}", fix)
    apart = np.abs(np.linalg.solve(a.affine, b.affine) - np.eye(4))
    apart[:3, :3] *= max(a.data.shape)
    if apart.max() > SAME_PLACE:
        why = f"their voxels lie {apart.max():.3g} voxels apart"
        raise DataError(f"{a.source} and {b.source}", why, fix)


def _units(a: Volume, b: Volume) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    scale = IntensityScale.fit(a.data) or IntensityScale.fit(b.data) or IntensityScale(None, 0.0, 1.0)
    low, span = scale.low, scale.high - scale.low
    return ((a.data - low) / span).astype(np.float32), ((b.data - low) / span).astype(np.float32)


def _mean_ssim(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    if min(a.shape[1:]) < SSIM_WINDOW:
        return None
    shown = [number for number, image in enumerate(a) if image.min() != image.max()]
    images = [torch.from_numpy(np.ascontiguousarray(volume[shown]))[:, None] for volume in (b, a)]
    scores = [ssim(one[None], other[None]).item() for one, other in zip(*images, strict=True)]
    return float(np.mean(scores)) if scores else None


def _row(
    grid: Volume, units: tuple[NDArray[np.float32], NDArray[np.float32]], plane: Plane, names: tuple[str, str]
) -> Image.Image:
    slices_a, slices_b = (grid.slices(plane, unit) for unit in units)
    difference = slices_b - slices_a
    squared = np.square(difference).mean(axis=(1, 2))
    number = int(squared.argmax()) if squared.any() else len(squared) // 2
    _, rows, columns = grid.axes(plane)
    height_mm, width_mm = (
        n * grid.spacing_mm[axis] for n, axis in zip(slices_a.shape[1:], (rows, columns), strict=True)
    )
    size = (TILE_PX, max(1, round(TILE_PX * height_mm / width_mm)))
    shown = difference[number] * GAIN
    tiles = [
        (f"{plane} {number + 1}/{len(slices_a)}  A: {names[0]}", _gray(slices_a[number])),
        (f"B: {names[1]}", _gray(slices_b[number])),
        (f"B - A, {GAIN:g} times as strong", np.stack([shown, np.zeros_like(shown), -shown], axis=-1)),
    ]
    row = Image.new("RGB", (len(tiles) * (TILE_PX + GAP_PX) - GAP_PX, size[1] + CAPTION_PX))
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(size=13)
    for index, (caption, pixels) in enumerate(tiles):
        left = index * (TILE_PX + GAP_PX)
        image = Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))
        row.paste(image.resize(size, Image.Resampling.NEAREST), (left, CAPTION_PX))
        draw.text((left + 4, 4), caption[: TILE_PX // 7], fill=(255, 255, 255), font=font)
    return row


def _gray(unit: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.repeat(unit[..., None], 3, axis=-1)

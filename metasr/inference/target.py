"""The shape to super-resolve a volume to, from a scale or a spacing, or the reason why that is not possible."""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

from metasr.data.nifti import MAX_VOXELS
from metasr.data.planes import PLANES, Plane
from metasr.data.volume import Volume, orientation, scaled_affine
from metasr.errors import ScaleError
from metasr.scale import MAX_SCALE

TOLERANCE = 1e-3  # headers hold spacings in float32, often made from rounded numbers
AXES = "ijk"
CUBE = tuple(product((0, 1), repeat=3))
SAME_DIRECTION = 1e-3  # of unit vectors
SAME_PLACE = 0.05  # of a voxel
RESAMPLING = ", and resample the result (nibabel.processing.resample_from_to, or SimpleITK)"


@dataclass(frozen=True)
class Target:
    """The result to make.

    Attributes:
        scales: Requested HR size / LR size along the axes of the volume's array; 1 leaves an axis as it is.
        shape: Voxels along those axes: the field of view stays, so an axis of n gets round(n * scale).
        plane: Of the slices that are super-resolved first.
    """

    scales: tuple[float, float, float]
    shape: tuple[int, int, int]
    plane: Plane

    @classmethod
    def of_scale(cls, volume: Volume, scale: tuple[float, float], plane: Plane = "axial") -> "Target":
        """Enlarge the slices of a plane: their rows and columns by `scale`, the distance between them stays.

        Raises:
            ScaleError: A scale is outside 1 to 16, or the result would be too large.
        """
        _check_scales(scale)
        _, rows, columns = volume.axes(plane)
        scales = [1.0, 1.0, 1.0]
        scales[rows], scales[columns] = scale
        return cls._sized(volume, scales, plane)

    @classmethod
    def of_axes(cls, volume: Volume, scales: tuple[float, float, float], plane: Plane | None = None) -> "Target":
        """Enlarge the axes i, j, k of the volume's array by a scale each; the plane is chosen as for a spacing.

        Raises:
            ScaleError: A scale is outside 1 to 16, or the result would be too large.
        """
        _check_scales(scales)
        return cls._sized(volume, list(scales), plane or _acquired(volume, list(scales)))

    @classmethod
    def of_spacing(
        cls,
        volume: Volume,
        spacing_mm: tuple[float, float, float],
        plane: Plane | None = None,
        *,
        resample: bool = False,
    ) -> "Target":
        """Give the voxels a size along the axes i, j, k of the volume's array.

        Args:
            volume: What is to be enlarged.
            spacing_mm: Size wanted; where the field of view is no multiple of it, the nearest that fits.
            plane: Of the slices that were acquired. If None, they lie across the axis with the largest spacing; of
                several, across one that stays as it is, and rather axial than coronal than sagittal.
            resample: Whether axes that are finer already become coarser; otherwise they stay as they are.

        Raises:
            ScaleError: No axis gets finer, though some would get coarser, and these are not resampled; an axis gets
                more than 16 times finer; or the result would be too large.
        """
        wanted = [_axis_scale(*axis) for axis in zip(AXES, volume.spacing_mm, spacing_mm, strict=True)]
        scales = wanted if resample else [max(1.0, scale) for scale in wanted]
        if min(wanted) < 1 and max(scales) == 1 and not resample:
            axis = wanted.index(min(wanted))
            old_mm = volume.spacing_mm[axis]
            raise ScaleError(
                f"spacing {spacing_mm[axis]:g} mm along {AXES[axis]}, which has {old_mm:.4g} mm",
                "super-resolution makes no axis coarser",
                f"Give at most {old_mm:.4g} along an axis, or --resample",
            )
        return cls._sized(volume, scales, plane or _acquired(volume, scales))

    @classmethod
    def of_shape(cls, volume: Volume, shape: tuple[int, ...], plane: Plane | None = None) -> "Target":
        """Give the axes of the volume's array so many voxels, in the same field of view.

        Raises:
            ScaleError: An axis gets shorter, or more than 16 times longer.
        """
        old = volume.data.shape
        if len(shape) != len(old) or any(not n <= m <= n * MAX_SCALE for n, m in zip(old, shape, strict=True)):
            raise ScaleError(
                f"shape {_by(shape)} from {_by(old)}",
                "super-resolution makes axes 1 to 16 times longer",
                "Give another shape",
            )
        i, j, k = (m / n for n, m in zip(old, shape, strict=True))
        return cls((i, j, k), (shape[0], shape[1], shape[2]), plane or _acquired(volume, [i, j, k]))

    @classmethod
    def of_grid(cls, volume: Volume, other: Volume, plane: Plane | None = None) -> "Target":
        """Give the volume the grid of another one: its voxels, where both cover the same field of view.

        Args:
            volume: What is to be enlarged.
            other: Whose grid it gets; its intensities do not matter.
            plane: As for a spacing.

        Raises:
            ScaleError: The axes of the two run in other directions, the fields of view differ by more than a
                twentieth of a voxel of `other`, an axis gets shorter, or more than 16 times longer.
        """
        shape = other.data.shape
        made, wanted = scaled_affine(volume.affine, volume.data.shape, shape), other.affine
        what = f"grid of {other.source}"
        directions = [affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) for affine in (made, wanted)]
        if not np.allclose(directions[0], directions[1], atol=SAME_DIRECTION):
            here, there = orientation(made), orientation(wanted)
            why = f"its axes run {there}, those of {volume.source} {here}" if here != there else "it is rotated"
            raise ScaleError(what, why, f"Bring one to the orientation of the other first{RESAMPLING}")
        corners = np.array([(*(end * n - 0.5 for end, n in zip(ends, shape, strict=True)), 1.0) for ends in CUBE])
        apart = np.abs(np.linalg.solve(wanted, made @ corners.T) - corners.T).max()
        if apart > SAME_PLACE:
            raise ScaleError(
                what,
                f"its field of view is another: a corner lies {apart:.3g} of its voxels from that of {volume.source}",
                f"Use --spacing{RESAMPLING}",
            )
        return cls.of_shape(volume, shape, plane)

    @classmethod
    def _sized(cls, volume: Volume, scales: list[float], plane: Plane) -> "Target":
        i, j, k = (max(1, math.floor(n * scale + 0.5)) for n, scale in zip(volume.data.shape, scales, strict=True))
        if i * j * k > MAX_VOXELS:
            raise ScaleError(
                f"{i} x {j} x {k} voxels", f"a volume has at most {MAX_VOXELS:,}", "Give a smaller scale"
            )
        return cls((scales[0], scales[1], scales[2]), (i, j, k), plane)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _check_scales(scales: tuple[float, ...]) -> None:
    for factor in scales:
        if not 1 <= factor <= MAX_SCALE:  # nan is not, either
            raise ScaleError(
                f"scale {factor:g}", "super-resolution enlarges", f"Give a scale from 1 to {MAX_SCALE:g}"
            )


def _axis_scale(axis: str, old_mm: float, new_mm: float) -> float:
    """Return the scale of an axis; 1 where the spacings are the same but for rounding."""
    what = f"spacing {new_mm:g} mm along {axis}, which has {old_mm:.4g} mm"
    if not (math.isfinite(new_mm) and new_mm > 0):
        raise ScaleError(what, "a voxel has a size", "Give numbers above 0")
    scale = old_mm / new_mm
    if abs(scale - 1) <= TOLERANCE:
        return 1.0
    if scale > MAX_SCALE * (1 + TOLERANCE):
        raise ScaleError(
            what, f"that is scale {scale:.4g}, above {MAX_SCALE:g}", f"Give at least {old_mm / MAX_SCALE:.4g}"
        )
    return scale


def _acquired(volume: Volume, scales: list[float]) -> Plane:
    """Return the plane that the slices were most likely acquired in: across the axis with the largest spacing."""
    thickest = max(volume.spacing_mm) * (1 - TOLERANCE)
    across = {plane: volume.axes(plane)[0] for plane in PLANES}
    candidates = [plane for plane in PLANES if volume.spacing_mm[across[plane]] >= thickest]
    return next((plane for plane in candidates if scales[across[plane]] <= 1), candidates[0])

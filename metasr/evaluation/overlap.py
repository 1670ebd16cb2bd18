"""How alike two masks are: Dice, and the Hausdorff distance of their surfaces."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

Mask = NDArray[np.bool_]


class Distances(NamedTuple):
    """How far the surfaces of two masks lie apart.

    Attributes:
        hausdorff: From a surface voxel of either to the nearest of the other, the largest such distance.
        hausdorff95: The 95th percentile in each direction, the larger of the two.
    """

    hausdorff: float
    hausdorff95: float


def dice(mask: Mask, other: Mask) -> float:
    """Return twice the common part over the sum of both; 1 for two empty masks."""
    total = int(mask.sum()) + int(other.sum())
    return 2 * int((mask & other).sum()) / total if total else 1.0


def surface_distances(mask: Mask, other: Mask, spacing: tuple[float, ...]) -> Distances:
    """Return the distances between the surfaces of two masks of one shape.

    A surface voxel is in the mask, and a neighbour of it (by a face) is not, or lies outside of the image. Two empty
    masks are 0 apart; where one alone is empty, the distance is the diagonal of the image, the largest there can be.

    Args:
        mask: One.
        other: The other.
        spacing: Of the voxels, along each axis.
    """
    if not mask.any() and not other.any():
        return Distances(0.0, 0.0)
    if not (mask.any() and other.any()):
        diagonal = float(np.linalg.norm(np.multiply(mask.shape, spacing)))
        return Distances(diagonal, diagonal)
    (both,) = find_objects((mask | other).astype(np.uint8))  # the box around both holds all of their surfaces
    one, two = _surface(mask[both]), _surface(other[both])
    there, back = _nearest(one, two, spacing), _nearest(two, one, spacing)
    largest = float(max(there.max(), back.max()))
    return Distances(largest, float(max(np.percentile(there, 95), np.percentile(back, 95))))


def _surface(mask: Mask) -> Mask:
    surface: Mask = mask & ~binary_erosion(mask)
    return surface


def _nearest(surface: Mask, other: Mask, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the distance of each voxel of a surface from the other surface."""
    distances: NDArray[np.float64] = distance_transform_edt(~other, sampling=spacing)[surface]
    return distances

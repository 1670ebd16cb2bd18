"""Similarity of two masks: Dice, and the Hausdorff distance of their surfaces."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class Distances(NamedTuple):
    """Distances between the surfaces of two masks.

    Attributes:
        hausdorff: The largest distance from a surface voxel of either mask to the nearest one of the other.
        hausdorff95: The 95th percentile in each direction, the larger of the two.
    """

    hausdorff: float
    hausdorff95: float


def dice(mask: Mask, other: Mask) -> float:
    """Return the Dice coefficient; 1 for two empty masks."""
    total = int(mask.sum()) + int(other.sum())
    return 2 * int((mask & other).sum()) / total if total else 1.0


def surface_distances(mask: Mask, other: Mask, spacing: tuple[float, ...]) -> Distances:
    """Return the distances between the surfaces of two masks of the same shape.

    A surface voxel is in the mask, and one of its face neighbours is not, or is outside the image. The distance of
    two empty masks is 0; if only one is empty, it is the diagonal of the image, the largest possible distance.

    Args:
        mask: One mask.
        other: The other mask.
        spacing: Voxel spacing along each axis.
    """
    from scipy.ndimage import find_objects  # here, because a training does not need it

    if not mask.any() and not other.any():
        return Distances(0.0, 0.0)
    if not (mask.any() and other.any()):
        diagonal = float(np.linalg.norm(np.multiply(mask.shape, spacing)))
        return Distances(diagonal, diagonal)
    (both,) = find_objects((mask | other).astype(np.uint8))  # the bounding box holds all surfaces
    one, two = _surface(mask[both]), _surface(other[both])
    there, back = _nearest(one, two, spacing), _nearest(two, one, spacing)
    largest = float(max(there.max(), back.max()))
    return Distances(largest, float(max(np.percentile(there, 95), np.percentile(back, 95))))


def _surface(mask: Mask) -> Mask:
    from scipy.ndimage import binary_erosion

    surface: Mask = mask & ~binary_erosion(mask)
    return surface


def _nearest(surface: Mask, other: Mask, spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the distance of each surface voxel to the other surface."""
    from scipy.ndimage import distance_transform_edt

    distances: NDArray[np.float64] = distance_transform_edt(~other, sampling=spacing)[surface]
    return distances

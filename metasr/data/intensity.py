"""Intensities: from whatever units a scanner wrote to about [0, 1], and back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOP_PERCENTILE = 99.9
BOTTOM_PERCENTILE = 0.1


@dataclass(frozen=True)
class IntensityScale:
    """An affine map of a volume's intensities, fitted to the brain, whatever constant fills the background.

    `low` becomes 0 and `high` becomes 1; nothing is clipped, so that the map can be undone.

    Attributes:
        background: The constant around the brain; None where there is none (the head was not cut out).
        low: Intensity that becomes 0: the background, unless that lies far below the brain or above it.
        high: Intensity that becomes 1: the 99.9th percentile of the brain.
    """

    background: float | None
    low: float
    high: float

    @classmethod
    def fit(cls, data: NDArray[np.floating]) -> "IntensityScale | None":
        """Fit the map to a volume of finite values of any shape; None for a volume of one value."""
        background = find_background(data)
        brain = data if background is None else data[data != background]
        if brain.size == 0:
            return None
        bottom, top = (float(v) for v in np.percentile(brain, [BOTTOM_PERCENTILE, TOP_PERCENTILE]))
        if not top > bottom:
            bottom, top = float(brain.min()), float(brain.max())
        if background is None:
            return cls(None, bottom, top) if top > bottom else None
        if top == bottom:  # a mask: one value on a background
            return cls(background, background, top)
        is_near = bottom - (top - bottom) <= background <= top
        return cls(background, background if is_near else bottom, top)

    def to_unit(self, data: NDArray[np.floating]) -> NDArray[np.float32]:
        """Map intensities to about [0, 1] in float32; the background becomes 0."""
        unit = (data - self.low) / (self.high - self.low)
        if self.background is not None:
            unit[data == self.background] = 0.0
        return unit.astype(np.float32)

    def from_unit(self, unit: NDArray[np.floating]) -> NDArray[np.float64]:
        """Undo `to_unit`, in float64. A background that is not `low` is not restored here."""
        return unit.astype(np.float64) * (self.high - self.low) + self.low


def find_background(data: NDArray[np.floating]) -> float | None:
    """Return the constant that fills the surroundings of the brain, or None.

    It is the value of more than half of the voxels on the faces of the volume, else on its twelve edges: in a slab
    of few slices the brain may fill most of the faces. It is 0 in raw volumes, a negative number in z-scored ones.
    Values that are not finite do not count.
    """
    faces = [np.take(data, (0, -1), axis=axis) for axis in range(data.ndim)]
    edges = [np.take(face, (0, -1), axis=other) for axis, face in enumerate(faces) for other in range(axis)]
    return next((value for border in (faces, edges) if (value := _most_common(border)) is not None), None)


def _most_common(parts: list[NDArray[np.floating]]) -> float | None:
    """Return the finite value that more than half of all finite ones are, or None."""
    values = np.concatenate([part.ravel() for part in parts] or [np.empty(0)])
    values, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    return float(values[counts.argmax()]) if counts.max(initial=0) * 2 > counts.sum() else None

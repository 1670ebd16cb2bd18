"""A volume as the page shows it: three planes, where their pixels lie in the head, and a grey scale to start from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metasr.data.intensity import IntensityScale
from metasr.data.planes import PLANES, Plane
from metasr.data.volume import Volume

CODES = 65535
"""Intensities travel as 16-bit codes: 0 is the lowest of the volume, this the highest."""
HISTOGRAM_BINS = 96
EDGES = {"axial": "APLR", "coronal": "SILR", "sagittal": "SIPA"}
"""The direction in the head at the top, bottom, left and right of a slice, as `Volume.slices` turns it."""


@dataclass(frozen=True)
class Scene:
    """What is shown.

    Attributes:
        volume: Its slices are shown as `Volume.slices` turns them.
        intensities: Map to what the network sees; None for a volume of one value.
        low: Lowest intensity of the volume.
        high: Highest intensity of the volume; above `low` also where all are the same.
    """

    volume: Volume
    intensities: IntensityScale | None
    low: float
    high: float

    @classmethod
    def of(cls, volume: Volume) -> "Scene":
        """Fit the intensities of a volume."""
        low, high = float(volume.data.min()), float(volume.data.max())
        return cls(volume, IntensityScale.fit(volume.data), low, high if high > low else low + 1)

    def image(self, plane: Plane, index: int) -> NDArray[np.float64]:
        """Return a slice `[rows, columns]`, in the units of the volume."""
        image: NDArray[np.float64] = self.volume.slices(plane)[index]
        return image

    def count(self, plane: Plane) -> int:
        """Return how many slices a plane has."""
        return len(self.volume.slices(plane))

    def description(self) -> dict[str, Any]:
        """Return what the page needs to know, for JSON."""
        volume = self.volume
        window = (self.low, self.high) if self.intensities is None else (self.intensities.low, self.intensities.high)
        return {
            "name": volume.source.name,
            "shape": volume.data.shape,
            "spacing_mm": volume.spacing_mm,
            "affine": volume.affine.tolist(),
            "planes": {plane: self._plane(plane) for plane in PLANES},
            "low": self.low,
            "high": self.high,
            "window": window,
            "start": self._start(),
            "histogram": self._histogram(window),
            "warnings": volume.warnings,
        }

    def _plane(self, plane: Plane) -> dict[str, Any]:
        slices, rows, columns = self.volume.slices(plane).shape
        _, down, along = self.volume.axes(plane)
        return {
            "slices": slices,
            "rows": rows,
            "columns": columns,
            "spacing_mm": [self.volume.spacing_mm[down], self.volume.spacing_mm[along]],
            "to_voxel": self._to_voxel(plane),
            "edges": list(EDGES[plane]),
        }

    def _to_voxel(self, plane: Plane) -> list[list[int]]:
        """Return the matrix `[3, 4]` from (slice, row, column, 1) to the voxel (i, j, k)."""
        shape = self.volume.data.shape
        matrix = []
        for axis, length in enumerate(shape):
            along = np.arange(length).reshape([-1 if other == axis else 1 for other in range(3)])
            turned = self.volume.slices(plane, np.broadcast_to(along, shape))
            first = int(turned[0, 0, 0])
            ends = [turned.take(-1, other)[0, 0] for other in range(3)]
            matrix.append([int(np.sign(int(end) - first)) for end in ends] + [first])
        return matrix

    def _start(self) -> list[int]:
        """Return the voxel where the brain is widest along each axis."""
        background = None if self.intensities is None else self.intensities.background
        if background is None:
            return [length // 2 for length in self.volume.data.shape]
        steps = [1 if length < 64 else 2 for length in self.volume.data.shape]
        brain = self.volume.data[tuple(slice(None, None, step) for step in steps)] != background
        widest = (int(np.count_nonzero(brain, axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3))
        return [step * index for step, index in zip(steps, widest, strict=True)]

    def _histogram(self, window: tuple[float, float]) -> list[int]:
        """Return how often intensities of the window and half its width above occur, the background left out."""
        some = self.volume.data[::2, ::2, ::2]
        if self.intensities is not None and self.intensities.background is not None:
            some = some[some != self.intensities.background]
        low, high = window
        counts, _ = np.histogram(some, HISTOGRAM_BINS, (low, low + 1.5 * (high - low or 1)))
        return [int(count) for count in counts]

"""Slices encoded once, and kept as long as there is room."""

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metasr.data.intensity import IntensityScale
from metasr.data.planes import Plane
from metasr.inference.background import unseen_rim
from metasr.inference.engine import Engine
from metasr.inference.reach import reach_px
from metasr.models.generator import Features
from metasr.viewer.scene import Scene

KEPT_BYTES = 512 * 2**20


class Encoded(NamedTuple):
    """A slice, ready to be decoded.

    Attributes:
        features: Of the whole slice; those far from the brain are zeros.
        lr: What the network saw, `[rows, columns]`.
        is_background: Where the slice is the constant around the brain, `[rows, columns]`; None without one.
    """

    features: Features
    lr: NDArray[np.float32]
    is_background: NDArray[np.bool_] | None

    def brain(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return first and last row, and column, of what is not background, with a pixel around it."""
        height, width = self.lr.shape
        if self.is_background is None:
            return (0, height), (0, width)
        parts = (_box(~self.is_background, axis, 1) for axis in (0, 1))
        (top, bottom), (left, right) = ((part.start, part.stop) for part in parts)
        return (top, min(bottom, height)), (left, min(right, width))


class Encoder:
    """Encode a scene's slices: of each the part that is not background, and what the network sees around it.

    Not for several threads at once.

    Args:
        engine: Of a network for any scale.
        scene: What is shown.
        kept_bytes: Memory for features; slices used least recently give way.
    """

    def __init__(self, engine: Engine, scene: Scene, kept_bytes: int = KEPT_BYTES) -> None:
        self._engine, self._scene, self._kept_bytes = engine, scene, kept_bytes
        self._reach = reach_px(engine.generator)
        self._kept: OrderedDict[tuple[Plane, int], Encoded] = OrderedDict()
        self._used_bytes = 0

    def encoded(self, plane: Plane, index: int, intensities: IntensityScale) -> Encoded:
        """Return a slice's features, computed the first time, in inference mode."""
        key = plane, index
        if key not in self._kept:
            self._kept[key] = self._encode(self._scene.image(plane, index), intensities)
            self._used_bytes += self._kept[key].features.maps.nbytes
            while self._used_bytes > self._kept_bytes and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._used_bytes -= oldest.features.maps.nbytes
        self._kept.move_to_end(key)
        return self._kept[key]

    def _encode(self, image: NDArray[np.float64], intensities: IntensityScale) -> Encoded:
        lr = intensities.to_unit(image)
        tensor = torch.from_numpy(np.ascontiguousarray(lr))[None, None]
        background = intensities.background
        is_background = None if background is None else image == background
        if background is None or is_background is None or self._reach is None or not is_background.any():
            return Encoded(self._engine.encode(tensor), lr, is_background)
        # The pixels beside the brain lie among pixels of it, too.
        rows, columns = (_box(~is_background, axis, 1 + self._reach) for axis in (0, 1))
        part = tensor[..., rows, columns]
        maps = self._engine.encode(part, unseen_rim(image[rows, columns], background)).maps
        # Channels last, as meta-upscale reads them.
        whole = maps.new_zeros(len(maps), *image.shape, maps.shape[1]).permute(0, 3, 1, 2)
        whole[..., rows, columns] = maps
        return Encoded(Features(whole, tensor.to(maps.device)), lr, is_background)


def _box(is_brain: NDArray[np.bool_], axis: int, margin: int) -> slice:
    """Return which part of an axis the brain takes, and a margin around it; the end may lie beyond the axis."""
    brain = np.flatnonzero(is_brain.any(axis=1 - axis))
    return slice(max(0, int(brain[0]) - margin), int(brain[-1]) + 1 + margin)

"""Tiles: a slice whose features do not fit into memory at once is encoded and decoded in parts, without seams."""

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

from metasr.data.planes import PLANES
from metasr.data.volume import Volume
from metasr.inference.memory import available_bytes
from metasr.inference.reach import reach_px
from metasr.inference.target import Target
from metasr.models import Features, Generator, SuperResolver, Window

TILE_PX = 256
"""Side of a tile; in LR pixels for the trunk, in output pixels for decoding."""
MAPS_AT_ONCE = 16
"""What a slice takes, counted in its feature maps: decoding reads nine shifted copies of them, and there are those of
the trunk, its skip, and the result."""
FLOAT_BYTES = 4
SHARE = 0.5
"""Of the memory available: the volumes need some too."""


class Tiled(SuperResolver):
    """A generator that computes an image in tiles: the same result, to float32's rounding, in less memory.

    The trunk sees `reach_px` pixels around each tile, so that no pixel of it depends on where tiles begin; decoding
    reads the features under each window. What stays in memory as a whole are the features of one image.

    Args:
        generator: What computes the tiles.
        tile_px: Side of a tile.
    """

    def __init__(self, generator: Generator, tile_px: int = TILE_PX) -> None:
        super().__init__(mean=float(generator.mean), std=float(generator.std))
        self.generator, self._tile_px = generator, tile_px
        reach = reach_px(generator.trunk)
        if reach is None:
            raise TypeError("a trunk with layers of unknown reach cannot be computed in tiles")
        self._reach = reach
        self.to(generator.mean.device)

    def forward(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Super-resolve `[N, C, h, w]` to `[N, C, *size]`."""
        return torch.cat([self._one(image[None], size) for image in lr])

    def _one(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        height, width = lr.shape[-2:]
        maps = None
        for top, left, bottom, right in _tiles(height, width, self._tile_px):
            first_row, first_column = max(0, top - self._reach), max(0, left - self._reach)
            around = lr[..., first_row : bottom + self._reach, first_column : right + self._reach]
            found = self.generator.encode(around).maps
            if maps is None:
                maps = found.new_empty(1, found.shape[1], height, width)
            inside = found[..., top - first_row : bottom - first_row, left - first_column : right - first_column]
            maps[..., top:bottom, left:right] = inside
        assert maps is not None  # an image has pixels
        features, sr = Features(maps=maps, lr=lr), lr.new_empty(1, lr.shape[1], *size)
        for top, left, bottom, right in _tiles(*size, self._tile_px):
            window = Window(top, left, bottom - top, right - left)
            sr[..., top:bottom, left:right] = self.generator.decode_window(features, size, window)
        return sr


def fitting(generator: SuperResolver, volume: Volume, target: Target, say: Callable[[str], None]) -> SuperResolver:
    """Return a generator for a volume: the given one, or one that works in tiles where memory is short.

    Args:
        generator: On the device to compute on.
        volume: What is enlarged.
        target: What is made of it.
        say: Called with a line if it works in tiles.
    """
    free = free_bytes(generator.mean.device)
    if not isinstance(generator, Generator) or free is None:
        return generator
    needed = slice_bytes(generator, volume, target)
    if needed <= SHARE * free:
        return generator
    say(
        f"memory is short: a slice needs about {needed / 1e9:.1f} GB at once, and {free / 1e9:.1f} GB are available; "
        f"computing in tiles of {TILE_PX} pixels"
    )
    return Tiled(generator)


def slice_bytes(generator: Generator, volume: Volume, target: Target) -> int:
    """Return about how much memory the largest slice of a target takes at once."""
    across = {plane: volume.axes(plane)[0] for plane in PLANES}
    old, new = volume.data.shape, target.shape
    sides = [[max(old[axis], new[axis]) for axis in range(3) if axis != across[plane]] for plane in PLANES]
    if new[across[target.plane]] == old[across[target.plane]]:  # slices of one plane alone, on the LR grid
        sides = [[old[axis] for axis in range(3) if axis != across[target.plane]]]
    pixels = max(rows * columns for rows, columns in sides)
    return int(pixels * generator.upscale.in_channels * FLOAT_BYTES * MAPS_AT_ONCE)


def free_bytes(device: torch.device) -> int | None:
    """Return the memory available on a device; None where that is not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return available_bytes() if device.type == "cpu" else None


def _tiles(height: int, width: int, side: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield top, left, bottom and right of the tiles of an image, row by row; they do not overlap."""
    for top, left in product(range(0, height, side), range(0, width, side)):
        yield top, left, min(top + side, height), min(left + side, width)

r"""The kernels of meta-upscale for one scale, ready for products without gradients, and kept between calls.

- `BlockKernels`: the kernels of a scale p / q repeat every block of q x q cells. Cells along a row are taken in
  groups of g, which read g + 2 columns of features; a kernel of 3 columns is laid at its cell among them, and the
  rest of its row is 0. That wastes products, and makes matrices that are worth calling a matrix product for. All
  pixels that read a row of features, in three rows of cells, are rows of one matrix: features are read once.
- `UnitKernels`: where there would be a kernel for every pixel, none is made. The prediction is linear in its hidden
  units, so their products with the features are made once per cell, and a pixel is a sum over units. Of all positions
  in a cell, many units are positive everywhere or nowhere: the former are three linear functions of the position
  together, the latter are left out, exactly. About half of 256 remain.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from metasr.models.meta_upscale import MetaUpscale
from metasr.models.positions import AxisPositions, fractions, mean_inverse_scale, repeated

KEPT_SCALES = 8
# Predicting more kernels than this for one image costs more than to do without.
FEW_KERNELS = 4096
# A product with a matrix of n rows takes about as long as n + this many rows would at full speed (AVX2).
ROWS_OF_OVERHEAD = 12
# A block of n rows of cells reads n + 2: periods with fewer are taken together.
MIN_ROWS = 4


@dataclass(frozen=True)
class BlockKernels:
    """The kernels of a scale whose period is short, or worth it.

    Attributes:
        rows: Positions along the rows of the image, of several periods where one has few cells.
        columns: Positions along the columns: those of several periods, if a period has fewer cells than a window.
        group_cells: g, the cells of a group.
        matrices: For each of the q + k - 1 rows of features that a block reads, what the pixels that read it multiply
            it with: `[groups, pixels, (g + k - 1) * C]`, pixels sorted by row, slot in the group and channel.
        first: The first of those pixels among all `p_y * slots * out` of a group.
        slots: Most pixels that a group has in a row.
        kept: Which of a block's `groups * p_y * slots` products are output pixels, `[p_y * p_x]`.
    """

    rows: AxisPositions
    columns: AxisPositions
    group_cells: int
    matrices: tuple[Tensor, ...]
    first: tuple[int, ...]
    slots: int
    kept: Tensor


@dataclass(frozen=True)
class UnitKernels:
    """The hidden units of a scale, for sums over units.

    Attributes:
        filters: `[(units + 3) * out, C, k, k]`: of the units that bend, then a constant, and the slopes along rows
            and columns.
        row: Slopes of the bending units along rows, `[units]`.
        column: Along columns.
        offset: Their values at position 0.
    """

    filters: Tensor
    row: Tensor
    column: Tensor
    offset: Tensor


class Scratch:
    """Memory for what lies between, used again by the next call: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def empty(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return a tensor of a shape, with the type and on the device of `like`, and whatever numbers are in it."""
        needed, buffer = math.prod(shape), self._buffers.get(name)
        if buffer is None or len(buffer) < needed or (buffer.device, buffer.dtype) != (like.device, like.dtype):
            buffer = self._buffers[name] = like.new_empty(needed)
        return buffer[:needed].view(shape)


class Kept:
    """The kernels of the scales used last, kept between calls with the same weights.

    Make one for each generator, and a new one when its weights change. Not for several threads at once.

    Args:
        max_kernels: Up to how many distinct kernels a scale's are predicted; above, sums over hidden units take their
            place. Each takes some 3 kB. Many images of one size are worth many.
    """

    def __init__(self, max_kernels: int = FEW_KERNELS) -> None:
        self.max_kernels = max_kernels
        self.scratch = Scratch()
        self._kernels: OrderedDict[tuple[AxisPositions, AxisPositions], BlockKernels | UnitKernels] = OrderedDict()

    def kernels(
        self, layer: MetaUpscale, rows: AxisPositions, columns: AxisPositions, like: Tensor
    ) -> BlockKernels | UnitKernels:
        """Return the kernels of a scale, on the device of `like`."""
        key = rows, columns
        if key not in self._kernels:
            make = block_kernels if rows.period * columns.period <= self.max_kernels else unit_kernels
            self._kernels[key] = make(layer, rows, columns, like)
            while len(self._kernels) > KEPT_SCALES:
                self._kernels.popitem(last=False)
        self._kernels.move_to_end(key)
        return self._kernels[key]


def block_kernels(layer: MetaUpscale, rows: AxisPositions, columns: AxisPositions, like: Tensor) -> BlockKernels:
    """Predict the distinct kernels of a scale, and lay them into the windows of groups of cells."""
    side, channels, out = layer.kernel_size, layer.in_channels, layer.out_channels
    device = like.device
    hidden = layer.hidden_units(*fractions(like, rows, columns), mean_inverse_scale(rows, columns))
    kernels = (layer.output_gain * layer.kernel(hidden)).unflatten(-1, (out, channels, side, side))
    wide = repeated(columns, -(-(side + 1) // columns.cells))
    tall = repeated(rows, -(-MIN_ROWS // rows.cells))
    kernels = kernels.repeat(tall.period // rows.period, wide.period // columns.period, 1, 1, 1, 1)

    group_cells = _group_cells(tall, wide, layer)
    num_groups = -(-wide.cells // group_cells)
    cell = torch.tensor(wide.cell, device=device)
    group = cell // group_cells
    sizes = torch.bincount(group, minlength=num_groups)
    slot = torch.arange(wide.period, device=device) - (sizes.cumsum(0) - sizes)[group]
    slots = int(sizes.max())

    laid = kernels.new_zeros(side, num_groups, tall.period, slots, out, group_cells + side - 1, channels)
    for column in range(side):
        # [p_y, p_x, out, C, k] to [p_x, k, p_y, out, C]: indexed dimensions that are not side by side come first.
        laid[:, group, :, slot, :, cell % group_cells + column] = kernels[..., column].permute(1, 4, 0, 2, 3)
    matrices, first = _by_line(laid, tall)
    row = torch.arange(tall.period, device=device)
    kept = (group * tall.period + row[:, None]) * slots + slot
    return BlockKernels(tall, wide, group_cells, matrices, first, slots, kept.flatten())


def _by_line(laid: Tensor, rows: AxisPositions) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Sort kernels `[k, groups, p_y, slots, out, g + k - 1, C]` by the row of features that they multiply.

    Returns:
        `matrices` and `first` of `BlockKernels`.
    """
    side, pixels_of_row = len(laid), laid.shape[3] * laid.shape[4]
    matrices, first = [], []
    for line in range(rows.cells + side - 1):
        reading = [i for i, cell in enumerate(rows.cell) if 0 <= line - cell < side]
        kernel_row = [line - rows.cell[i] for i in reading]
        # [pixel rows, groups, slots, out, g + k - 1, C]: what is indexed comes first.
        matrices.append(laid[kernel_row, :, reading].transpose(0, 1).flatten(4).flatten(1, 3))
        first.append(reading[0] * pixels_of_row if reading else 0)
    return tuple(matrices), tuple(first)


def _group_cells(rows: AxisPositions, columns: AxisPositions, layer: MetaUpscale) -> int:
    """Return how many cells are best taken together: few waste products with zeros, many make larger matrices."""
    reach = layer.kernel_size - 1
    lines = layer.kernel_size * rows.cells / (rows.cells + reach)
    pixels = lines * rows.period / rows.cells * columns.period / columns.cells * layer.out_channels

    def cost(cells: int) -> float:
        return -(-columns.cells // cells) * (cells + reach) * (cells * pixels + ROWS_OF_OVERHEAD)

    return min(range(1, columns.cells - reach + 1), key=cost)


def unit_kernels(layer: MetaUpscale, rows: AxisPositions, columns: AxisPositions, like: Tensor) -> UnitKernels:
    """Sort the hidden units into those that bend within a cell, those that are positive everywhere, and the rest."""
    slopes = layer.position.weight
    offset = layer.position.bias + slopes[:, 2] * mean_inverse_scale(rows, columns)
    corners = offset + torch.stack([y * slopes[:, 0] + x * slopes[:, 1] for y in (0, 1) for x in (0, 1)])
    positive = (corners >= 0).all(dim=0)
    bending = ~positive & (corners > 0).any(dim=0)
    weights = layer.kernel.weight.t()
    straight = torch.stack([offset, slopes[:, 0], slopes[:, 1]])[:, positive] @ weights[positive]
    straight[0] += layer.kernel.bias
    filters = layer.output_gain * torch.cat([weights[bending], straight])
    filters = filters.view(-1, layer.in_channels, layer.kernel_size, layer.kernel_size).to(like)
    return UnitKernels(filters, slopes[bending, 0], slopes[bending, 1], offset[bending])

r"""Meta-upscale without gradients: any window of the image, from the features under it alone.

Two forms, and the shorter period takes the first:

- `BlockKernels`: the kernels of a scale p / q repeat every block of q x q cells. Features lie channels last, sorted
  by their row in the block, so that the windows of g neighbouring cells are rows of a matrix at a constant stride,
  and nothing is unfolded. A row of the block is one matrix product for each row of the kernels and each group of g
  cells; the g + 2 columns of a window hold 3 of each kernel, and zeros.
- `UnitKernels`: where there would be a kernel for every pixel, none is made. The prediction is linear in its hidden
  units, so their products with the features are made once per cell, and a pixel is a sum over units. Of all positions
  in a cell, many units are positive everywhere or nowhere: the former are three linear functions of the position
  together, the latter are left out, exactly. About half of 256 remain.

Both depend on weights and scale alone, and are kept between calls in a `Kept`.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metasr.models.meta_upscale import MetaUpscale
from metasr.models.positions import AxisPositions, axis_positions, fractions, mean_inverse_scale

MAX_DISTINCT_KERNELS = 4096
GROUP_CELLS = 5
KEPT_SCALES = 8


class Window(NamedTuple):
    """A part of an output image, in its pixels.

    Attributes:
        top: First row.
        left: First column.
        height: Number of rows, at least 1.
        width: Number of columns, at least 1.
    """

    top: int
    left: int
    height: int
    width: int


class Group(NamedTuple):
    """Neighbouring cells of a row of a block, and the output pixels of the block that fall into them."""

    cells: range
    pixels: range


class BlockKernels(NamedTuple):
    """The kernels of a scale with a short period.

    Attributes:
        rows: Positions along the rows.
        columns: Positions along the columns.
        groups: Groups of cells of a row of the block.
        filters: For each row of cells of a block its output rows, and for each group the matrix
            `[kernel rows, window cells * C, output rows * pixels * out]`.
    """

    rows: AxisPositions
    columns: AxisPositions
    groups: list[Group]
    filters: list[tuple[range, list[Tensor]]]


class UnitKernels(NamedTuple):
    """The hidden units of a scale, for sums over units.

    Attributes:
        filters: `[units * out, C, k, k]`: the units that bend, then a constant, and the slopes along both axes.
        row: Slopes of the bending units along rows, `[units]`.
        column: Along columns.
        offset: Their values at position 0.
    """

    filters: Tensor
    row: Tensor
    column: Tensor
    offset: Tensor


class Kept:
    """The kernels of the scales used last, kept between calls with the same weights.

    Make one for each generator, and a new one when its weights change.
    """

    def __init__(self) -> None:
        self._kernels: OrderedDict[tuple[AxisPositions, AxisPositions], BlockKernels | UnitKernels] = OrderedDict()

    def kernels(
        self, layer: MetaUpscale, rows: AxisPositions, columns: AxisPositions, like: Tensor
    ) -> BlockKernels | UnitKernels:
        """Return the kernels of a scale, on the device of `like`."""
        key = rows, columns
        if key not in self._kernels:
            short = rows.period * columns.period <= MAX_DISTINCT_KERNELS
            make = block_kernels if short else unit_kernels
            self._kernels[key] = make(layer, rows, columns, like)
            while len(self._kernels) > KEPT_SCALES:
                self._kernels.popitem(last=False)
        self._kernels.move_to_end(key)
        return self._kernels[key]


@torch.inference_mode()
def upscale_window(
    layer: MetaUpscale, features: Tensor, size: tuple[int, int], window: Window, kept: Kept | None = None
) -> Tensor:
    """Return a window `[N, out_channels, height, width]` of the image that `layer` makes of `features`.

    Args:
        layer: The weights.
        features: LR feature maps `[N, C, h, w]`; only those under the window are read.
        size: Height and width of the whole output in pixels.
        window: Inside that image.
        kept: Kernels of earlier calls.
    """
    features = features.to(layer.kernel.weight.dtype)
    rows, columns = axis_positions(features.shape[2], size[0]), axis_positions(features.shape[3], size[1])
    kernels = (kept or Kept()).kernels(layer, rows, columns, features)
    with torch.autocast(features.device.type, enabled=False):
        if isinstance(kernels, BlockKernels):
            return _blocks(layer, features, window, kernels)
        return _units(layer, features, size, window, kernels)


def block_kernels(layer: MetaUpscale, rows: AxisPositions, columns: AxisPositions, like: Tensor) -> BlockKernels:
    """Predict the distinct kernels of a scale, and lay them into the windows of groups of cells."""
    side, channels = layer.kernel_size, layer.in_channels
    hidden = layer.hidden_units(*fractions(like, rows, columns), mean_inverse_scale(rows, columns))
    kernels = layer.output_gain * layer.kernel(hidden)
    kernels = kernels.unflatten(-1, (layer.out_channels, channels, side, side)).permute(4, 5, 3, 0, 1, 2)
    groups = [
        Group(cells, pixels)
        for start in range(0, columns.cells, GROUP_CELLS)
        if (pixels := _pixels(columns, cells := range(start, min(start + GROUP_CELLS, columns.cells))))
    ]
    filters = []
    for cell in range(rows.cells):
        if not (lines := _pixels(rows, range(cell, cell + 1))):
            continue
        matrices = []
        for cells, pixels in groups:
            matrix = kernels.new_zeros(
                side, len(cells) + side - 1, channels, len(lines), len(pixels), layer.out_channels
            )
            for i, pixel in enumerate(pixels):
                first = columns.cell[pixel] - cells.start
                matrix[:, first : first + side, :, :, i] = kernels[:, :, :, lines.start : lines.stop, pixel]
            matrices.append(matrix.flatten(3).flatten(1, 2))
        filters.append((lines, matrices))
    return BlockKernels(rows, columns, groups, filters)


def _pixels(axis: AxisPositions, cells: range) -> range:
    """Return the output pixels of a period that fall into neighbouring cells."""
    found = [pixel for pixel, cell in enumerate(axis.cell) if cell in cells]
    return range(found[0], found[-1] + 1) if found else range(0)


def _blocks(layer: MetaUpscale, features: Tensor, window: Window, kernels: BlockKernels) -> Tensor:
    rows, columns = kernels.rows, kernels.columns
    blocks_y = range(window.top // rows.period, -(-(window.top + window.height) // rows.period))
    blocks_x = range(window.left // columns.period, -(-(window.left + window.width) // columns.period))
    lines, width = _sorted_lines(features, layer.kernel_size, (blocks_y, rows.cells), (blocks_x, columns.cells))
    batch, out = features.shape[0], layer.out_channels
    num_windows, step = len(blocks_y) * batch * width, columns.cells * layer.in_channels
    image = features.new_empty(batch, out, len(blocks_y), rows.period, len(blocks_x), columns.period)
    for place, (output_rows, matrices) in zip(sorted(set(rows.cell)), kernels.filters, strict=True):
        for (cells, pixels), matrix in zip(kernels.groups, matrices, strict=True):
            first = cells.start * layer.in_channels
            products = _products(lines[place:], first, (num_windows, step), matrix)
            products = products.view(len(blocks_y), batch, width, len(output_rows), len(pixels), out)
            part = image[:, :, :, output_rows.start : output_rows.stop, :, pixels.start : pixels.stop]
            part.copy_(products[:, :, : len(blocks_x)].permute(1, 5, 0, 3, 2, 4))
    image = image.flatten(4, 5).flatten(2, 3)
    top, left = window.top - blocks_y.start * rows.period, window.left - blocks_x.start * columns.period
    return image[:, :, top : top + window.height, left : left + window.width]


def _products(lines: Tensor, first: int, windows: tuple[int, int], matrix: Tensor) -> Tensor:
    """Multiply windows, `step` numbers apart from `first` on, with a matrix for each row of the kernels; and add.

    Windows overlap where they are longer than they lie apart: they are cut into pieces that do not, because a matrix
    product would copy them.
    """
    num_windows, step = windows
    total = lines.new_empty(num_windows, matrix.shape[2])
    for row, weights in enumerate(matrix):
        for start in range(0, len(weights), step):
            part = weights[start : start + step]
            offset = lines[row].storage_offset() + first + start
            piece = lines.as_strided((num_windows, len(part)), (step, 1), offset)
            torch.addmm(total, piece, part, beta=0 if row == start == 0 else 1, out=total)
    return total


def _sorted_lines(
    features: Tensor, side: int, blocks_y: tuple[range, int], blocks_x: tuple[range, int]
) -> tuple[Tensor, int]:
    """Return the rows of cells that blocks read, sorted by their place in a block, and the width of a row in blocks.

    The first dimension is the place, q + k - 1 of them; the second holds, channels last, for each row of blocks and
    each image the blocks from the column before them on, and as many blocks more as their last windows need. Outside
    the image cells are 0.
    """
    (down, rows), (across, columns) = blocks_y, blocks_x
    batch, channels, _, full_width = features.shape
    reach = side // 2
    width = len(across) - (-2 * reach // columns)
    numbers = len(down) * batch * width * columns * channels
    # The last window of all may end beyond the last block.
    lines = features.new_zeros(rows + 2 * reach, numbers + 2 * reach * channels)
    blocks = lines[:, :numbers].view(-1, len(down), batch, width * columns, channels)
    left = across.start * columns - reach
    first, last = max(0, left), min(full_width, across.stop * columns + reach)
    cells = features.permute(2, 0, 3, 1)[:, :, first:last]
    for place in range(rows + 2 * reach):
        row = down.start * rows + place - reach
        skipped = -(row // rows) if row < 0 else 0
        source = cells[row + skipped * rows :: rows][: max(0, len(down) - skipped)]
        blocks[place, skipped : skipped + len(source), :, first - left : last - left] = source
    return lines, width


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


def _units(
    layer: MetaUpscale, features: Tensor, size: tuple[int, int], window: Window, kernels: UnitKernels
) -> Tensor:
    reach, out = layer.kernel_size // 2, layer.out_channels
    cell_y, fraction_y = _project(features.shape[2], size[0], window.top, window.height, features)
    cell_x, fraction_x = _project(features.shape[3], size[1], window.left, window.width, features)
    top, left = int(cell_y[0]), int(cell_x[0])
    below, right = int(cell_y[-1]) + 1, int(cell_x[-1]) + 1
    part = features[:, :, max(0, top - reach) : below + reach, max(0, left - reach) : right + reach]
    padding = (
        max(0, reach - left),
        max(0, right + reach - features.shape[3]),
        max(0, reach - top),
        max(0, below + reach - features.shape[2]),
    )
    products = functional.conv2d(functional.pad(part, padding), kernels.filters)
    products = products.unflatten(1, (-1, out)).permute(3, 0, 4, 2, 1).contiguous()  # [rows, N, columns, out, units]
    image = features.new_empty(len(features), out, window.height, window.width)
    units = kernels.offset + fraction_x[:, None] * kernels.column
    bend = units.shape[1]
    hidden = features.new_ones(window.width, bend + 3)
    hidden[:, -1] = fraction_x
    columns = cell_x - left
    line, cells = -1, products[:0]
    for i, row in enumerate((cell_y - top).tolist()):
        if row != line:
            line, cells = row, products[row].index_select(1, columns)
        torch.add(units, fraction_y[i] * kernels.row, out=hidden[:, :bend]).relu_()
        hidden[:, bend + 1] = fraction_y[i]
        image[:, :, i] = (cells * hidden[:, None]).sum(dim=-1).transpose(1, 2)
    return image


def _project(lr_size: int, hr_size: int, start: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the LR cell of each pixel of a part of an axis, and where in that cell it lies, from integers."""
    numerator = torch.arange(start, start + length, device=like.device) * lr_size
    return numerator // hr_size, (numerator % hr_size).to(like.dtype) / hr_size

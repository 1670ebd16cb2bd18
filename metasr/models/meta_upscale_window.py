"""Meta-upscale without gradients: any window of the image, from the features under it alone.

`MetaUpscale` has the forms that training takes. These are faster, with the kernels of `meta_upscale_kernels.py`:

- shuffled, at integer scales: the ordinary convolution and pixel shuffle of training, of the cells under the window;
- blocks: features lie channels last, sorted by their row in a block of the period, so that the windows of groups of
  cells are rows of a matrix at a constant stride: nothing is unfolded. For each row of features that a block reads
  it is one batched matrix product, of the pixels of the groups that read it with the windows of all blocks;
- units: products of the features with the hidden units, then sums over units for each pixel.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metasr.models.meta_upscale import MetaUpscale
from metasr.models.meta_upscale_kernels import BlockKernels, Scratch, UnitKernels
from metasr.models.meta_upscale_kernels import Kept as Kept
from metasr.models.positions import AxisPositions, axis_positions

# Up to so many cells of a period, a filter's zeros around each kernel cost less than its matrix product does more.
SHORT_CELLS = 2


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


class Span(NamedTuple):
    """Blocks of the period along an axis that a window lies in.

    Attributes:
        first: The first of them.
        number: How many.
        cells: LR cells of each.
        pixels: Output pixels of each.
    """

    first: int
    number: int
    cells: int
    pixels: int

    @classmethod
    def of(cls, start: int, length: int, cells: int, pixels: int) -> "Span":
        """Return the blocks that hold the output pixels from `start` on."""
        first = start // pixels
        return cls(first, -(-(start + length) // pixels) - first, cells, pixels)

    def with_reach(self, reach: int) -> tuple[int, int]:
        """Return the first and the last block, exclusive, of those that hold also `reach` cells around these."""
        more = -(-reach // self.cells)
        return max(0, self.first - more), self.first + self.number + more


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
    with torch.autocast(features.device.type, enabled=False):
        features = features.to(layer.kernel.weight.dtype)
        rows, columns = axis_positions(features.shape[2], size[0]), axis_positions(features.shape[3], size[1])
        if max(rows.cells, columns.cells) <= SHORT_CELLS:
            return _shuffled(layer, features, window, rows, columns)
        kept = kept or Kept()
        kernels = kept.kernels(layer, rows, columns, features)
        if isinstance(kernels, BlockKernels):
            return _blocks(layer, features, window, kernels, kept.scratch)
        return _units(layer, features, size, window, kernels)


def _shuffled(
    layer: MetaUpscale, features: Tensor, window: Window, rows: AxisPositions, columns: AxisPositions
) -> Tensor:
    down = Span.of(window.top, window.height, rows.cells, rows.period)
    across = Span.of(window.left, window.width, columns.cells, columns.period)
    (top, bottom), (left, right) = (span.with_reach(layer.kernel_size // 2) for span in (down, across))
    part = features[:, :, top * rows.cells : bottom * rows.cells, left * columns.cells : right * columns.cells]
    # Pixels at the edges of the part lack what lies beyond it. Where that is more of the image, they are cut off.
    image = layer.strided(part, rows, columns)
    top, left = window.top - top * rows.period, window.left - left * columns.period
    return image[:, :, top : top + window.height, left : left + window.width]


def _blocks(layer: MetaUpscale, features: Tensor, window: Window, kernels: BlockKernels, scratch: Scratch) -> Tensor:
    rows, columns = kernels.rows, kernels.columns
    down = Span.of(window.top, window.height, rows.cells, rows.period)
    across = Span.of(window.left, window.width, columns.cells, columns.period)
    batch, out = features.shape[0], layer.out_channels
    lines, width = _sorted_lines(features, layer.kernel_size, down, across, scratch)
    products = _products(lines, (down, batch * width, columns.cells * layer.in_channels), kernels, scratch)
    if len(kernels.kept) * out < len(products) or len(kernels.matrices[0]) > 1:
        products = products.unflatten(0, (-1, out))[kernels.kept]
    # [p_y, p_x, out, blocks_y, N, width] to [N, out, blocks_y, p_y, blocks_x, p_x]
    pixels = products.view(rows.period, columns.period, out, down.number, batch, width)[..., : across.number]
    image = features.new_empty(batch, out, down.number, rows.period, across.number, columns.period)
    image.copy_(pixels.permute(4, 2, 3, 0, 5, 1))
    image = image.flatten(4, 5).flatten(2, 3)
    top, left = window.top - down.first * rows.period, window.left - across.first * columns.period
    return image[:, :, top : top + window.height, left : left + window.width]


def _products(lines: Tensor, spans: tuple[Span, int, int], kernels: BlockKernels, scratch: Scratch) -> Tensor:
    """Multiply the kernels with the windows of all blocks, `[products, num_windows]`.

    Args:
        lines: What `_sorted_lines` returns.
        spans: Blocks along the rows, blocks beside one another in a line (of all images), numbers of a block.
        kernels: Of the scale.
        scratch: Memory for the result.
    """
    down, beside, step = spans
    num_windows, rows = down.number * beside, kernels.rows
    groups, _, length = kernels.matrices[0].shape
    pixels = max(first + matrix.shape[1] for first, matrix in zip(kernels.first, kernels.matrices, strict=True))
    products = scratch.empty("products", (groups, pixels, num_windows), lines).zero_()
    shift = kernels.group_cells * step // kernels.columns.cells
    for place, (matrix, first) in enumerate(zip(kernels.matrices, kernels.first, strict=True)):
        if not matrix.shape[1]:
            continue  # where an image shrinks, no pixel may read a row
        blocks_below, line = divmod(place, rows.cells)
        start = lines[line].storage_offset() + blocks_below * beside * step
        windows = lines.as_strided((groups, length, num_windows), (shift, 1, step), start)
        result = products[:, first : first + matrix.shape[1]]
        torch.baddbmm(result, matrix, windows, out=result)
    return products.flatten(0, 1)


def _sorted_lines(features: Tensor, side: int, down: Span, across: Span, scratch: Scratch) -> tuple[Tensor, int]:
    """Return the rows of cells that blocks read, sorted by their place in a block, and the width of a row in blocks.

    The first dimension is the place; the second holds, channels last, for each row of blocks and each image the
    blocks from the column before them on, and as many blocks more as their last windows need. Rows begin above the
    first block, and rows of blocks follow for windows that end in the next block. Outside the image cells are 0.
    """
    batch, channels, _, full_width = features.shape
    reach = side // 2
    width = across.number - (-2 * reach // across.cells)
    below = (down.cells + 2 * reach - 1) // down.cells
    numbers = (down.number + below) * batch * width * across.cells * channels
    # The last group of cells may end beyond the last block.
    spare = (across.cells + 2 * reach) * channels
    lines = scratch.empty("lines", (down.cells, numbers + spare), features)
    lines[:, numbers:] = 0
    blocks = lines[:, :numbers].view(down.cells, down.number + below, batch, width * across.cells, channels)
    left = across.first * across.cells - reach
    first, last = max(0, left), min(full_width, (across.first + across.number) * across.cells + reach)
    cells = features.permute(2, 0, 3, 1)[:, :, first:last]
    blocks[:, :, :, : first - left] = 0
    blocks[:, :, :, last - left :] = 0
    stop = (down.first + down.number) * down.cells + reach
    for place in range(down.cells):
        row = down.first * down.cells + place - reach
        skipped = -(row // down.cells) if row < 0 else 0
        source = cells[row + skipped * down.cells : stop : down.cells]
        used = blocks[place, :, :, first - left : last - left]
        used[:skipped] = 0
        used[skipped : skipped + len(source)] = source
        used[skipped + len(source) :] = 0
    return lines, width


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
    padded = functional.pad(part, padding).contiguous(memory_format=torch.channels_last)
    products = functional.conv2d(padded, kernels.filters)
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

r"""Meta-upscale: a last layer whose kernels are predicted from where each output pixel falls.

Output pixel (i, j) reads the 3x3 window of LR features around cell (floor(i / r), floor(j / r)) through a kernel that
a small network predicts from (frac(i / r), frac(j / r), 1 / r), in this order: row, column, inverse scale. The first
output pixel is aligned with the corner of the first cell; there is no half-pixel shift. Where the axes have different
scales, each has its own i / r, and 1 / r is that of their geometric mean. `meta_upscale_reference.py` computes this
pixel by pixel.

The scale of an axis is the exact fraction r = HR size / LR size = p / q in lowest terms. Cell and fraction then
repeat after p output pixels (q cells), so that only p_y * p_x different kernels exist, however large the image. There
are three exact ways to compute the image, and `MetaUpscale` takes the cheapest:

- `strided` predicts each distinct kernel once, lays it at its cell in the window of a block of q x q cells, and
  applies all of them as one convolution with stride q. This is for short periods; at integer scales it is an ordinary
  convolution and a pixel shuffle;
- `_blockwise` applies the same kernels to every cell of the blocks as a batched product, without the zeros around
  them. This is for long periods on few pixels;
- `_swapped` never makes a kernel. The prediction is linear in its hidden units, so the products of the features with
  the weights of each hidden unit are made once per LR cell, and an output pixel is a sum over hidden units. This is
  for scales with hardly any period (197 -> 493 pixels), where there would be a kernel for every pixel.

Source: Hu et al. 2019, section 3; paper, Fig. 3.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from metasr.models.positions import (
    AxisPositions,
    all_positions,
    axis_positions,
    fractions,
    kept_slots,
    mean_inverse_scale,
    slots,
    taps,
)

MAX_DISTINCT_KERNELS = 4096
CHUNK_BYTES = 64 * 2**20


class MetaUpscale(nn.Module):
    """Upscale features to an image of any size with predicted kernels.

    Args:
        in_channels: Feature maps of the input.
        out_channels: Channels of the image.
        hidden: Hidden units of the weight-prediction network.
        kernel_size: Side of the predicted kernels (odd).
        output_gain: Constant factor on the predicted kernels. With 1 the first image is some twenty times too large,
            and an Adam step moves it far, because every weight is shared by all kernels; 0.02 corrects both.
    """

    def __init__(
        self,
        in_channels: int = 64,
        out_channels: int = 1,
        *,
        hidden: int = 256,
        kernel_size: int = 3,
        output_gain: float = 0.02,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.output_gain = output_gain
        self.position = nn.Linear(3, hidden)
        self.kernel = nn.Linear(hidden, out_channels * in_channels * kernel_size**2)
        nn.init.zeros_(self.kernel.bias)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the image `[N, out_channels, *size]` of `features` `[N, in_channels, h, w]`.

        Computed in the precision of the weights also under autocast: bfloat16 cannot tell positions apart.

        Args:
            features: LR feature maps.
            size: Height and width of the output in pixels; the scale of each axis follows from it.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._upscale(features.to(self.kernel.weight.dtype), size)

    def _upscale(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        rows = axis_positions(features.shape[2], size[0])
        columns = axis_positions(features.shape[3], size[1])
        if rows.period * columns.period > MAX_DISTINCT_KERNELS:
            return self._swapped(features, rows, columns)
        if self._is_short(features, rows, columns):
            return self.strided(features, rows, columns)
        return self._blockwise(features, rows, columns)

    def hidden_units(self, rows: Tensor, columns: Tensor, inverse_scale: float) -> Tensor:
        """Return the hidden units `[len(rows), len(columns), hidden]` for fractions along the two axes."""
        grid = torch.stack(
            [
                rows[:, None].expand(-1, len(columns)),
                columns[None, :].expand(len(rows), -1),
                rows.new_full((len(rows), len(columns)), inverse_scale),
            ],
            dim=-1,
        )
        return functional.relu(self.position(grid))

    def _kernels(self, features: Tensor, rows: AxisPositions, columns: AxisPositions) -> Tensor:
        """Predict the distinct kernels, `[p_y, p_x, out, C*k*k]`."""
        hidden = self.hidden_units(*fractions(features, rows, columns), mean_inverse_scale(rows, columns))
        kernels: Tensor = (self.output_gain * self.kernel(hidden)).unflatten(-1, (self.out_channels, -1))
        return kernels

    def _is_short(self, features: Tensor, rows: AxisPositions, columns: AxisPositions) -> bool:
        """Return whether the filters of `strided` are fewer numbers than the windows that `_blockwise` copies."""
        reach = self.kernel_size - 1
        filters = rows.period * columns.period * (rows.cells + reach) * (columns.cells + reach) * self.out_channels
        windows = features.shape[0] * features.shape[2] * features.shape[3] * self.kernel_size**2
        fits = filters * self.in_channels * features.element_size() <= CHUNK_BYTES
        return filters <= windows and fits

    def strided(self, features: Tensor, rows: AxisPositions, columns: AxisPositions) -> Tensor:
        """Convolve with stride q, a filter for each of the p_y * p_x pixels of a block, and shuffle the pixels."""
        size, device = self.kernel_size, features.device
        kernels = self._kernels(features, rows, columns).unflatten(-1, (self.in_channels, size, size))
        window = rows.cells + size - 1, columns.cells + size - 1
        filters = kernels.new_zeros(rows.period, columns.period, *window, self.out_channels, self.in_channels)
        pixel_y, pixel_x = torch.arange(rows.period, device=device), torch.arange(columns.period, device=device)
        tap_y, tap_x = taps(rows, size, device), taps(columns, size, device)
        filters[pixel_y[:, None, None, None], pixel_x[:, None, None], tap_y[:, None, :, None], tap_x[:, None]] = (
            kernels.permute(0, 1, 4, 5, 2, 3)
        )
        pixels = functional.conv2d(
            features,
            filters.permute(4, 0, 1, 5, 2, 3).flatten(0, 2),
            stride=(rows.cells, columns.cells),
            padding=size // 2,
        )
        blocks: Tensor = pixels.unflatten(1, (self.out_channels, rows.period, columns.period))
        return blocks.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)

    def _blockwise(self, features: Tensor, rows: AxisPositions, columns: AxisPositions) -> Tensor:
        """Apply the p_y * p_x distinct kernels: one batched product over the q_y * q_x cells of a block."""
        slots_y, slots_x = slots(rows, features.device), slots(columns, features.device)
        # [q_y, m_y, q_x, m_x, out, C*k*k] -> [q_y*q_x, m_y*m_x*out, C*k*k]; m = ceil(r): output pixels of a cell.
        kernels = self._kernels(features, rows, columns)[slots_y][:, :, slots_x]
        kernels = kernels.permute(0, 2, 1, 3, 4, 5).flatten(2, 4).flatten(0, 1)

        padding = self.kernel_size // 2
        padded = functional.pad(features, (padding,) * 4)
        block_rows = features.shape[2] // rows.cells
        step = self._block_rows_per_chunk(features, rows)
        chunks = []
        for start in range(0, block_rows, step):
            stop = min(start + step, block_rows)
            window = padded[:, :, start * rows.cells : stop * rows.cells + 2 * padding]
            chunks.append(self._block_rows(window, kernels, rows, columns))
        return torch.cat(chunks, dim=2) if len(chunks) > 1 else chunks[0]

    def _block_rows(self, window: Tensor, kernels: Tensor, rows: AxisPositions, columns: AxisPositions) -> Tensor:
        """Return the output rows of whole blocks: `[N, out, blocks_y * p_y, blocks_x * p_x]`."""
        batch = window.shape[0]
        blocks_y = (window.shape[2] - self.kernel_size + 1) // rows.cells
        blocks_x = (window.shape[3] - self.kernel_size + 1) // columns.cells
        patches = functional.unfold(window, self.kernel_size)
        patches = patches.view(batch, -1, blocks_y, rows.cells, blocks_x, columns.cells)
        patches = patches.permute(3, 5, 1, 0, 2, 4).reshape(
            rows.cells * columns.cells, -1, batch * blocks_y * blocks_x
        )
        pixels = torch.bmm(kernels, patches)
        pixels = pixels.view(
            rows.cells,
            columns.cells,
            -(-rows.period // rows.cells),
            -1,
            self.out_channels,
            batch,
            blocks_y,
            blocks_x,
        )
        # Cells hold ceil(r) slots each; `kept_slots` drops the slots that no output pixel owns.
        pixels = pixels.permute(5, 4, 6, 0, 2, 7, 1, 3)
        pixels = pixels.flatten(3, 4)[:, :, :, kept_slots(rows, window.device)]
        pixels = pixels.flatten(5, 6)[..., kept_slots(columns, window.device)]
        return pixels.flatten(4, 5).flatten(2, 3)

    def _block_rows_per_chunk(self, features: Tensor, rows: AxisPositions) -> int:
        """Return how many rows of blocks to unfold at once, so that the temporary stays near `CHUNK_BYTES`."""
        batch, channels, _, width = features.shape
        bytes_per_row = batch * channels * self.kernel_size**2 * width * features.element_size()
        return max(1, CHUNK_BYTES // (bytes_per_row * rows.cells))

    def _swapped(self, features: Tensor, rows: AxisPositions, columns: AxisPositions) -> Tensor:
        """Sum over hidden units: products with features first (per LR cell), positions last (per output pixel)."""
        filters = self.output_gain * torch.cat([self.kernel.weight.t(), self.kernel.bias[None]])
        filters = filters.view(-1, self.in_channels, self.kernel_size, self.kernel_size)
        products = functional.conv2d(features, filters, padding=self.kernel_size // 2)
        products = products.unflatten(1, (-1, self.out_channels)).permute(3, 4, 0, 2, 1).contiguous()

        row_cells, row_fractions = all_positions(features, rows, features.shape[2])
        column_cells, column_fractions = all_positions(features, columns, features.shape[3])

        def output_rows(part: slice) -> Tensor:
            hidden = self.hidden_units(row_fractions[part], column_fractions, mean_inverse_scale(rows, columns))
            hidden = functional.pad(hidden, (0, 1), value=1.0)
            cells = products[row_cells[part, None], column_cells]
            return torch.einsum("yxncm,yxm->ncyx", cells, hidden)

        # Of an output row: its gathered products, and its hidden units in each of the three steps that make them.
        numbers_per_pixel = products[0, 0].numel() + 3 * self.position.out_features
        step = max(1, CHUNK_BYTES // (numbers_per_pixel * len(column_cells) * products.element_size()))
        return torch.cat([output_rows(slice(start, start + step)) for start in range(0, len(row_cells), step)], dim=2)

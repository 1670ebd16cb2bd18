"""Where the output pixels of meta-upscale fall on the LR grid, in exact arithmetic."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class AxisPositions:
    """Where the pixels of one output axis fall on the LR grid.

    Attributes:
        period: p, the number of output pixels after which the fractions repeat.
        cells: q, the number of LR cells after which they do.
        cell: LR cell of each of the first p output pixels, integers below q.
        fraction: Offset inside that cell, in cells: [0, 1).
    """

    period: int
    cells: int
    cell: tuple[int, ...]
    fraction: tuple[float, ...]


@lru_cache(maxsize=512)
def axis_positions(lr_size: int, hr_size: int) -> AxisPositions:
    """Return the positions of `hr_size` pixels on `lr_size` cells, in integer arithmetic.

    A floating-point floor(i / r) picks the wrong cell at many scales (2 percent of the pixels at r = 2.7).
    """
    divisor = math.gcd(lr_size, hr_size)
    period, cells = hr_size // divisor, lr_size // divisor
    numerators = [i * cells for i in range(period)]
    return AxisPositions(
        period,
        cells,
        tuple(n // period for n in numerators),
        tuple((n % period) / period for n in numerators),
    )


@lru_cache(maxsize=512)
def repeated(axis: AxisPositions, times: int) -> AxisPositions:
    """Return the positions of several periods as if they were one."""
    offsets = range(0, times * axis.cells, axis.cells)
    cell = tuple(offset + cell for offset in offsets for cell in axis.cell)
    return AxisPositions(times * axis.period, times * axis.cells, cell, times * axis.fraction)


def mean_inverse_scale(rows: AxisPositions, columns: AxisPositions) -> float:
    """Return 1 / r; for different scales of the axes, of their geometric mean."""
    return math.sqrt(rows.cells / rows.period * columns.cells / columns.period)


def fractions(features: Tensor, rows: AxisPositions, columns: AxisPositions) -> tuple[Tensor, Tensor]:
    """Return the fractions of one period along both axes, on the device of the features."""
    return _fraction(rows, features.device), _fraction(columns, features.device)


def all_positions(features: Tensor, axis: AxisPositions, lr_size: int) -> tuple[Tensor, Tensor]:
    """Return cell and fraction of every pixel of an axis, not only of the first period."""
    repeats = lr_size // axis.cells
    offsets = axis.cells * torch.arange(repeats, device=features.device)
    cell = _cell(axis, features.device)
    return (offsets[:, None] + cell).flatten(), _fraction(axis, features.device).repeat(repeats)


def taps(axis: AxisPositions, size: int, device: torch.device) -> Tensor:
    """Return the cells, in a block padded by size // 2, that each pixel of a period reads, `[p, size]`."""
    return _cell(axis, device)[:, None] + torch.arange(size, device=device)


def slots(axis: AxisPositions, device: torch.device) -> Tensor:
    """Return the output pixels of each cell, `[q, ceil(p / q)]`; cells with fewer have zeros at the end."""
    first = _first_pixel(axis, torch.arange(axis.cells + 1, device=device))
    pixel = first[:-1, None] + torch.arange(_width(axis), device=device)
    return pixel * (pixel < first[1:, None])


def kept_slots(axis: AxisPositions, device: torch.device) -> Tensor:
    """Return which of all these slots an output pixel owns, `[p]`."""
    cell = _cell(axis, device)
    return cell * _width(axis) + torch.arange(axis.period, device=device) - _first_pixel(axis, cell)


# Integer arithmetic on the device: a table from here would make a GPU wait, and could not be part of a CUDA graph.


def _cell(axis: AxisPositions, device: torch.device) -> Tensor:
    return torch.arange(axis.period, device=device) * axis.cells // axis.period


def _fraction(axis: AxisPositions, device: torch.device) -> Tensor:
    """Return the fractions in float32. They are divided by a tensor, as a GPU multiplies by 1 / number instead."""
    remainder = torch.arange(axis.period, device=device) * axis.cells % axis.period
    return remainder / torch.full_like(remainder, axis.period)


def _first_pixel(axis: AxisPositions, cell: Tensor) -> Tensor:
    """Return the first output pixel of a cell: ceil(cell p / q)."""
    return (cell * axis.period + axis.cells - 1) // axis.cells


def _width(axis: AxisPositions) -> int:
    return -(-axis.period // axis.cells)

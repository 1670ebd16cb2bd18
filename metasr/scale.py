"""A scale: how many times larger HR is than LR, along rows and along columns."""

import math
import re
from dataclasses import dataclass
from typing import Self

MAX_SCALE = 16.0


@dataclass(frozen=True, order=True)
class Scale:
    """HR size / LR size of each axis, written `2` where both are the same and `1x4` (rows x columns) otherwise.

    Raises:
        ValueError: An axis is not a number from 1 to 16, or nothing is enlarged.
    """

    rows: float
    columns: float

    def __post_init__(self) -> None:
        if not _in_range(self.rows, self.columns) or self.rows == self.columns == 1:
            raise ValueError(_refusal(self))

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the scale that a number, a text such as `2.5` or `1x4`, or a scale stands for.

        Raises:
            ValueError: It stands for none.
        """
        return value if isinstance(value, cls) else cls(*parse_factors(value))

    def __str__(self) -> str:
        rows, columns = f"{self.rows:.12g}", f"{self.columns:.12g}"
        return rows if rows == columns else f"{rows}x{columns}"

    def to_json(self) -> float | str:
        """Return a number where both axes are the same, else the text."""
        return self.rows if self.rows == self.columns else str(self)


def parse_factors(value: object) -> tuple[float, float]:
    """Return the factors of rows and columns, from 1 to 16, that a number or a text such as `1x4` stands for.

    Raises:
        ValueError: It is neither, or a factor is out of range.
    """
    number = r"[0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?|[0-9]+\."
    match = re.fullmatch(rf"\s*({number})(?:\s*x\s*({number}))?\s*", str(value))
    rows, columns = (float(match[1]), float(match[2] or match[1])) if match else (math.nan, math.nan)
    if not _in_range(rows, columns):
        raise ValueError(_refusal(value))
    return rows, columns


def _in_range(*factors: float) -> bool:
    return all(1 <= factor <= MAX_SCALE for factor in factors)  # nan is not


def _refusal(value: object) -> str:
    numbers = f"a number above 1 and up to {MAX_SCALE:g}, such as 2.5"
    return f"{value} is not a scale: give {numbers}, or rows x columns, such as 1x4"


# What the evaluation protocol reports, and the curve between.
REPORTED_SCALES = tuple(Scale(r, r) for r in (1.1, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0))
ALL_SCALES = tuple(Scale(tenths / 10, tenths / 10) for tenths in range(11, 41))

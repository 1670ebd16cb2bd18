"""Numbers of a command line: scales, voxel sizes, and what replaces NaN."""

import argparse
import math
import re
from collections.abc import Sequence
from typing import Literal

from metasr.errors import ConfigError
from metasr.scale import parse_factors

NUMBERS = re.compile(r"-?[\d.]+(?:e-?\d+)?(?:x-?[\d.]+)*|nan|inf", re.IGNORECASE)


def parse_scale(words: Sequence[str]) -> tuple[float, ...]:
    """Return the scales of rows and columns, or of the three axes; 1 leaves an axis as it is.

    Raises:
        ConfigError: They are no such numbers.
    """
    text = "x".join(words).lower()
    parts = text.split("x")
    try:
        return tuple(parse_factors(part)[0] for part in parts) if len(parts) == 3 else parse_factors(text)
    except ValueError as error:
        message = f"argument --scale: {error}, or i x j x k along the axes of the array, such as 2x2x1"
        raise ConfigError("metasr upscale", message, "`metasr upscale --help` explains the arguments") from error


def parse_spacing(words: Sequence[str]) -> tuple[float, float, float]:
    """Return the voxel size along i, j and k; one number is that of all axes.

    Raises:
        ConfigError: They are no such numbers.
    """
    try:
        numbers = [float(word) for part in words for word in part.lower().split("x")]
    except ValueError as error:
        message = f"argument --spacing: {' '.join(words)} is no voxel size in mm"
        raise ConfigError("metasr upscale", message, "`metasr upscale --help` explains the arguments") from error
    if len(numbers) not in (1, 3):
        raise ConfigError(
            f"--spacing of {len(numbers)} numbers", "", "Give one for all axes, or one each for i, j, k"
        )
    return numbers[0], numbers[len(numbers) // 2], numbers[-1]


def parse_nan_to(text: str) -> "float | Literal['background']":
    """Return what replaces NaN; for argparse."""
    if text == "background":
        return "background"
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a finite number nor `background`")
    return number

"""A window of an enlarged slice: which LR pixels it depends on, in exact arithmetic."""

import math
from dataclasses import dataclass, replace

from metasr.scale import MAX_SCALE

MARGIN = 3
"""LR pixels that a window depends on beside those under it: two of bicubic, one of meta-upscale, one to spare."""


@dataclass(frozen=True)
class Part:
    """The LR pixels of an axis that a window needs, and the window among the pixels that come from them.

    Both begin where LR and HR pixels begin together, so positions and scale are those of the whole axis.

    Attributes:
        lr: First and last LR pixel; the last may lie beyond the end of the axis.
        size: HR pixels of this part.
        window: First and last pixel of the window among them.
    """

    lr: tuple[int, int]
    size: int
    window: tuple[int, int]

    @property
    def pixels(self) -> int:
        """How many pixels the window has."""
        return self.window[1] - self.window[0]


@dataclass(frozen=True)
class Span:
    """HR pixels of an axis, from the first up to, not including, the last, at the scale `numerator / denominator`.

    Where the denominator is the length of the axis the numerator is that of the enlarged one.
    """

    numerator: int
    denominator: int
    first: int
    last: int

    @classmethod
    def parse(cls, text: str, length: int) -> "Span":
        """Read `numerator/denominator:first:last`, for an axis of `length` LR pixels.

        Raises:
            ValueError: It is none, the scale is not from 1 to 16, or the pixels are none of the axis.
        """
        scale, first, last = text.split(":")
        numerator, denominator = map(int, scale.split("/"))
        span = cls(numerator, denominator, int(first), int(last))
        if not 0 < denominator <= numerator <= MAX_SCALE * denominator:
            raise ValueError(f"scale {scale} is not from 1 to {MAX_SCALE:g}")
        if not 0 <= span.first < span.last <= -(-length * numerator // denominator):
            raise ValueError(f"pixels {first} to {last} are none of {length} enlarged by {scale}")
        return span

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.last - self.first

    def within(self, lr: tuple[int, int]) -> "Span":
        """Return those that lie in LR pixels from the first up to, not including, the last; maybe none."""
        first = max(self.first, lr[0] * self.numerator // self.denominator)
        last = min(self.last, -(-lr[1] * self.numerator // self.denominator))
        return replace(self, first=first, last=max(first, last))

    def part(self, length: int) -> Part:
        """Return the part of an axis of `length` LR pixels that these depend on."""
        divisor = math.gcd(self.numerator, self.denominator)
        p, q = self.numerator // divisor, self.denominator // divisor
        begin = max(0, (self.first * q // p - MARGIN) // q)
        end = min(-(-length // q), -(-(-(-self.last * q // p) + MARGIN) // q))
        return Part((begin * q, end * q), (end - begin) * p, (self.first - begin * p, self.last - begin * p))

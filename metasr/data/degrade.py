"""Resizing: how LR is made from HR, and the bicubic enlargement that every model is compared with."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

Degrade = Callable[[Tensor, tuple[int, int]], Tensor]


def resize_bicubic(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `[N, C, h, w]` to `[N, C, *size]` with Keys' cubic kernel (a = -0.5) on half-pixel centres.

    When an axis shrinks, the kernel is widened by its scale, so that nothing aliases. This is what Pillow and
    MATLAB's imresize compute, in float and without clipping.

    Source: Keys 1981. The paper does not state its degradation; see `metasr/README.md`.
    """
    return functional.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False)


def truncate_kspace(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Shrink `[N, C, H, W]` to `[N, C, *size]` by keeping its low spatial frequencies, as a coarser scan measures it.

    The image is continued by its mirror image, so that the borders of a patch do not ring, and sampled at half-pixel
    centres: a discrete cosine transform cut to `size`. Where the borders are dark it is the truncated Fourier
    transform. Edges ring (Gibbs), as they do in a scan.

    Args:
        image: Magnitude image.
        size: Height and width, at most those of `image`; the ratio of each axis is any real number.
    """
    rows, columns = (_cosine_resampling(old, new).to(image) for old, new in zip(image.shape[-2:], size, strict=True))
    return rows @ image @ columns.T


@lru_cache(maxsize=128)
def _cosine_resampling(old: int, new: int) -> Tensor:
    """Return `[new, old]`: cosine coefficients of `old` samples, the first `new` of them, back to `new` samples."""
    frequency = torch.arange(min(old, new), dtype=torch.float64)
    analysis = torch.cos(math.pi / old * frequency[:, None] * (torch.arange(old) + 0.5))
    synthesis = torch.cos(math.pi / new * (torch.arange(new) + 0.5)[:, None] * frequency)
    weight = torch.where(frequency == 0, 1.0, 2.0) / old
    return (synthesis * weight @ analysis).float()


DEGRADATIONS: Mapping[str, Degrade] = MappingProxyType({"bicubic": resize_bicubic, "kspace": truncate_kspace})

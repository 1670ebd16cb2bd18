"""Resizing: how LR is made from HR, and the bicubic enlargement that every model is compared with."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Degrade = Callable[[Tensor, tuple[int, int]], Tensor]


@dataclass(frozen=True)
class Degradation:
    """How LR is made from HR: a way to shrink, and noise.

    Attributes:
        kind: `data.degradation` of the settings.
        noise: Standard deviation of each channel of the Rician noise, as a fraction of the intensities' range.
    """

    kind: Literal["bicubic", "kspace", "thick_slices", "bilinear8"] = "bicubic"
    noise: float = 0.0

    def __call__(self, hr: Tensor, size: tuple[int, int], seeds: Sequence[int] | None = None) -> Tensor:
        """Return LR `[N, C, *size]` of `hr` `[N, C, H, W]`.

        Args:
            hr: Intensities in about [0, 1].
            size: Height and width, at most those of `hr`; the ratio of each axis is any real number.
            seeds: A non-negative number for each image, from which its noise follows, on any device and in any
                batch; 0 to N - 1 if not given.
        """
        lr = _SHRINK[self.kind](hr, size)
        return _add_rician_noise(lr, self.noise, range(len(lr)) if seeds is None else seeds) if self.noise else lr


def resize_bicubic(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `[N, C, h, w]` to `[N, C, *size]` with Keys' cubic kernel (a = -0.5) on half-pixel centres.

    When an axis shrinks, the kernel is widened by its scale, so that nothing aliases. This is what Pillow and
    MATLAB's imresize compute, in float and without clipping.

    Source: Keys 1981. The paper does not state its degradation; see `metasr/README.md`.
    """
    return functional.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False)


def resize_bicubic_window(image: Tensor, size: tuple[int, int], window: tuple[int, int, int, int]) -> Tensor:
    """Return a part `[N, C, height, width]` of `resize_bicubic(image, size)`, from the pixels that it depends on.

    Args:
        image: `[N, C, h, w]`.
        size: Of the whole result.
        window: Top, left, height, width of the part, in pixels of the result.
    """
    top, left, height, width = window
    rows, first, last = _bicubic_part(image.shape[-2], size[0], top, height)
    columns, left, right = _bicubic_part(image.shape[-1], size[1], left, width)
    return rows.to(image) @ (image[..., first:last, left:right] @ columns.to(image).T)


def _bicubic_part(old: int, new: int, start: int, length: int) -> tuple[Tensor, int, int]:
    """Return the weights of some LR pixels in a part of the new pixels of an axis, and which LR pixels they are."""
    part = _bicubic_weights(old, new)[start : start + length]
    used = part.any(dim=0).nonzero()
    first, last = int(used[0]), int(used[-1]) + 1
    return part[:, first:last], first, last


@lru_cache(maxsize=32)
def _bicubic_weights(old: int, new: int) -> Tensor:
    """Return the weights of LR pixels in each HR pixel, `[new, old]`: how unit impulses are resized."""
    return resize_bicubic(torch.eye(old)[None, None], (new, old))[0, 0]


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
    return synthesis * weight @ analysis


def blur_thick_slices(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Shrink `[N, C, H, W]` to `[N, C, *size]` by averaging over slice profiles, as thick slices are measured.

    Along each axis that shrinks by r, every LR pixel is a mean of HR pixels whose weights are a Gaussian around its
    half-pixel centre. The full width at half maximum is r HR pixels: slices are as thick as they are apart.

    Args:
        image: Magnitude image.
        size: Height and width, at most those of `image`; the ratio of each axis is any real number.

    Source: slice profiles as the degradation of multi-slice scans, SMORE (Zhao et al. 2021), ECLARE (Remedios et al.
    2025).
    """
    rows, columns = (_slice_profiles(old, new).to(image) for old, new in zip(image.shape[-2:], size, strict=True))
    return rows @ image @ columns.T


@lru_cache(maxsize=128)
def _slice_profiles(old: int, new: int) -> Tensor:
    """Return `[new, old]`: the weights of `old` samples in each of `new`; at the borders, of those there are."""
    if old == new:
        return torch.eye(old, dtype=torch.float64)
    thickness = old / new
    centres = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * thickness - 0.5
    weights = torch.exp(-4 * math.log(2) * ((torch.arange(old) - centres) / thickness) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


def resize_bilinear8(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `[N, C, h, w]` to `[N, C, *size]` as the authors' code did: bilinear, nothing smoothed, in 8 bits.

    Only to compare with it. Values outside [0, 1] are clipped; in their code they wrapped around.
    """
    levels = (image.clamp(0, 1) * 255).round()
    return functional.interpolate(levels, size=size, mode="bilinear", align_corners=False).round() / 255


def _add_rician_noise(image: Tensor, sigma: float, seeds: Sequence[int]) -> Tensor:
    """Return the magnitude of `image` with Gaussian noise in its real and imaginary part.

    Source: Gudbjartsson and Patz 1995.
    """
    shape = 2, *image.shape[1:]
    normal = [np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) for seed in seeds]
    real, imaginary = sigma * torch.from_numpy(np.stack(normal, axis=1)).to(image)
    return torch.hypot(image + real, imaginary)


_SHRINK: Mapping[str, Degrade] = MappingProxyType(
    {
        "bicubic": resize_bicubic,
        "kspace": truncate_kspace,
        "thick_slices": blur_thick_slices,
        "bilinear8": resize_bilinear8,
    }
)

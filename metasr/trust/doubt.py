"""Doubt: how much a network has added to bicubic interpolation around a pixel. Nobody needs HR to know that."""

import torch
from torch import Tensor
from torch.nn import functional

from metasr.data.degrade import resize_bicubic

SIGMA_PX = 2.0
REACH_PX = 6


def doubt(sr: Tensor, lr: Tensor) -> Tensor:
    """Return the absolute difference of images `[N, 1, H, W]` from bicubic, smoothed by a Gaussian of 2 pixels.

    Args:
        sr: Super-resolved, intensities in about [0, 1].
        lr: What they were made of, `[N, 1, h, w]`.
    """
    added = (sr - resize_bicubic(lr, (sr.shape[-2], sr.shape[-1]))).abs()
    offsets = torch.arange(-REACH_PX, REACH_PX + 1, dtype=sr.dtype, device=sr.device)
    line = torch.exp(-(offsets**2) / (2 * SIGMA_PX**2))
    line = (line / line.sum())[None, None, None]
    padded = functional.pad(added, (REACH_PX,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, line), line.mT)

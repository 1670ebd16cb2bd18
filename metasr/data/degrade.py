"""Resizing: how LR is made from HR, and the bicubic enlargement that every model is compared with."""

from torch import Tensor
from torch.nn import functional


def resize_bicubic(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `[N, C, h, w]` to `[N, C, *size]` with Keys' cubic kernel (a = -0.5) on half-pixel centres.

    When an axis shrinks, the kernel is widened by its scale, so that nothing aliases. This is what Pillow and
    MATLAB's imresize compute, in float and without clipping.

    Source: Keys 1981. The paper does not state its degradation; see `metasr/README.md`.
    """
    return functional.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False)

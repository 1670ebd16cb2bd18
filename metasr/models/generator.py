"""The Meta-SRGAN generator: a convolutional trunk on the LR grid, then meta-upscale to any size."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metasr.data.degrade import resize_bicubic, resize_bicubic_window
from metasr.models.base import SuperResolver
from metasr.models.blocks import Norm, Trunk
from metasr.models.meta_upscale import MetaUpscale
from metasr.models.meta_upscale_kernels import Kept
from metasr.models.meta_upscale_window import Window, upscale_window

Skip = Literal["none", "bicubic"]


class Features(NamedTuple):
    """The encoding of an image, from which `decode` makes any size.

    Attributes:
        maps: Feature maps `[N, num_features, h, w]`.
        lr: The image they came from, `[N, C, h, w]`.
    """

    maps: Tensor
    lr: Tensor


class Generator(SuperResolver):
    """Super-resolve images at any real scale, the scale of each axis on its own.

    Without arguments this is the paper's network for gray images, with 561,926 parameters.

    Args:
        channels: Channels of the image; 1 for MRI.
        num_features: Feature maps of the trunk.
        num_blocks: Residual blocks of the trunk.
        norm: `batch` is the paper's; `none` scales the residual branches by `residual_scale` instead.
        skip: `bicubic` adds the bicubic enlargement, so that the network learns the difference; the paper has `none`.
        residual_scale: Used where `norm` is `none`.
        mean: Mean intensity of the training data; the network sees (image - mean) / std.
        std: Standard deviation of the training data.

    Source: paper, Fig. 4. For `norm: none`: EDSR, section 3.1. Deviations: `metasr/README.md`.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        num_features: int = 64,
        num_blocks: int = 5,
        norm: Norm = "batch",
        skip: Skip = "none",
        residual_scale: float = 0.2,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__(mean=mean, std=std)
        self.skip = skip
        self.trunk = Trunk(channels, num_features, num_blocks, norm=norm, residual_scale=residual_scale)
        self.upscale = MetaUpscale(num_features, channels)

    def encode(self, lr: Tensor) -> Features:
        """Compute the features of images `[N, C, h, w]` once; `decode` may be called often."""
        return Features(maps=self.trunk((lr - self.mean) / self.std), lr=lr)

    def decode(self, features: Features, size: tuple[int, int], kept: Kept | None = None) -> Tensor:
        """Return the images `[N, C, *size]` for features, in the intensity units of the input.

        On a CPU and without gradients meta-upscale takes the faster forms of `meta_upscale_window.py`.

        Args:
            features: Of the images.
            size: Height and width of the output in pixels.
            kept: Keeps kernels between calls without gradients, as for `decode_window`.
        """
        if torch.is_grad_enabled() or features.maps.device.type != "cpu":
            image: Tensor = self.upscale(features.maps, size) * self.std
        else:
            image = upscale_window(self.upscale, features.maps, size, Window(0, 0, *size), kept) * self.std
        if self.skip == "bicubic":
            return image + resize_bicubic(features.lr, size)
        return image + self.mean

    def decode_window(
        self, features: Features, size: tuple[int, int], window: Window, kept: Kept | None = None
    ) -> Tensor:
        """Return a part of the images that `decode` makes, without gradients: `[N, C, window.height, window.width]`.

        It is the same part of `decode(features, size)` to 1e-6 of the largest intensity. What it costs grows with the
        window, not with the image: only the features under it are read.

        Args:
            features: Of the images.
            size: Height and width of the whole output in pixels, as for `decode`: any size, a scale of each axis.
            window: `(top, left, height, width)` in output pixels, inside `size` and not empty.
            kept: Keeps the kernels of the scales used last. Give the same one to all calls with the same weights,
                from one thread at a time, and a scale's kernels are predicted once; without it in every call.

        Raises:
            ValueError: The window is empty or reaches outside `size`.
        """
        top, left, height, width = window
        if min(top, left) < 0 or min(height, width) < 1 or top + height > size[0] or left + width > size[1]:
            raise ValueError(f"window {tuple(window)} is empty or not inside {size[0]} x {size[1]}")
        with torch.inference_mode():
            image = upscale_window(self.upscale, features.maps, size, Window(*window), kept) * self.std
            if self.skip == "bicubic":
                return image + resize_bicubic_window(features.lr, size, window)
            return image + self.mean

    def forward(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Super-resolve `[N, C, h, w]` to `[N, C, *size]`."""
        return self.decode(self.encode(lr), size)

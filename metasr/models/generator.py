"""The Meta-SRGAN generator: a convolutional trunk on the LR grid, then meta-upscale to any size."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from metasr.data.degrade import resize_bicubic
from metasr.models.blocks import Norm, ResidualBlock, conv, normalisation
from metasr.models.meta_upscale import MetaUpscale

Skip = Literal["none", "bicubic"]


class Features(NamedTuple):
    """What `encode` keeps of an image, enough to decode it at any size.

    Attributes:
        maps: Feature maps `[N, num_features, h, w]`.
        lr: The image they came from, `[N, C, h, w]`.
    """

    maps: Tensor
    lr: Tensor


class Generator(nn.Module):
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

    mean: Tensor
    std: Tensor

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
        super().__init__()
        self.skip = skip
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        scale = 1.0 if norm == "batch" else residual_scale
        self.head = nn.Sequential(conv(channels, num_features, 9), nn.PReLU())
        self.blocks = nn.Sequential(
            *(ResidualBlock(num_features, norm=norm, residual_scale=scale) for _ in range(num_blocks))
        )
        self.fuse = nn.Sequential(conv(num_features, num_features, 3), normalisation(norm, num_features))
        self.upscale = MetaUpscale(num_features, channels)

    def encode(self, lr: Tensor) -> Features:
        """Compute the features of images `[N, C, h, w]` once; `decode` may be called often."""
        head = self.head((lr - self.mean) / self.std)
        return Features(maps=head + self.fuse(self.blocks(head)), lr=lr)

    def decode(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Return the images `[N, C, *size]` for features, in the intensity units of the input."""
        image: Tensor = self.upscale(features.maps, size) * self.std
        if self.skip == "bicubic":
            return image + resize_bicubic(features.lr, size)
        return image + self.mean

    def forward(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Super-resolve `[N, C, h, w]` to `[N, C, *size]`."""
        return self.decode(self.encode(lr), size)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluate without gradients and with running statistics; go back to training mode if that is where it was."""
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        module.train(training)

"""Building blocks shared by the networks."""

from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "none"]


def conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Return a convolution that keeps height and width."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)


def normalisation(norm: Norm, channels: int) -> nn.Module:
    """Return the layer that `norm` names."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.Identity()


class ResidualBlock(nn.Module):
    """Conv - norm - PReLU - conv - norm, added to its input.

    Without normalisation the branch is scaled, so that a deep stack starts close to the identity.

    Args:
        channels: Number of feature maps.
        norm: `batch` is the paper's.
        residual_scale: Factor on the branch; 1 in the paper.

    Source: paper, Fig. 4 (bottom). The caption says ReLU, the authors' weights have PReLU.
    Scaling: EDSR, section 3.3.
    """

    def __init__(self, channels: int, *, norm: Norm = "batch", residual_scale: float = 1.0) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.branch = nn.Sequential(
            conv(channels, channels, 3),
            normalisation(norm, channels),
            nn.PReLU(),
            conv(channels, channels, 3),
            normalisation(norm, channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map `[N, C, h, w]` to the same shape."""
        residual: Tensor = self.branch(features)
        return features + self.residual_scale * residual


class Trunk(nn.Module):
    """From an image to feature maps on its own grid: a convolution, residual blocks, and a skip around them.

    Args:
        channels: Channels of the image.
        num_features: Feature maps.
        num_blocks: Residual blocks.
        norm: `batch` is the paper's; `none` scales the residual branches by `residual_scale` instead.
        residual_scale: Used where `norm` is `none`.

    Source: paper, Fig. 4; SRGAN, Fig. 4.
    """

    def __init__(
        self, channels: int, num_features: int, num_blocks: int, *, norm: Norm, residual_scale: float
    ) -> None:
        super().__init__()
        scale = 1.0 if norm == "batch" else residual_scale
        self.head = nn.Sequential(conv(channels, num_features, 9), nn.PReLU())
        self.blocks = nn.Sequential(
            *(ResidualBlock(num_features, norm=norm, residual_scale=scale) for _ in range(num_blocks))
        )
        self.fuse = nn.Sequential(conv(num_features, num_features, 3), normalisation(norm, num_features))

    def forward(self, image: Tensor) -> Tensor:
        """Map `[N, C, h, w]` to `[N, num_features, h, w]`."""
        head: Tensor = self.head(image)
        maps: Tensor = head + self.fuse(self.blocks(head))
        return maps

"""The networks that the paper compares with: each for one integer scale, with a pixel-shuffle tail."""

from abc import abstractmethod

from torch import Tensor, nn

from metasr.errors import ScaleError
from metasr.models.base import SuperResolver
from metasr.models.blocks import Norm, Trunk, conv


class FixedScale(SuperResolver):
    """A network for one integer scale.

    Args:
        scale: 2, 3 or 4.
        mean: Mean intensity of the training data.
        std: Standard deviation of the training data.
    """

    def __init__(self, *, scale: int, mean: float, std: float) -> None:
        super().__init__(mean=mean, std=std)
        self.scale = scale

    def forward(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Super-resolve `[N, C, h, w]` to `[N, C, *size]`.

        Raises:
            ScaleError: `size` is not `scale` times that of `lr`.
        """
        height, width = lr.shape[2] * self.scale, lr.shape[3] * self.scale
        if tuple(size) != (height, width):
            raise ScaleError(
                f"size {size[0]} x {size[1]} of an image of {lr.shape[2]} x {lr.shape[3]}",
                f"this {type(self).__name__} enlarges {self.scale} times and not otherwise",
                f"Ask for scale {self.scale}, or use Meta-SRGAN",
            )
        image = self.enlarge((lr - self.mean) / self.std).float()  # autocast ends here: an image is not bfloat16
        return image * self.std + self.mean

    @abstractmethod
    def enlarge(self, lr: Tensor) -> Tensor:
        """Map normalised images `[N, C, h, w]` to `[N, C, scale * h, scale * w]`."""


class SRGAN(FixedScale):
    """SRGAN's generator with the trunk of Meta-SRGAN; 565,768 parameters at scale 2 for gray images.

    Args:
        scale: 2, 3 or 4.
        channels: Channels of the image.
        num_features: Feature maps.
        num_blocks: Residual blocks; 5 as in the paper (SRGAN has 16).
        norm: `batch` is SRGAN's.
        residual_scale: Factor on the residual branches where `norm` is `none`.
        mean: Mean intensity of the training data.
        std: Standard deviation of the training data.

    Source: paper, Table 1; SRGAN, Fig. 4.
    """

    def __init__(
        self,
        *,
        scale: int = 2,
        channels: int = 1,
        num_features: int = 64,
        num_blocks: int = 5,
        norm: Norm = "batch",
        residual_scale: float = 0.2,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__(scale=scale, mean=mean, std=std)
        self.trunk = Trunk(channels, num_features, num_blocks, norm=norm, residual_scale=residual_scale)
        stages: list[nn.Module] = []
        for factor in _factors(scale):
            stages += [*_shuffle(num_features, factor), nn.PReLU()]
        self.tail = nn.Sequential(*stages, conv(num_features, channels, 9))

    def enlarge(self, lr: Tensor) -> Tensor:
        """Map normalised images `[N, C, h, w]` to `[N, C, scale * h, scale * w]`."""
        image: Tensor = self.tail(self.trunk(lr))
        return image


class EDSR(FixedScale):
    """EDSR: a deep residual network without normalisation; 40,720,385 parameters at scale 2 for gray images.

    Args:
        scale: 2, 3 or 4.
        channels: Channels of the image.
        num_features: Feature maps; 64 with 16 blocks and residual scale 1 is EDSR's baseline model.
        num_blocks: Residual blocks.
        residual_scale: Factor on the residual branches.
        mean: Mean intensity of the training data.
        std: Standard deviation of the training data.

    Source: Lim et al. 2017, section 3 and Table 1.
    """

    def __init__(
        self,
        *,
        scale: int = 2,
        channels: int = 1,
        num_features: int = 256,
        num_blocks: int = 32,
        residual_scale: float = 0.1,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        super().__init__(scale=scale, mean=mean, std=std)
        self.head = conv(channels, num_features, 3)
        self.blocks = nn.Sequential(*(_EDSRBlock(num_features, residual_scale) for _ in range(num_blocks)))
        self.fuse = conv(num_features, num_features, 3)
        stages = [layer for factor in _factors(scale) for layer in _shuffle(num_features, factor)]
        self.tail = nn.Sequential(*stages, conv(num_features, channels, 3))

    def enlarge(self, lr: Tensor) -> Tensor:
        """Map normalised images `[N, C, h, w]` to `[N, C, scale * h, scale * w]`."""
        head = self.head(lr)
        image: Tensor = self.tail(head + self.fuse(self.blocks(head)))
        return image


class _EDSRBlock(nn.Module):
    def __init__(self, channels: int, residual_scale: float) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.branch = nn.Sequential(conv(channels, channels, 3), nn.ReLU(), conv(channels, channels, 3))

    def forward(self, features: Tensor) -> Tensor:
        residual: Tensor = self.branch(features)
        return features + self.residual_scale * residual


def _factors(scale: int) -> tuple[int, ...]:
    """Return the factors of the pixel-shuffle stages that make up a scale."""
    if scale not in (2, 3, 4):
        raise ScaleError(f"scale {scale}", "SRGAN and EDSR have tails for 2, 3 and 4", "Choose one of them")
    return (2, 2) if scale == 4 else (scale,)


def _shuffle(num_features: int, factor: int) -> list[nn.Module]:
    return [conv(num_features, num_features * factor**2, 3), nn.PixelShuffle(factor)]

"""The discriminator: is this image real, or did the generator make it?"""

from torch import Tensor, nn

from metasr.models.blocks import conv


class Discriminator(nn.Module):
    """Score images of any size; 5,214,273 parameters for gray images.

    The output is the logit, in float32 also under autocast. The paper ends with a sigmoid; the losses apply it where
    they can do so stably.

    Args:
        channels: Channels of the image.

    Source: paper, Fig. 5; SRGAN, section 2.1.1.
    """

    def __init__(self, *, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(channels, 64, 3), nn.LeakyReLU(0.2), *_stage(64, 64, stride=2)]
        for width in (128, 256, 512):
            layers += [*_stage(width // 2, width, stride=1), *_stage(width, width, stride=2)]
        self.features = nn.Sequential(*layers)
        self.score = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(512, 1024, 1), nn.LeakyReLU(0.2), nn.Conv2d(1024, 1, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Map images `[N, C, H, W]` to logits `[N]`; positive means real."""
        score: Tensor = self.score(self.features(image))
        return score.flatten().float()


def _stage(in_channels: int, out_channels: int, *, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.2),
    ]

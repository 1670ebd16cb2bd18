"""The one place where settings meet network classes."""

from typing import Any

from metasr.config import ModelConfig
from metasr.models.base import SuperResolver
from metasr.models.baselines import EDSR, SRGAN
from metasr.models.discriminator import Discriminator
from metasr.models.generator import Generator


def build_generator(config: ModelConfig, *, mean: float = 0.0, std: float = 1.0) -> SuperResolver:
    """Build the generator that `config` describes, for data with this mean and standard deviation."""
    shared: dict[str, Any] = {
        "channels": config.channels,
        "num_features": config.num_features,
        "num_blocks": config.num_blocks,
        "residual_scale": config.residual_scale,
        "mean": mean,
        "std": std,
    }
    if config.architecture == "edsr":
        return EDSR(scale=config.fixed_scale, **shared)
    if config.architecture == "srgan":
        return SRGAN(scale=config.fixed_scale, norm=config.norm, **shared)
    return Generator(norm=config.norm, skip=config.skip, **shared)


def build_discriminator(config: ModelConfig) -> Discriminator:
    """Build the discriminator for the images that `config`'s generator makes."""
    return Discriminator(channels=config.channels)

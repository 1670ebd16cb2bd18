"""The one place where settings meet network classes."""

from metasr.config import ModelConfig
from metasr.models.base import SuperResolver
from metasr.models.baselines import EDSR, SRGAN
from metasr.models.discriminator import Discriminator
from metasr.models.generator import Generator


def build_generator(config: ModelConfig, *, mean: float = 0.0, std: float = 1.0) -> SuperResolver:
    """Build the generator that `config` describes, for data with this mean and standard deviation."""
    if config.architecture == "edsr":
        return EDSR(
            scale=config.fixed_scale,
            channels=config.channels,
            num_features=config.num_features,
            num_blocks=config.num_blocks,
            residual_scale=config.residual_scale,
            mean=mean,
            std=std,
        )
    if config.architecture == "srgan":
        return SRGAN(
            scale=config.fixed_scale,
            channels=config.channels,
            num_features=config.num_features,
            num_blocks=config.num_blocks,
            norm=config.norm,
            residual_scale=config.residual_scale,
            mean=mean,
            std=std,
        )
    return Generator(
        channels=config.channels,
        num_features=config.num_features,
        num_blocks=config.num_blocks,
        norm=config.norm,
        skip=config.skip,
        residual_scale=config.residual_scale,
        mean=mean,
        std=std,
    )


def build_discriminator(config: ModelConfig) -> Discriminator:
    """Build the discriminator for the images that `config`'s generator makes."""
    return Discriminator(channels=config.channels)

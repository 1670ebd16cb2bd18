"""The networks: generator (with meta-upscale) and discriminator, built from plain keyword arguments."""

from metasr.models.build import build_discriminator, build_generator
from metasr.models.discriminator import Discriminator
from metasr.models.generator import Features, Generator, evaluating
from metasr.models.meta_upscale import MetaUpscale

__all__ = [
    "Discriminator",
    "Features",
    "Generator",
    "MetaUpscale",
    "build_discriminator",
    "build_generator",
    "evaluating",
]

"""The networks: generators (Meta-SRGAN and what it is compared with) and discriminator, from plain arguments."""

from metasr.models.base import SuperResolver, evaluating
from metasr.models.baselines import EDSR, SRGAN
from metasr.models.build import build_discriminator, build_generator
from metasr.models.discriminator import Discriminator
from metasr.models.generator import Features, Generator
from metasr.models.meta_upscale import MetaUpscale
from metasr.models.meta_upscale_kernels import Kept
from metasr.models.meta_upscale_window import Window

__all__ = [
    "EDSR",
    "SRGAN",
    "Discriminator",
    "Features",
    "Generator",
    "Kept",
    "MetaUpscale",
    "SuperResolver",
    "Window",
    "build_discriminator",
    "build_generator",
    "evaluating",
]

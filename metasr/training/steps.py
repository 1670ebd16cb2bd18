"""One update of the generator and one of the discriminator: equations 3 to 6 of the paper."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metasr.config import LossConfig
from metasr.data.sample import Batch
from metasr.errors import TrainingError
from metasr.losses import GeneratorLosses, adversarial_loss, discriminator_loss, pixel_loss
from metasr.perceptual import PerceptualLoss


@dataclass(frozen=True)
class Networks:
    """The networks as a step sees them, already prepared for the workers they run on."""

    generator: nn.Module
    discriminator: nn.Module
    perceptual: PerceptualLoss | None


def generator_step(
    networks: Networks, optimiser: Optimizer, batch: Batch, loss: LossConfig, *, pixel_only: bool
) -> tuple[Tensor, GeneratorLosses]:
    """Update the generator; return its images, detached, and its losses.

    Args:
        networks: The discriminator is not changed.
        optimiser: Of the generator.
        batch: LR and HR patches.
        loss: Weights and forms of the terms.
        pixel_only: Leave out all but the L1 loss.
    """
    sr = networks.generator(batch.lr, tuple(batch.hr.shape[-2:]))
    pixel = pixel_loss(sr, batch.hr)
    adversarial = perceptual = pixel.new_zeros(())
    # Only what is judged is clamped: the L1 loss must pull back what lies outside.
    seen = sr.clamp(0, 1)
    if loss.adversarial and not pixel_only:
        with frozen(networks.discriminator):
            adversarial = adversarial_loss(networks.discriminator(seen), loss.adversarial_form)
    if networks.perceptual and not pixel_only:
        perceptual = networks.perceptual(seen, batch.hr.clamp(0, 1))
    total = loss.pixel * pixel + loss.adversarial * adversarial + loss.perceptual * perceptual
    update(optimiser, total)
    return sr.detach(), GeneratorLosses(total, pixel, adversarial, perceptual)


def discriminator_step(networks: Networks, optimiser: Optimizer, batch: Batch, sr: Tensor) -> Tensor:
    """Update the discriminator on the originals and on the generator's images; return its loss."""
    real = networks.discriminator(batch.hr.clamp(0, 1))
    fake = networks.discriminator(sr.clamp(0, 1))
    loss = discriminator_loss(real, fake)
    update(optimiser, loss)
    return loss


def update(optimiser: Optimizer, loss: Tensor) -> None:
    """Take one optimiser step down the gradient of a finite loss.

    Raises:
        TrainingError: The loss is NaN or infinite; the weights are as they were.
    """
    if not torch.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss.item()}",
            "training has diverged",
            "Lower optim.generator_lr or optim.discriminator_lr, or raise train.pixel_only_steps",
        )
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module without computing those of its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)

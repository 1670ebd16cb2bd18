"""One update of the generator and one of the discriminator: equations 3 to 6 of the paper."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
    """The networks as a step sees them, already prepared for the workers they run on.

    Attributes:
        generator: Maps (LR, size) to images.
        discriminator: Maps images to logits.
        perceptual: None where its weight is 0.
        half_precision: Convolve in bfloat16.
    """

    generator: nn.Module
    discriminator: nn.Module
    perceptual: PerceptualLoss | None
    half_precision: bool = False

    def forward_pass(self, device: torch.device) -> AbstractContextManager[None]:
        """Set the arithmetic of the networks while they are evaluated; gradients follow it by themselves."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.half_precision)


def generator_step(
    networks: Networks,
    optimiser: Optimizer,
    batch: Batch,
    loss: LossConfig,
    *,
    pixel_only: bool,
    clip_norm: float = 0.0,
) -> tuple[Tensor, GeneratorLosses]:
    """Update the generator; return its images, detached, and its losses.

    Args:
        networks: The discriminator is not changed.
        optimiser: Of the generator.
        batch: LR and HR patches.
        loss: Weights and forms of the terms.
        pixel_only: Leave out all but the L1 loss.
        clip_norm: See `update`.
    """
    with networks.forward_pass(batch.lr.device):
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
    update(optimiser, total, clip_norm)
    return sr.detach(), GeneratorLosses(total, pixel, adversarial, perceptual)


def discriminator_step(
    networks: Networks, optimiser: Optimizer, batch: Batch, sr: Tensor, *, clip_norm: float = 0.0
) -> Tensor:
    """Update the discriminator on the originals and on the generator's images; return its loss."""
    with networks.forward_pass(batch.hr.device):
        real = networks.discriminator(batch.hr.clamp(0, 1))
        fake = networks.discriminator(sr.clamp(0, 1))
        loss = discriminator_loss(real, fake)
    update(optimiser, loss, clip_norm)
    return loss


def update(optimiser: Optimizer, loss: Tensor, clip_norm: float = 0.0) -> None:
    """Take one optimiser step down the gradient of a finite loss.

    Args:
        optimiser: With one group of parameters.
        loss: A scalar.
        clip_norm: A gradient longer than this is shortened to it; 0 leaves it as it is.

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
    if clip_norm:
        nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], clip_norm)
    optimiser.step()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module without computing those of its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)

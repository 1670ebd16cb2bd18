"""One update of the generator and one of the discriminator: equations 3 to 6 of the paper."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metasr.config import LossConfig
from metasr.data.sample import Batch
from metasr.losses import GeneratorLosses, adversarial_loss, discriminator_loss, pixel_loss
from metasr.perceptual import PerceptualLoss
from metasr.training.adam import step_where
from metasr.training.left_out import Outcome
from metasr.training.reduction import Reduction, Terms


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


@dataclass(frozen=True)
class UpdateRule:
    """How the losses of a batch become an update of one network.

    Attributes:
        optimiser: Of the network, with one group of parameters.
        reduction: Makes one gradient of those of all parts on all workers.
        clip_norm: A gradient longer than this is shortened to it; 0 leaves it as it is.
    """

    optimiser: Optimizer
    reduction: Reduction
    clip_norm: float = 0.0


def generator_step(
    networks: Networks, parts: Sequence[Batch], loss: LossConfig, rule: UpdateRule, *, pixel_only: bool
) -> tuple[list[Tensor], GeneratorLosses, Outcome]:
    """Update the generator; return its images for each part, detached, and the losses of the whole batch.

    The update is left out where it is not finite, see `update`.

    Args:
        networks: The discriminator is not changed.
        parts: LR and HR patches, as the rule's reduction cuts the batch.
        loss: Weights and forms of the terms.
        rule: For the generator.
        pixel_only: Leave out all but the L1 loss.
    """
    images = []

    def losses() -> Iterator[GeneratorLosses]:
        for batch in parts:
            sr, terms = generator_losses(networks, batch, loss, pixel_only=pixel_only)
            images.append(sr.detach())
            yield terms

    terms, outcome = update(losses(), rule)
    return images, terms, outcome


def generator_losses(
    networks: Networks, batch: Batch, loss: LossConfig, *, pixel_only: bool
) -> tuple[Tensor, GeneratorLosses]:
    """Return the generator's images of a batch and how wrong they are (paper, Eqs. 3 to 6)."""
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
    return sr, GeneratorLosses(total, pixel, adversarial, perceptual)


def discriminator_step(
    networks: Networks, parts: Sequence[Batch], images: Sequence[Tensor], rule: UpdateRule, allowed: Tensor
) -> tuple[Tensor, Outcome]:
    """Update the discriminator on the originals and on the generator's images; return the loss of the whole batch.

    Args:
        networks: The generator is not changed.
        parts: HR patches, as the rule's reduction cuts the batch.
        images: Of the generator, for each part.
        rule: For the discriminator.
        allowed: Leave the update out where this boolean scalar is false, also if it is finite.
    """

    def losses() -> Iterator[tuple[Tensor]]:
        for batch, sr in zip(parts, images, strict=True):
            with networks.forward_pass(batch.hr.device):
                real = networks.discriminator(batch.hr.clamp(0, 1))
                fake = networks.discriminator(sr.clamp(0, 1))
                yield (discriminator_loss(real, fake),)

    (loss,), outcome = update(losses(), rule, allowed)
    return loss, outcome


def update(losses: Iterable[Terms], rule: UpdateRule, allowed: Tensor | None = None) -> tuple[Terms, Outcome]:
    """Take one optimiser step down a finite gradient of a finite loss; else leave weights and statistics alone.

    Nothing here waits for a GPU.

    Args:
        losses: Of each part, see `Reduction.backward`.
        rule: Whose network is updated, and how.
        allowed: Leave the update out where this boolean scalar is false.
    """
    parameters = rule.optimiser.param_groups[0]["params"]
    terms = rule.reduction.backward(parameters, losses)
    length = nn.utils.get_total_norm([parameter.grad for parameter in parameters])
    if rule.clip_norm:
        nn.utils.clip_grads_with_norm_(parameters, rule.clip_norm, length)
    finite = terms[0].isfinite() & length.isfinite()
    if allowed is not None:
        finite = finite & allowed
    rule.reduction.settle(finite)
    step_where(finite, rule.optimiser)
    return terms, Outcome(finite, terms[0], length)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module without computing those of its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)

"""The losses of the generator and the discriminator (paper, Eqs. 3 to 6)."""

from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn import functional

AdversarialForm = Literal["saturating", "non_saturating", "linear"]


class GeneratorLosses(NamedTuple):
    """The unweighted terms of a generator step and their weighted sum, scalars."""

    total: Tensor
    pixel: Tensor
    adversarial: Tensor
    perceptual: Tensor


def pixel_loss(sr: Tensor, hr: Tensor) -> Tensor:
    """Return the mean absolute error (Eq. 3)."""
    return functional.l1_loss(sr, hr)


def adversarial_loss(fake_logit: Tensor, form: AdversarialForm) -> Tensor:
    """Return the adversarial loss of the generator, for the discriminator's logits `[N]` of its images.

    With D = sigmoid(logit): `saturating` is log(1 - D) (Eq. 4), whose gradient vanishes while the discriminator
    wins; `non_saturating` is -log D (SRGAN, Eq. 6); `linear` is 1 - D (the authors' code).
    All are computed on the logit, so that none overflows.
    """
    if form == "saturating":
        return functional.logsigmoid(-fake_logit).mean()
    if form == "non_saturating":
        return functional.softplus(-fake_logit).mean()
    return (-fake_logit).sigmoid().mean()


def discriminator_loss(real_logit: Tensor, fake_logit: Tensor) -> Tensor:
    """Return -log D(real) - log(1 - D(fake)), the negative of Eq. 4, for logits `[N]`."""
    return functional.softplus(-real_logit).mean() + functional.softplus(fake_logit).mean()

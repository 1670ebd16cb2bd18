"""Updates that are left out because they are not finite: decided on the device, looked at when there is time."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from metasr.errors import DivergedError


class Outcome(NamedTuple):
    """What became of an update, as scalars on the device.

    Attributes:
        finite: Whether it was taken.
        loss: What was descended.
        length: Of the gradient.
    """

    finite: Tensor
    loss: Tensor
    length: Tensor

    def check(self) -> None:
        """Raise a DivergedError if the update was left out; waits for the device."""
        if not self.finite:
            raise diverged(self.loss.item(), self.length.item())


class LeftOut:
    """Remembers on the device which steps had an update left out, until somebody looks.

    Args:
        device: Where training computes.

    Attributes:
        seen: Steps since the last look; whether the newest is one; loss and length of gradient of the last that was.
    """

    def __init__(self, device: torch.device) -> None:
        self.seen = torch.zeros(4, device=device)

    def note(self, generator: Outcome, discriminator: Outcome) -> None:
        """Take notice of a step; where the generator's update was left out, the discriminator's says nothing."""
        finite = generator.finite & discriminator.finite
        missed = (~finite).float()[None]
        first = torch.where(generator.finite, torch.stack(discriminator[1:]), torch.stack(generator[1:]))
        evidence = torch.where(finite, self.seen[2:], first)
        self.seen.copy_(torch.cat([self.seen[:1] + missed, missed, evidence]))

    def look(self) -> tuple[int, bool, DivergedError | None]:
        """Return how many steps since the last look, whether the newest is one, and why; waits for the device."""
        count, newest, loss, length = self.seen.tolist()
        self.seen[0] = 0
        return int(count), bool(newest), diverged(loss, length) if count else None


def diverged(loss: float, length: float) -> DivergedError:
    """Return the error for an update with a loss and a length of gradient, one of which is not finite."""
    return DivergedError(
        f"the loss is {loss}" if not math.isfinite(loss) else f"the length of the gradient is {length}",
        "training has diverged",
        "Lower optim.generator_lr or optim.discriminator_lr, or raise train.pixel_only_steps",
    )

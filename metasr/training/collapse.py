"""Signs that adversarial training has come to nothing."""

from metasr.context import WorkerContext
from metasr.events import Event

WON_LOSS = 0.02
WON_INTERVALS = 5
LEAST_CONTRAST = 0.25


class Collapse:
    """Warns, once each, when a discriminator has won or a generator makes flat images.

    A discriminator that tells every image apart has a loss near 0 (2 log 2 is that of one that guesses), and what it
    then teaches is noise. The limits are ours: far from what training shows that goes well, and from any accident of
    one batch.

    Args:
        context: Told of it.
    """

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._intervals = 0
        self._is_flat = False

    def see_loss(self, step: int, loss_discriminator: float) -> None:
        """Look at the loss of a step in which the discriminator was trained."""
        self._intervals = self._intervals + 1 if loss_discriminator < WON_LOSS else 0
        if self._intervals == WON_INTERVALS:
            self._warn(
                step, f"the discriminator has won: its loss was below {WON_LOSS} for {WON_INTERVALS} intervals"
            )

    def see_contrast(self, step: int, contrast: float) -> None:
        """Look at the standard deviation of the generator's images, as a part of that of the originals."""
        if contrast < LEAST_CONTRAST and not self._is_flat:
            self._warn(
                step, f"the generator has collapsed: its images have {contrast:.0%} of the originals' contrast"
            )
        self._is_flat = contrast < LEAST_CONTRAST

    def _warn(self, step: int, what: str) -> None:
        fix = "lower loss.adversarial or optim.discriminator_lr, or raise train.pixel_only_steps"
        self._context.log(Event("warning", step, text=f"{what}; {fix}"))

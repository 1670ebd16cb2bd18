"""A whole step of training: both updates and the average, none of which waits for a GPU."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metasr.config import ExperimentConfig
from metasr.data.sample import Batch
from metasr.training.left_out import LeftOut
from metasr.training.reduction import Reduction
from metasr.training.state import TrainingState
from metasr.training.steps import Networks, UpdateRule, discriminator_step, generator_step


class WholeStep:
    """Updates the networks once.

    What a step computes depends on the batch, on `pixel_only`, and on what lies on the device: weights, moments,
    learning rates. `prepare` writes there what changes from step to step, so that a call can be captured as a CUDA
    graph and repeated.

    Args:
        config: The experiment.
        state: What is updated.
        networks: Of the state, as a step sees them.
        reduction: How workers make one update together.

    Attributes:
        left_out: Which updates were not finite.
    """

    def __init__(
        self, config: ExperimentConfig, state: TrainingState, networks: Networks, reduction: Reduction
    ) -> None:
        self._config, self._state, self._networks = config, state, networks
        device = next(state.generator.parameters()).device
        self.left_out = LeftOut(device)
        self._average_weight = torch.zeros((), device=device)
        clip_norm = config.optim.clip_norm
        self._generator_rule = UpdateRule(state.generator_optimiser, reduction, clip_norm)
        self._discriminator_rule = UpdateRule(state.discriminator_optimiser, reduction, clip_norm)

    def prepare(self) -> None:
        """Set learning rates and the weight of the average to those of the coming step."""
        optim = self._config.optim
        self._state.set_learning_rates(optim, self._config.train.steps)
        self._average_weight.fill_(self._state.average_weight(optim.ema_decay))

    def __call__(self, parts: Sequence[Batch], *, pixel_only: bool) -> dict[str, Tensor]:
        """Do one update of each network; return the losses by name.

        Args:
            parts: LR and HR patches, as the reduction cuts the batch.
            pixel_only: Leave out all but the L1 loss.
        """
        loss = self._config.loss
        images, losses, outcome = generator_step(
            self._networks, parts, loss, self._generator_rule, pixel_only=pixel_only
        )
        self._state.update_average(self._average_weight * outcome.finite)
        judged, of_discriminator = torch.zeros_like(losses.total), outcome
        if loss.adversarial and not pixel_only:
            judged, of_discriminator = discriminator_step(
                self._networks, parts, images, self._discriminator_rule, outcome.finite
            )
        self.left_out.note(outcome, of_discriminator)
        return {f"loss_{name}": value for name, value in losses._asdict().items()} | {"loss_discriminator": judged}

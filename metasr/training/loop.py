"""The training loop: batch, generator step, discriminator step; now and then look, and keep."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from metasr.arithmetic import deterministic
from metasr.config import ExperimentConfig
from metasr.context import Request, WorkerContext
from metasr.data.crops import CropSource
from metasr.evaluation import HeldOutSlice
from metasr.events import Event
from metasr.identity import RunIdentity
from metasr.training.batches import Batches
from metasr.training.collapse import Collapse
from metasr.training.lineage import changes
from metasr.training.look import Look
from metasr.training.state import TrainingState
from metasr.training.stepper import Stepper


@dataclass(frozen=True)
class TrainingData:
    """What a generator is trained and validated on.

    Attributes:
        crops: Training crops, intensities in about [0, 1].
        mean: Of the training crops.
        std: Standard deviation of the training crops.
        validation: Slices of subjects that are not trained on.
    """

    crops: CropSource
    mean: float
    std: float
    validation: Sequence[HeldOutSlice]


def fit(
    config: ExperimentConfig,
    data: TrainingData,
    identity: RunIdentity,
    context: WorkerContext,
    initial_weights: Mapping[str, Tensor] | None = None,
) -> TrainingState:
    """Train until `config.train.steps`, from the newest checkpoint if there is one, and return the final state.

    Asked to stop, it keeps a checkpoint at once and returns before.

    Args:
        config: The experiment.
        data: What to train on.
        identity: What the run is made from.
        context: The worker's view of the world.
        initial_weights: Of a generator of another run to start from, instead of random ones.
    """
    train = config.train
    with deterministic(context.device, enabled=train.reduction == "exact"):
        state = TrainingState.initial(config, context.device, mean=data.mean, std=data.std)
        if initial_weights is not None:
            state.start_from(initial_weights)
        passed_over = context.resume(state.load)
        if state.step >= train.steps:
            return state
        context.log(Event("resumed", state.step, {"resumed_at_step": float(state.step)}, passed_over))
        state.go_on(identity.code_version)
        if changed := changes(state.lineage):
            context.log(Event("changed", state.step, text=changed))
        stepper = Stepper(config, state, context)
        batches = Batches(config, data.crops, state.step, stepper.parts, context.device)
        collapse = Collapse(context)
        look = Look(config, data.validation, identity, context, collapse)
        meter = _Meter(train.batch_size)
        for parts in stepper.feed(batches):
            losses = stepper.step(parts)
            meter.count()
            if state.step % train.log_every_steps == 0:
                numbers = stepper.read(losses)
                state.record(**numbers)
                if config.loss.adversarial and state.step > train.pixel_only_steps and "loss_total" in numbers:
                    collapse.see_loss(state.step, numbers["loss_discriminator"])
                context.log(Event("steps", state.step, numbers | meter.read(batches.waited_s)))
            request = context.requested()
            if state.step % train.checkpoint_every_steps == 0 or state.step == train.steps:
                stepper.look()
                meter.pause(look.and_keep(state))
            elif request:
                stepper.look()
                context.keep(state.step, None, lambda folder: state.save(folder, config, identity))
            if request == Request.STOP or state.step == train.steps:
                return state
    raise AssertionError  # batches have no end


class _Meter:
    """How fast training goes, and how much of that time it waits for crops."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._began, self._waited_s, self._steps = time.perf_counter(), 0.0, 0
        self._first_step: float | None = None

    def count(self) -> None:
        """Count a step."""
        self._steps += 1
        self._first_step = self._first_step or time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Leave out time that was spent on something else."""
        self._began += seconds

    def read(self, waited_s: float) -> dict[str, float]:
        """Return what was measured since the last reading.

        Args:
            waited_s: Seconds that training has waited for crops since its start.
        """
        now = time.perf_counter()
        elapsed, waited = now - self._began, waited_s - self._waited_s
        rate = self._steps / elapsed
        self._began, self._waited_s, self._steps = now, waited_s, 0
        return {
            "steps_per_s": rate,
            "samples_per_s": rate * self._batch_size,
            "waiting_share": waited / elapsed,
            "since_first_step_s": now - (self._first_step or now),
        }

"""How the steps of a run are computed on this worker: one after the other, or launched as CUDA graphs."""

from collections.abc import Hashable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from metasr.arithmetic import half_precision
from metasr.config import ExperimentConfig
from metasr.context import WorkerContext, share
from metasr.data.sample import Batch
from metasr.events import Event
from metasr.perceptual import load_perceptual
from metasr.training.batches import Batches, made_aside
from metasr.training.graphs import Capture, Checked, Cuda, Direct, Graphs, Result
from metasr.training.reduction import Exact, Fast, Reduction
from metasr.training.schedule import InTurn, Lanes, Streams
from metasr.training.state import TrainingState
from metasr.training.steps import Networks
from metasr.training.whole_step import WholeStep


class Kind(NamedTuple):
    """What steps of the same graph have in common; the shapes of patches follow from the scale."""

    scale: Fraction
    pixel_only: bool


class Stepper:
    """Computes the steps of a run.

    Plain, each step is looked at before the next. With `train.graphs` on, nothing waits for the device: what was left
    out is found when somebody looks.

    Args:
        config: The experiment.
        state: What is trained.
        context: The worker's view of the world.

    Attributes:
        parts: What this worker computes at once, each as patches within the batch.
    """

    def __init__(self, config: ExperimentConfig, state: TrainingState, context: WorkerContext) -> None:
        self._config, self._state, self._context = config, state, context
        self._is_ahead = config.train.graphs != "off" and context.num_workers == 1
        self._on_gpu = self._is_ahead and context.device.type == "cuda"
        networks, reduction = self._share()
        self.parts = reduction.parts(config.train.batch_size)
        self._whole_step = WholeStep(config, state, networks, reduction)
        self._graphs = Graphs(self._step_of_kind, self._capture()) if self._is_ahead else None
        self._newest_is_left_out = False

    def feed(self, batches: Batches) -> Iterator[list[Batch]]:
        """Yield the batches, made while the GPU computes where nothing waits for it."""
        return made_aside(batches, self._context.device) if self._on_gpu else iter(batches)

    def step(self, parts: Sequence[Batch]) -> Result:
        """Do the next step; return its losses by name, which last until the step after it.

        Raises:
            DivergedError: See `look`.
        """
        self._whole_step.prepare()
        kind = Kind(parts[0].scale, self._state.step < self._config.train.pixel_only_steps)
        if self._graphs is None:
            losses = self._step_of_kind(kind, parts)
            self.look()
        else:
            losses = self._graphs.run(kind, parts)
        self._state.step += 1
        return losses

    def read(self, losses: Result) -> dict[str, float]:
        """Return the losses of the newest step, or how many were left out so far if it is one of them.

        Raises:
            DivergedError: See `look`.
        """
        if self._graphs is not None:
            self.look()
        if self._newest_is_left_out:
            return {"skipped": float(self._state.skipped)}
        return dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))

    def look(self) -> None:
        """Find what was left out since the last look, and report it.

        Raises:
            DivergedError: An update was not finite and is not to be left out, or too many were.
        """
        train, state = self._config.train, self._state
        count, self._newest_is_left_out, error = self._whole_step.left_out.look()
        if error is None:
            return
        if train.on_nan == "stop" or state.skipped + count > train.max_skipped:
            raise error
        state.skipped += count
        self._context.log(Event("skipped", state.step, {"skipped": float(state.skipped)}, error.what))

    def _share(self) -> tuple[Networks, Reduction]:
        """Return the networks as a step sees them, and how workers make one update together."""
        train, state, context = self._config.train, self._state, self._context
        perceptual = load_perceptual(self._config.loss)
        generator: nn.Module = state.generator
        discriminator: nn.Module = state.discriminator
        modules = (generator, discriminator)
        reduction: Reduction
        if train.reduction == "fast":
            reduction = Fast(context, modules)
            generator = context.prepare(generator, share_buffers=True)
            discriminator = context.prepare(discriminator, share_buffers=False)
        else:
            reduction = Exact(context, train.num_virtual_shards, modules, self._lanes())
        networks = Networks(
            generator,
            discriminator,
            perceptual.to(context.device) if perceptual else None,
            half_precision=half_precision(train.precision, context.device),
        )
        return networks, reduction

    def _lanes(self) -> Lanes:
        shards = share(self._config.train.num_virtual_shards, self._context)
        return Streams(self._context.device, shards) if self._on_gpu else InTurn()

    def _capture(self) -> Capture:
        if not self._on_gpu:
            return Direct()
        graphs = Cuda(self._context.device)
        return Checked(graphs, self._tensors, self._warn) if self._config.train.graphs == "auto" else graphs

    def _step_of_kind(self, kind: Hashable, parts: Sequence[Batch]) -> Result:
        return self._whole_step(parts, pixel_only=cast(Kind, kind).pixel_only)

    def _tensors(self) -> list[Tensor]:
        """Return all that a step changes."""
        return [*self._state.tensors().values(), self._whole_step.left_out.seen]

    def _warn(self, line: str) -> None:
        self._context.log(Event("warning", self._state.step, text=line))

"""The seam between training and the machines it runs on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from metasr.errors import CheckpointError
from metasr.events import Event

if TYPE_CHECKING:  # who only carries messages does without torch
    import torch
    from torch import Tensor, nn


class Request(IntEnum):
    """What is requested of training from outside, to be done after the current step; the highest counts."""

    NONE = 0
    CHECKPOINT = 1
    STOP = 2


class WorkerContext(Protocol):
    """What training asks of the world, whether that is a laptop or a cluster.

    Attributes:
        rank: This worker's number, which decides its share of the work and nothing else.
        num_workers: Workers that train together.
    """

    rank: int
    num_workers: int

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""

    def prepare(self, module: nn.Module, *, share_buffers: bool) -> nn.Module:
        """Wrap a module so that its gradients are averaged over the workers.

        With `share_buffers` all workers go on with the first worker's buffers (BatchNorm's running statistics); such
        a module allows one forward pass before each backward pass.
        """

    def average(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over the workers."""

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the `values` of every worker, in the order of their ranks; all have the same shape."""

    def resume(self, load: Callable[[Path], None]) -> str:
        """Call `load` with the folder of the newest checkpoint that it does not refuse with a CheckpointError.

        All workers load the same one. On a fresh start nothing is called.

        Returns:
            Which newer ones are bad, and why, on the worker that speaks for all; empty if none is.

        Raises:
            CheckpointError: There are checkpoints, and all are damaged.
        """

    def keep(self, step: int, score: float | None, save: Callable[[Path], None]) -> None:
        """Keep a checkpoint, which `save` writes into an empty folder; called on every worker.

        Args:
            step: Updates done.
            score: How good it is, higher is better; None if nobody looked.
            save: Called at once on the worker that writes it. Nobody waits for it to reach storage.
        """

    def log(self, event: Event) -> None:
        """Report what happened, once for all workers, without making training wait."""

    def requested(self) -> Request:
        """Return what is requested after this step: the same on all workers, which all call this at every step."""


def share(number: int, context: WorkerContext, rank: int | None = None) -> range:
    """Return which of `number` things a worker has: as many each as can be, in the order of the ranks.

    Args:
        number: At least the number of workers.
        context: The workers.
        rank: Whose share, by default one's own.
    """
    rank = context.rank if rank is None else rank
    return range(number * rank // context.num_workers, number * (rank + 1) // context.num_workers)


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


@dataclass
class LocalContext:
    """One process without a cluster: a laptop, a profiler, a test.

    Attributes:
        folder: Where checkpoints go, as `step-<n>`; an existing one is resumed.
        device: Where to compute.
        history: What was logged, `(step, values)`.
    """

    folder: Path
    device: torch.device = field(default_factory=_cpu)
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    rank: int = 0
    num_workers: int = 1

    def prepare(self, module: nn.Module, *, share_buffers: bool) -> nn.Module:
        """Return the module; there is nobody to share with."""
        return module

    def average(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the values alone."""
        return [values]

    def resume(self, load: Callable[[Path], None]) -> str:
        """Load the checkpoint with the highest step that is whole."""
        found = sorted(self.folder.glob("step-*"), key=lambda path: -int(path.name.removeprefix("step-")))
        bad: list[str] = []
        for folder in found:
            try:
                load(folder)
                break
            except CheckpointError as error:
                if folder == found[-1]:
                    raise
                bad.append(f"{folder.name} ({error.why})")
        return ", ".join(bad)

    def keep(self, step: int, score: float | None, save: Callable[[Path], None]) -> None:
        """Write the checkpoint of `step`."""
        whole, part = self.folder / f"step-{step}", self.folder / "part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save(part)
        shutil.rmtree(whole, ignore_errors=True)  # one that was refused
        part.rename(whole)

    def log(self, event: Event) -> None:
        """Remember the values."""
        self.history.append((event.step, dict(event.values)))

    def requested(self) -> Request:
        """Return that nothing is requested: there is nobody else."""
        return Request.NONE

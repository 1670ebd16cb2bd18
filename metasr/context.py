"""The seam between training and the machines it runs on."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn


class WorkerContext(Protocol):
    """What the training loop asks of the world. The loop never asks which worker it is, nor imports a cluster."""

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""

    def part(self, batch_size: int) -> slice:
        """Return this worker's patches within the batch of a step."""

    def prepare(self, module: nn.Module, *, share_buffers: bool) -> nn.Module:
        """Move a module to the device and average its gradients over the workers.

        With `share_buffers` all workers go on with the first worker's buffers (BatchNorm's running statistics); such
        a module allows one forward pass before each backward pass.
        """

    def average(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over the workers."""

    def newest_checkpoint(self) -> AbstractContextManager[Path | None]:
        """Give the folder of the newest checkpoint for as long as it is read; None on a fresh start."""

    def report(self, metrics: Mapping[str, float], save: Callable[[Path], None]) -> None:
        """Keep a checkpoint, which `save` writes into an empty folder; `metrics` says how good it is."""

    def log(self, step: int, metrics: Mapping[str, float], pictures: Mapping[str, bytes] | None = None) -> None:
        """Record metrics and PNG pictures of a step, once for all workers, without making training wait."""


@dataclass
class LocalContext:
    """One process without a cluster: a laptop, a profiler, a test.

    Attributes:
        folder: Where checkpoints go, as `step-<n>`; an existing one is resumed.
        device: Where to compute.
        history: What was logged, `(step, metrics)`.
    """

    folder: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def part(self, batch_size: int) -> slice:
        """Return the whole batch."""
        return slice(0, batch_size)

    def prepare(self, module: nn.Module, *, share_buffers: bool) -> nn.Module:
        """Move the module; there is nobody to share with."""
        return module.to(self.device)

    def average(self, values: Tensor) -> Tensor:
        """Return the values."""
        return values

    def newest_checkpoint(self) -> AbstractContextManager[Path | None]:
        """Give the checkpoint with the highest step."""
        found = sorted(self.folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
        return nullcontext(found[-1] if found else None)

    def report(self, metrics: Mapping[str, float], save: Callable[[Path], None]) -> None:
        """Write the checkpoint of `metrics["step"]`."""
        folder = self.folder / f"step-{int(metrics['step'])}"
        folder.mkdir(parents=True)
        save(folder)

    def log(self, step: int, metrics: Mapping[str, float], pictures: Mapping[str, bytes] | None = None) -> None:
        """Remember the metrics."""
        self.history.append((step, dict(metrics)))

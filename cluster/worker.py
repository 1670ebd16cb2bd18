"""The seam between `metasr.training` and `ray.train`: what runs inside a training worker."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.actor import ActorHandle
from torch import Tensor, nn

from cluster.config import JobConfig
from cluster.store import open_store
from cluster.stream import ShardCrops, read_index, shard_cache, validation_slices
from metasr.identity import RunIdentity
from metasr.training.loop import fit


class RayContext:
    """`metasr.context.WorkerContext` on a Ray Train worker.

    Args:
        tracker: The actor that `cluster.trainer` made for the run.
    """

    def __init__(self, tracker: ActorHandle) -> None:
        self._tracker = tracker
        self._ray = ray.train.get_context()

    @property
    def device(self) -> torch.device:
        """The device Ray gave this worker."""
        return ray.train.torch.get_device()

    def part(self, batch_size: int) -> slice:
        """Return this worker's patches: equal parts, in the order of the ranks."""
        share = batch_size // self._ray.get_world_size()
        return slice(self._ray.get_world_rank() * share, (self._ray.get_world_rank() + 1) * share)

    def prepare(self, module: nn.Module, *, share_buffers: bool) -> nn.Module:
        """Wrap the module in DistributedDataParallel."""
        options = {"broadcast_buffers": share_buffers}
        return ray.train.torch.prepare_model(module, parallel_strategy_kwargs=options)

    def average(self, values: Tensor) -> Tensor:
        """Return the mean over the workers."""
        if self._ray.get_world_size() > 1:
            torch.distributed.all_reduce(values)
        return values / self._ray.get_world_size()

    @contextmanager
    def newest_checkpoint(self) -> Iterator[Path | None]:
        """Give the newest checkpoint that Ray Train knows, as a local folder."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            yield None
        else:
            with checkpoint.as_directory() as folder:
                yield Path(folder)

    def report(self, metrics: Mapping[str, float], save: Callable[[Path], None]) -> None:
        """Have the first worker write the checkpoint; all wait until it is in storage."""
        if self._ray.get_world_rank() != 0:
            ray.train.report(dict(metrics))
            return
        with tempfile.TemporaryDirectory() as folder:
            save(Path(folder))
            ray.train.report(dict(metrics), checkpoint=ray.train.Checkpoint.from_directory(folder))

    def log(self, step: int, metrics: Mapping[str, float], pictures: Mapping[str, bytes] | None = None) -> None:
        """Send metrics and pictures of the first worker to the tracker, without waiting for it."""
        if self._ray.get_world_rank() == 0:
            self._tracker.log.remote(step, dict(metrics), dict(pictures or {}))


def train_worker(arguments: Mapping[str, Any]) -> None:
    """Train on one worker.

    Args:
        arguments: `config` (JobConfig as JSON values), `identity` (RunIdentity's fields), `tracker` (the actor) and
            `initial_weights` (in Ray's object store, None for random ones).
    """
    config = JobConfig.model_validate(arguments["config"])
    if not config.resources.gpu:
        torch.set_num_threads(max(1, int(config.resources.cpus_per_worker)))
    store = open_store(config.data.url)
    index = read_index(store)
    cache = shard_cache(store, config.storage.cache, config.storage.cache_gb)
    fit(
        config,
        ShardCrops(store, index, cache),
        (index.mean, index.std),
        validation_slices(store, index, config.eval.validation_slices, cache),
        RunIdentity(**arguments["identity"]),
        RayContext(arguments["tracker"]),
        ray.get(arguments["initial_weights"]),
    )

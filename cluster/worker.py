"""The seam between `metasr.training` and `ray.train`: what runs inside a training worker."""

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ray
import ray.train
import ray.train.torch
import torch
from ray.actor import ActorHandle
from torch import Tensor, nn

from cluster.checkpoints import Kept, RunCheckpoints, SupersededError, Uploader
from cluster.config import JobConfig
from cluster.store import Store, UnavailableError, open_store, patiently
from cluster.stream import ShardCrops, read_index, shard_cache, validation_slices
from cluster.watch import Event, Kind
from cluster.watchdog import watch_over_me
from metasr.context import Wish
from metasr.errors import MetaSRError
from metasr.identity import RunIdentity
from metasr.training.loop import fit

log = logging.getLogger(__name__)

FROZEN_AFTER_S = 30.0
HANGS_AFTER_S = 20  # sooner than Ray finds a worker that hangs, and ends those who wait for it
WISH_POLL_S = 0.5
PREEMPTION_EVERY_S = 5.0  # as often as Ray itself looks; all workers wait for each other's question, some ms


@dataclass(frozen=True)
class Job:
    """What the driver sends to every worker.

    Attributes:
        config: The settings.
        identity: What the run is made from.
        fence: Number of the driver's lease.
        mailbox: Actor beside the driver.
        initial_weights: In Ray's object store; None for random ones.
    """

    config: JobConfig
    identity: RunIdentity
    fence: int
    mailbox: ActorHandle
    initial_weights: ray.ObjectRef


class RayContext:
    """`metasr.context.WorkerContext` on a Ray Train worker.

    The first worker speaks for all: it keeps checkpoints and tells the driver.

    Args:
        job: What this worker was sent.
        data: Whose retries are reported.
        crops: Whose stand-ins for corrupt shards are reported.
    """

    def __init__(self, job: Job, data: Store, crops: ShardCrops) -> None:
        context = ray.train.get_context()
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        self._job, self._data, self._crops = job, data, crops
        self._storage = open_store(job.config.storage.url)
        self._checkpoints = RunCheckpoints(self._storage, job.identity.run_name)
        self._uploader: Uploader | None = None
        self._wishes = _Wishes(job.mailbox) if self.rank == 0 else None
        self._newest_step = self._retries = self._substituted = 0
        self._is_preempted, self._asked_at = False, time.monotonic()

    @property
    def device(self) -> torch.device:
        """The device Ray gave this worker."""
        return ray.train.torch.get_device()

    def prepare(self, module: nn.Module, *, share_buffers: bool) -> nn.Module:
        """Wrap the module in DistributedDataParallel."""
        options = {"broadcast_buffers": share_buffers}
        return ray.train.torch.prepare_model(module, parallel_strategy_kwargs=options)

    def average(self, values: Tensor) -> Tensor:
        """Return the mean over the workers."""
        if self.num_workers > 1:
            torch.distributed.all_reduce(values)
        return values / self.num_workers

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the values of every worker."""
        if self.num_workers == 1:
            return [values]
        found = [torch.empty_like(values) for _ in range(self.num_workers)]
        torch.distributed.all_gather(found, values)
        return found

    def resume(self, load: Callable[[Path], None]) -> None:
        """Have the first worker find the newest good checkpoint, and load it on all."""
        step = -1
        if self.rank == 0:
            self._take_over()
            kept = self._checkpoints.newest_good(load, log.warning)
            step = kept.step if kept else -1
        (found, *_) = self.gather(torch.tensor(step, device=self.device))
        if self.rank != 0 and found >= 0:
            self._checkpoints.fetch_step(int(found), load, log.warning)

    def keep(self, step: int, score: float | None, save: Callable[[Path], None]) -> None:
        """Have the first worker write the checkpoint to its disk; it goes up from there while training goes on."""
        if self._uploader is None:
            return
        began = time.perf_counter()
        self._uploader.submit(save, step, score)
        self.log("kept", step, {"seconds": time.perf_counter() - began})

    def log(
        self,
        kind: Kind,
        step: int,
        values: Mapping[str, float],
        *,
        text: str = "",
        pictures: Mapping[str, bytes] | None = None,
    ) -> None:
        """Send an event of the first worker to the driver, without waiting for it."""
        if self.rank == 0:
            self._job.mailbox.put.remote(Event(kind, step, dict(values), text, dict(pictures or {})))
        if kind == "steps":
            self._newest_step = step
            self._log_data_trouble()

    def wish(self) -> Wish:
        """Return what the driver wants, or a checkpoint where a node is about to be taken away."""
        faulthandler.dump_traceback_later(HANGS_AFTER_S)  # unless the next step comes before
        wish, is_due = Wish.NONE, False
        if self._wishes is not None:
            wish = self._wishes.newest
            is_due = not self._is_preempted and time.monotonic() - self._asked_at >= PREEMPTION_EVERY_S
        if self.num_workers > 1:  # all hear what the first worker knows
            told = self.gather(torch.tensor([int(wish), int(is_due)], device=self.device))[0].tolist()
            wish, is_due = Wish(told[0]), bool(told[1])
        if is_due and self._is_about_to_be_preempted():
            return max(wish, Wish.CHECKPOINT)
        return wish

    def _is_about_to_be_preempted(self) -> bool:
        """Ask Ray whether a node is about to be taken away. All workers have to ask equally often."""
        self._asked_at = time.monotonic()
        self._is_preempted = ray.train.get_preemption_info() is not None
        if self._is_preempted:
            self.log("stopping", self._newest_step, {}, text="a node is about to be taken away")
        return self._is_preempted

    def finish(self) -> None:
        """Wait until all checkpoints are in the store."""
        faulthandler.cancel_dump_traceback_later()
        if self._uploader is not None:
            self._uploader.drain()
            self._uploader.close()
            self._log_data_trouble()
        self.gather(torch.zeros((), device=self.device))  # a worker that ended early would take its group with it

    def _take_over(self) -> None:
        """Claim the run's checkpoints, and send up those that a worker before left on this disk."""
        self._checkpoints = self._checkpoints.claim(self._job.fence, log.warning)
        storage, keep = self._job.config.storage, self._job.config.train.keep_checkpoints
        spool = Path(storage.spool).expanduser() / self._job.identity.run_name
        copies = shard_cache(self._data, storage.cache, storage.cache_gb)
        make_room = copies.give_way if copies else lambda num_bytes: None
        self._uploader = Uploader(self._checkpoints, spool, keep, log.warning, self._log_upload, make_room)
        self._uploader.drain()

    def _log_upload(self, kept: Kept, seconds: float, waiting: int) -> None:
        values = {"seconds": seconds, "bytes": float(kept.num_bytes), "pending": float(waiting)}
        self.log("uploaded", kept.step, values)

    def _log_data_trouble(self) -> None:
        step, new = self._newest_step, self._crops.substituted[self._substituted :]
        self._substituted += len(new)
        if new:
            self.log("substituted", step, {}, text=", ".join(one.shard for one in new))
        counts = self._data.retries.counts + self._storage.retries.counts
        if counts.total() > self._retries:
            self._retries = counts.total()
            self.log("retries", step, {name: float(count) for name, count in counts.items()})


class _ToDriver(logging.Handler):
    """Has the driver tell the warnings of this worker."""

    def __init__(self, mailbox: ActorHandle) -> None:
        super().__init__(logging.WARNING)
        self._mailbox = mailbox

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning, without waiting."""
        self._mailbox.put.remote(Event("warning", 0, text=record.getMessage()))


class _Wishes:
    """Looks for the driver's wishes in a thread, so that no step waits for the answer."""

    def __init__(self, mailbox: ActorHandle) -> None:
        self.newest = Wish.NONE
        self._mailbox = mailbox
        threading.Thread(target=self._poll, daemon=True).start()

    def _poll(self) -> None:
        while True:
            self.newest = ray.get(self._mailbox.wish.remote())
            time.sleep(WISH_POLL_S)


def train_worker(arguments: Mapping[str, Job]) -> None:
    """Train on one worker.

    Args:
        arguments: `job`, what the driver sends.

    Raises:
        MetaSRError: Training cannot go on. The driver was told, unless a new group of workers may fare better.
    """
    job = arguments["job"]
    watch_over_me(FROZEN_AFTER_S)
    try:
        _train(job)
    except (UnavailableError, SupersededError):
        raise
    except MetaSRError as error:
        ray.get(job.mailbox.fail.remote(error))
        raise
    except Exception as error:
        if ray.train.get_context().get_world_rank() == 0:
            ray.get(job.mailbox.crash.remote(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
        raise


def _train(job: Job) -> None:
    began = time.perf_counter()
    config = job.config
    if config.resources.gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, by the first product of matrices
    else:
        torch.set_num_threads(max(1, int(config.resources.cpus_per_worker)))
    if ray.train.get_context().get_world_rank() == 0:
        logging.getLogger("cluster").addHandler(_ToDriver(job.mailbox))
    store = open_store(config.data.url)
    index = patiently(store, partial(read_index, store, job.identity.data_digest), log.warning)
    cache = shard_cache(store, config.storage.cache, config.storage.cache_gb)
    look_at = partial(validation_slices, store, index, config.eval.validation_slices, cache)
    validation = patiently(store, look_at, log.warning)
    crops = ShardCrops(store, index, cache, on_corrupt=config.data.on_corrupt)
    context = RayContext(job, store, crops)
    context.log("group", 0, {"num_workers": float(context.num_workers), "data_s": time.perf_counter() - began})
    weights = ray.get(job.initial_weights)
    fit(config, crops, (index.mean, index.std), validation, job.identity, context, weights)
    context.finish()

"""The seam between `metasr.training` and `ray.train`: what runs inside a training worker."""

import faulthandler
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import ray
import ray.train
import ray.train.torch
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError
from torch import Tensor, nn

from cluster.checkpoints import RunCheckpoints, SavedCheckpoint, SupersededError, Uploader
from cluster.config import JobConfig
from cluster.runtime.code_version import code_version
from cluster.store import Store, UnavailableError, open_store, wait_for_store
from cluster.stream import ShardCrops, read_index, shard_cache, validation_slices
from cluster.training.failures import RegroupError
from cluster.training.watchdog import watch_over_me
from cluster.watch import Event, Kind
from metasr.context import Wish
from metasr.errors import MetaSRError
from metasr.identity import RunIdentity
from metasr.training.loop import fit

log = logging.getLogger(__name__)

FROZEN_AFTER_S = 30.0
HANG_S, START_HANG_S = 300.0, 1800.0  # without a sign of life: between two steps, and before the first
ANSWER_S = 5.0
COLLECTIVE_WAIT = timedelta(days=7)  # one worker may wait for a store, however long, and the others for it
HANGS_AFTER_S = 20  # sooner than Ray finds a worker that hangs, and ends those who wait for it
WISH_POLL_S = 0.5
PREEMPTION_EVERY_S = 5.0  # as often as Ray itself looks; all workers wait for each other's question, some ms
LEAVE_BEFORE_S = 15.0  # a node is taken away: for a last checkpoint, with three looks at its notice
OF_EACH = ("retries", "substituted")  # what every worker tells of itself


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

    The first worker speaks for all: it keeps checkpoints and tells the driver. All tell of their trouble with data.

    Args:
        job: What this worker was sent.
        data: Whose retries are reported.
        crops: Whose stand-ins for corrupt shards are reported.
        progress: Told of steps.
    """

    def __init__(self, job: Job, data: Store, crops: ShardCrops, progress: "_Progress") -> None:
        context = ray.train.get_context()
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        self._group = torch.distributed.new_group(timeout=COLLECTIVE_WAIT) if self.num_workers > 1 else None
        self._job, self._data, self._crops, self._progress = job, data, crops, progress
        self._storage = open_store(job.config.storage.url)
        progress.stores.append(self._storage)
        self._checkpoints = RunCheckpoints(self._storage, job.identity.run_name)
        self._uploader: Uploader | None = None
        self._wishes = _Wishes(job.mailbox) if self.rank == 0 else None
        self._step = self._newest_step = self._retries = self._substituted = 0
        self._asked_at, self._leave_at = time.monotonic(), math.inf
        self._leaving: set[str] = set()

    @property
    def device(self) -> torch.device:
        """The device Ray gave this worker."""
        return ray.train.torch.get_device()

    def prepare(self, module: nn.Module, *, share_buffers: bool) -> nn.Module:
        """Wrap the module in DistributedDataParallel."""
        options = {"broadcast_buffers": share_buffers, "process_group": self._group}
        return ray.train.torch.prepare_model(module, parallel_strategy_kwargs=options)

    def average(self, values: Tensor) -> Tensor:
        """Return the mean over the workers."""
        if self.num_workers > 1:
            torch.distributed.all_reduce(values, group=self._group)
        return values / self.num_workers

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the values of every worker."""
        if self.num_workers == 1:
            return [values]
        found = [torch.empty_like(values) for _ in range(self.num_workers)]
        torch.distributed.all_gather(found, values, group=self._group)
        return found

    def resume(self, load: Callable[[Path], None]) -> str:
        """Have the first worker find the newest good checkpoint, and load it on all."""
        step, bad = -1, list[str]()
        if self.rank == 0:
            self._take_over()
            kept = self._checkpoints.newest_good(load, log.warning, bad.append)
            step = kept.step if kept else -1
        (found, *_) = self.gather(torch.tensor(step, device=self.device))
        if self.rank != 0 and found >= 0:
            self._checkpoints.fetch_step(int(found), load, log.warning)
        return ", ".join(bad)

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
        """Send an event to the driver, without waiting for it; of what concerns all, that of the first worker."""
        if self.rank == 0 or kind in OF_EACH:
            self._job.mailbox.put.remote(Event(kind, step, dict(values), text, dict(pictures or {}), self.rank))
        if kind == "steps":
            self._newest_step = step
            self._log_data_trouble()
        elif kind == "resumed":
            self._step = step
        elif kind == "validated":
            self._progress.rests = False

    def wish(self) -> Wish:
        """Return what the driver wants, or a checkpoint where a node is about to be taken away."""
        faulthandler.dump_traceback_later(HANGS_AFTER_S)  # unless the next step comes before
        self._step += 1
        self._progress.steps += 1
        wish, is_due = Wish.NONE, False
        if self._wishes is not None:
            wish = Wish.STOP if time.time() >= self._leave_at else self._wishes.newest
            is_due = time.monotonic() - self._asked_at >= PREEMPTION_EVERY_S
        if self.num_workers > 1:  # all hear what the first worker knows
            told = self.gather(torch.tensor([int(wish), int(is_due)], device=self.device))[0].tolist()
            wish, is_due = Wish(told[0]), bool(told[1])
        train = self._job.config.train  # validation comes next, or not
        self._progress.rests = self._step % train.checkpoint_every_steps == 0 or self._step == train.steps
        if is_due and self._is_another_node_leaving():
            return max(wish, Wish.CHECKPOINT)
        return wish

    def _is_another_node_leaving(self) -> bool:
        """Ask Ray whether a node is about to be taken away, one more. All workers have to ask equally often."""
        self._asked_at = time.monotonic()
        info = ray.train.get_preemption_info()
        if info is None:
            return False
        self._leave_at = info.deadline_ms / 1000 - LEAVE_BEFORE_S if info.deadline_ms else 0.0
        known, self._leaving = self._leaving, self._leaving | set(info.preempted_node_ids)
        if self._leaving == known:
            return False
        self.log("stopping", self._newest_step, {}, text="a node is about to be taken away")
        return True

    def finish(self) -> None:
        """Wait until all checkpoints are in the store."""
        faulthandler.cancel_dump_traceback_later()
        self._progress.rests = True
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

    def _log_upload(self, kept: SavedCheckpoint, seconds: float, waiting: int) -> None:
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

    def __init__(self, mailbox: ActorHandle, rank: int) -> None:
        super().__init__(logging.WARNING)
        self._mailbox, self._rank = mailbox, rank

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning, without waiting."""
        self._mailbox.put.remote(Event("warning", 0, text=record.getMessage(), rank=self._rank))


class _Progress:
    """Whether the workers of a group come on: by a step, or by another try at a store that is away.

    They wait for each other. Where one hangs all stand still, and where one waits for a store none is to be ended.

    Attributes:
        stores: Whose tries count.
        steps: Done by this worker.
        rests: Whether this worker is at something that takes as long as it takes.
    """

    def __init__(self, mailbox: ActorHandle) -> None:
        self.stores: list[Store] = []
        self.steps, self.rests = 0, False
        self._mailbox, self._has_told = mailbox, False
        self._seen = -1, 0

    def goes_on(self) -> bool:
        """Tell the others whether this worker comes on; return False if none has for too long."""
        now = self.steps, sum(store.retries.counts.total() for store in self.stores)
        comes_on, self._seen = self.rests or now != self._seen, now
        try:
            still_s: float = ray.get(self._mailbox.stands_still.remote(comes_on), timeout=ANSWER_S)
        except RayError:
            return True  # nobody can say: without a driver, Ray ends its workers
        if still_s < (HANG_S if self.steps else START_HANG_S):
            return True
        if not self._has_told:
            log.warning("no worker has come on for %.0f s: a new group is made", still_s)
        self._has_told = True
        return False


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
    progress = _Progress(job.mailbox)
    watch_over_me(FROZEN_AFTER_S, progress.goes_on)
    try:
        _train(job, progress)
    except (UnavailableError, SupersededError):
        raise
    except MetaSRError as error:
        ray.get(job.mailbox.fail.remote(error))
        raise


def _train(job: Job, progress: _Progress) -> None:
    began = time.perf_counter()
    config = job.config
    if config.resources.gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, by the first product of matrices
    else:
        torch.set_num_threads(max(1, int(config.resources.cpus_per_worker)))
    logging.getLogger("cluster").addHandler(_ToDriver(job.mailbox, ray.train.get_context().get_world_rank()))
    identity = replace(job.identity, code_version=code_version())
    if identity != job.identity:
        log.warning("code %s runs here, and %s where the driver is", identity.code_version, job.identity.code_version)
    store = open_store(config.data.url)
    progress.stores.append(store)
    index = wait_for_store(store, partial(read_index, store, job.identity.data_digest), log.warning)
    cache = shard_cache(store, config.storage.cache, config.storage.cache_gb)
    look_at = partial(validation_slices, store, index, config.eval.validation_slices, cache)
    validation = wait_for_store(store, look_at, log.warning)
    crops = ShardCrops(store, index, cache, on_corrupt=config.data.on_corrupt)
    context = RayContext(job, store, crops, progress)
    context.log("group", 0, {"num_workers": float(context.num_workers), "data_s": time.perf_counter() - began})
    weights = ray.get(job.initial_weights)
    state = fit(config, crops, (index.mean, index.std), validation, identity, context, weights)
    context.finish()
    has_stopped = context.rank == 0 and state.step < config.train.steps
    if has_stopped and ray.get(job.mailbox.regroups.remote()):
        context.log("stopping", state.step, {}, text="training goes on with other workers")
        raise RegroupError

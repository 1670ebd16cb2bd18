"""`RayContext`, the seam between `metasr.training` and `ray.train`."""

import faulthandler
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import ray
import ray.train
import ray.train.torch
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from cluster.checkpoints import RunCheckpoints, SavedCheckpoint, Uploader
from cluster.store import Store, open_store
from cluster.stream import ShardCrops, shard_cache
from cluster.training.job import Job
from cluster.training.progress import REQUEST_POLL_S, Progress, Requests
from metasr.context import Request
from metasr.events import Event

log = logging.getLogger(__name__)

COLLECTIVE_WAIT = timedelta(days=7)  # a worker may wait long for a store, and the others wait for that worker
HANGS_AFTER_S = 20  # less than Ray's limit: the stacks are logged before Ray ends a worker that hangs
PREEMPTION_EVERY_S = 5.0  # as often as Ray itself looks; all workers wait for each other, for a few ms
LAST_UPLOAD_S = 15.0  # for the last uploads, once the run is to end
LEAVE_BEFORE_S = 15.0  # before a node is taken away: time for a last checkpoint
OF_EACH = ("retries", "substituted")  # kinds that every worker reports


class RayContext:
    """`metasr.context.WorkerContext` on a Ray Train worker.

    The first worker saves checkpoints and reports events; all workers report retries and replaced shards.

    Args:
        job: The job.
        data: Store of the data; its retries are reported.
        crops: Training crops; replaced shards are reported.
        progress: Counts steps.
    """

    def __init__(self, job: Job, data: Store, crops: ShardCrops, progress: Progress) -> None:
        context = ray.train.get_context()
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        self._group: ProcessGroup | None = None
        if self.num_workers > 1:
            self._group = cast(ProcessGroup, torch.distributed.new_group(timeout=COLLECTIVE_WAIT))
        self._job, self._data, self._crops, self._progress = job, data, crops, progress
        self._storage = open_store(job.config.storage.url, has_begun=True)
        progress.stores.append(self._storage)
        self._checkpoints = RunCheckpoints(self._storage, job.identity.run_name)
        self._uploader: Uploader | None = None
        self._requests = Requests(job.mailbox, progress) if self.rank == 0 else None
        self._step = self._newest_step = self._retries = self._substituted = 0
        self._looked_at, self._leave_at = time.monotonic(), math.inf
        self._leaving: set[str] = set()

    @property
    def device(self) -> torch.device:
        """The device that Ray assigned to this worker."""
        return ray.train.torch.get_device()

    def prepare(self, module: nn.Module, *, share_buffers: bool) -> nn.Module:
        """Wrap the module in DistributedDataParallel."""
        options = {"broadcast_buffers": share_buffers, "process_group": self._group}
        return ray.train.torch.prepare_model(module, parallel_strategy_kwargs=options)

    def average(self, values: Tensor) -> Tensor:
        """Return the mean over the workers."""
        if self.num_workers > 1:
            torch.distributed.all_reduce(values, group=self._group)
        mean: Tensor = values / self.num_workers
        return mean

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the values of every worker."""
        if self.num_workers == 1:
            return [values]
        found = [torch.empty_like(values) for _ in range(self.num_workers)]
        torch.distributed.all_gather(found, values, group=self._group)
        return found

    def resume(self, load: Callable[[Path], None]) -> str:
        """Find the newest good checkpoint on the first worker, and load it on all."""
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
        """Write the checkpoint to the first worker's disk, from where it is uploaded while training continues."""
        if self._uploader is None:
            return
        began = time.perf_counter()
        self._uploader.submit(save, step, score)
        self.log(Event("kept", step, {"seconds": time.perf_counter() - began}))

    def log(self, event: Event) -> None:
        """Send an event to the driver without waiting; most kinds are sent by the first worker only."""
        if self.rank == 0 or event.kind in OF_EACH:
            self._job.mailbox.put.remote(replace(event, rank=self.rank))
        if event.kind == "steps":
            self._newest_step = event.step
            self._log_data_trouble()
        elif event.kind == "resumed":
            self._step = event.step
        elif event.kind == "validated":
            self._progress.may_take_long = False

    def requested(self) -> Request:
        """Return the driver's request, or a checkpoint if a node is about to be taken away."""
        faulthandler.dump_traceback_later(HANGS_AFTER_S)  # if the next step takes longer
        self._step += 1
        self._progress.steps += 1
        request, is_due = Request.NONE, False
        if self._requests is not None:
            request = Request.STOP if time.time() >= self._leave_at else self._requests.newest
            is_due = time.monotonic() - self._looked_at >= PREEMPTION_EVERY_S
        if self.num_workers > 1:  # all workers get the request of the first one
            sent = self.gather(torch.tensor([int(request), int(is_due)], device=self.device))[0].tolist()
            request, is_due = Request(sent[0]), bool(sent[1])
        train = self._job.config.train
        is_validating = self._step % train.checkpoint_every_steps == 0 or self._step == train.steps
        self._progress.may_take_long = is_validating
        if is_due and self._is_another_node_leaving():
            return max(request, Request.CHECKPOINT)
        return request

    def _is_another_node_leaving(self) -> bool:
        """Return whether one more node is about to be taken away. All workers must call this equally often."""
        self._looked_at = time.monotonic()
        info = ray.train.get_preemption_info()
        if info is None:
            return False
        self._leave_at = info.deadline_ms / 1000 - LEAVE_BEFORE_S if info.deadline_ms else 0.0
        known, self._leaving = self._leaving, self._leaving | set(info.preempted_node_ids)
        if self._leaving == known:
            return False
        self.log(Event("stopping", self._newest_step, text="a node is about to be taken away"))
        return True

    def finish(self) -> None:
        """Wait until all checkpoints are uploaded; if the run is to end, only briefly for a store that is away."""
        faulthandler.cancel_dump_traceback_later()
        self._progress.may_take_long = True
        if self._uploader is not None:
            self._drain(self._uploader)
            self._uploader.close()
            self._log_data_trouble()
        self.gather(torch.zeros((), device=self.device))  # a worker that ends early would end its group

    def _drain(self, uploader: Uploader) -> None:
        end = math.inf
        while not uploader.drain(REQUEST_POLL_S):
            is_to_end = self._requests is not None and self._requests.newest == Request.STOP
            if end == math.inf and is_to_end and not ray.get(self._job.mailbox.regroups.remote()):
                end = time.monotonic() + LAST_UPLOAD_S
            if time.monotonic() > end:
                log.warning("a checkpoint waits on the disk of this worker: the same command uploads it from there")
                return

    def _take_over(self) -> None:
        """Claim the run's checkpoints, and upload those that an earlier worker left on this disk."""
        self._checkpoints = self._checkpoints.claim(self._job.fence, log.warning)
        storage, keep = self._job.config.storage, self._job.config.train.keep_checkpoints
        spool = Path(storage.spool).expanduser() / self._job.identity.run_name
        copies = shard_cache(self._data, storage.cache, storage.cache_gb)
        make_room = copies.give_way if copies else lambda num_bytes: None
        self._uploader = Uploader(self._checkpoints, spool, keep, log.warning, self._log_upload, make_room)
        self._uploader.drain()

    def _log_upload(self, kept: SavedCheckpoint, seconds: float, waiting: int) -> None:
        values = {"seconds": seconds, "bytes": float(kept.num_bytes), "pending": float(waiting)}
        self.log(Event("uploaded", kept.step, values))

    def _log_data_trouble(self) -> None:
        step, new = self._newest_step, self._crops.substituted[self._substituted :]
        self._substituted += len(new)
        if new:
            self.log(Event("substituted", step, text=", ".join(one.shard for one in new)))
        counts = self._data.retries.counts + self._storage.retries.counts
        if counts.total() > self._retries:
            self._retries = counts.total()
            self.log(Event("retries", step, {name: float(count) for name, count in counts.items()}))

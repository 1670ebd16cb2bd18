"""A group of light workers: a process with all of them, which dies as a group of Ray Train's does when one does.

What a worker does besides computing is what `cluster.training` has workers do, by the same code where that needs no
torch: read the index, validation slices and shards; claim, look for and fetch checkpoints; upload them; report
events, progress and the requests that were made again; ask what is requested. Workers reduce by a function call.

As a program it takes a file with its job, and ends with one of `Ended`.
"""

import io
import json
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from PIL import Image

from cluster.checkpoints import RunCheckpoints, SupersededError, Uploader
from cluster.store import open_store
from cluster.training.progress import Progress, Requests
from metasr.context import Request, share
from metasr.events import Event
from tests.simulation.counting import CountedActor, Tally, counted_store, cpu_and_peak
from tests.simulation.data import INDEX, SAMPLE_BYTES, VAL, Data, State
from tests.simulation.post import Handle, deliver_without_ray
from tests.simulation.schedule import Happening

HEARTBEAT_S = 3.0  # as `cluster.training.worker` and its watchdog
THREADS = 64
VALIDATION_SHARDS = 4  # each with one of the slices that are looked at, if there are as many
PICTURE_PX = 160
AGAIN_S = 0.5


@dataclass(frozen=True)
class Job:
    """What a group is to do.

    Attributes:
        data, steps, checkpoint_every, checkpoint_bytes, step_s: Of the run.
        run_name, storage_url, data_url, fence: See `cluster.training.job.Job`.
        machines: By number, of the group; the first worker is on the first.
        num_workers: Workers of the group.
        spools: Folder with a folder for the disk of each machine.
        counts: File for what the group has asked for.
        coming: What happens to the group, in order.
        mailbox: Name of the driver's.
    """

    data: Data
    steps: int
    checkpoint_every: int
    checkpoint_bytes: int
    step_s: float
    run_name: str
    storage_url: str
    data_url: str
    fence: int
    machines: tuple[int, ...]
    num_workers: int
    spools: Path
    counts: Path
    coming: tuple[Happening, ...]
    mailbox: str

    def write(self, path: Path) -> None:
        """Write it for the process of the group."""
        path.write_text(json.dumps(asdict(self), default=str))

    @classmethod
    def read(cls, path: Path) -> "Job":
        """Read it there."""
        said = json.loads(path.read_text())
        said["data"], said["machines"] = Data(**said["data"]), tuple(said["machines"])
        said["spools"], said["counts"] = Path(said["spools"]), Path(said["counts"])
        said["coming"] = tuple(Happening(*one) for one in said["coming"])
        return cls(**said)


class Ended(IntEnum):
    """How a group ends, unless it is killed; also its exit code."""

    DONE = 0
    REGROUPS = 3
    SUPERSEDED = 4


@dataclass
class Place:
    """What `metasr.context.share` asks of a worker."""

    rank: int
    num_workers: int


class Worker:
    """One of them.

    Args:
        job: Of the group.
        rank: Whose part of each batch it reads.
        store: The data.
        mailbox: For its progress.
    """

    def __init__(self, job, rank, store, mailbox):
        self.rank, self._store, self._data, self._order = rank, store, job.data, job.data.order
        self.progress = Progress(mailbox)
        batch = job.data.num_virtual_shards
        mine = share(batch, Place(rank, job.num_workers))
        self._virtual_shards = self._order.virtual_shards_of(batch, slice(mine.start, mine.stop))
        self._windows, self._held = {}, {}
        self._ends = np.cumsum(job.data.shard_sizes)

    def open(self):
        """Read what a worker reads before its first step."""
        self._store.get(INDEX)
        for _ in range(VALIDATION_SHARDS):
            self._store.get(VAL)

    def samples(self, step):
        """Return the numbers of this worker's samples of a step, as they were read."""
        self.progress.steps += 1
        wanted = [
            (virtual_shard, self._order.samples(virtual_shard, step, 1)) for virtual_shard in self._virtual_shards
        ]
        return np.concatenate([self._read(virtual_shard, step, samples) for virtual_shard, samples in wanted])

    def _read(self, virtual_shard, position, samples):
        window = self._windows.get(virtual_shard)
        if window is None or not window.start <= position < window.stop:
            self._windows[virtual_shard] = next(self._order.windows(virtual_shard, position))
            needed = {shard for one in self._windows.values() for shard in one.shards}
            self._held = {
                shard: self._held.get(shard) or self._store.get(self._data.key(shard)) for shard in sorted(needed)
            }
        found = []
        for sample in self._order.samples(virtual_shard, position, 1).tolist():
            shard = int(np.searchsorted(self._ends, sample, side="right"))
            first = (sample - int(self._ends[shard]) + self._data.shard_sizes[shard]) * SAMPLE_BYTES
            found.append(int.from_bytes(self._held[shard][first : first + 8], "little"))
        return np.array(found, np.int64)


class _Group:
    def __init__(self, job):
        self.job, self.tally = job, Tally()
        self.mailbox = CountedActor(Handle(job.mailbox), self.tally)
        self._data_store = counted_store(open_store(job.data_url), self.tally)
        self._storage = counted_store(open_store(job.storage_url, has_begun=True), self.tally)
        self._checkpoints = RunCheckpoints(self._storage, job.run_name)
        self._workers = [Worker(job, rank, self._data_store, self.mailbox) for rank in range(job.num_workers)]
        self._threads = ThreadPoolExecutor(min(THREADS, job.num_workers))
        self._state, self._over = State(job.data), threading.Event()
        self._picture = _picture()

    def run(self):
        began = time.perf_counter()
        threading.Thread(target=self._beat, daemon=True).start()
        list(self._threads.map(Worker.open, self._workers))
        opened = time.perf_counter()
        self._log("group", {"num_workers": self.job.num_workers, "data_s": opened - began})
        self._resume()
        self.tally.add("group starts")
        self.tally.add("start workers", self.job.num_workers)
        self.tally.add("start get", self.tally.counts["store get"] + self.tally.counts["store get_range"])
        self.tally.add("group start ms", 1000 * (time.perf_counter() - began))
        try:
            self._train()
        finally:
            self._end()
        if self._state.step == self.job.steps:
            return Ended.DONE
        assert self.mailbox.regroups.remote()
        self._log("stopping", text="training continues with other workers")
        return Ended.REGROUPS

    def _resume(self):
        """As `RayContext.resume`: the first worker finds the checkpoint, the others fetch the same."""
        job = self.job
        self._checkpoints = self._checkpoints.claim(job.fence, self._warn)
        spool = job.spools / str(job.machines[0]) / job.run_name
        self._uploader = Uploader(self._checkpoints, spool, 3, self._warn, self._uploaded)
        self._uploader.drain()
        kept = self._checkpoints.newest_good(self._state.load, self._warn)
        if kept is not None:
            states, fetch = [State(job.data) for _ in self._workers[1:]], self._checkpoints.fetch_step
            list(self._threads.map(lambda state: fetch(kept.step, state.load, self._warn), states))
            assert all(state.chain == self._state.chain for state in states)
        self._log("resumed", {"resumed_at_step": self._state.step})
        self._requests = Requests(self.mailbox, self._workers[0].progress)

    def _train(self):
        job, state, is_forgotten = self.job, self._state, False
        then, coming = time.perf_counter(), list(job.coming)
        while state.step < job.steps:
            begin, step = time.monotonic(), state.step
            kind = coming[0].kind if coming and step >= coming[0].step else ""
            if kind in ("worker fails", "machine lost"):
                self._die(coming[0])
            state.advance(np.concatenate(self._samples(step, self._workers)))
            then = self._log_steps(then)
            if kind == "store busy":
                self._report_retries()
                coming.pop(0)
            is_forgotten = is_forgotten or kind == "driver frozen"
            is_asked = self._requests.newest == Request.STOP or kind == "machine leaves"
            if state.step % job.checkpoint_every == 0 or state.step == job.steps:
                self._validate()
                if is_forgotten:
                    self._go_on_until_refused()
            elif is_asked:
                self._keep(None)
            if is_asked:
                return
            time.sleep(max(0.0, begin + job.step_s - time.monotonic()))

    def _go_on_until_refused(self):
        """Keep the newest checkpoint again and again, until another driver has claimed the run.

        Workers whose driver is frozen would go on with steps; these stay, so that the next group finds work.
        """
        while True:
            self._keep(self._state.number)
            self._uploader.drain()
            time.sleep(AGAIN_S)

    def _samples(self, step, workers):
        return list(self._threads.map(lambda worker: worker.samples(step), workers))

    def _log_steps(self, then):
        now, number = time.perf_counter(), self._state.number
        values = {f"loss_{name}": number for name in ("total", "pixel", "adversarial", "perceptual", "discriminator")}
        rates = {"steps_per_s": 1 / (now - then), "samples_per_s": 1.0, "waiting_share": 0.0}
        self._log("steps", values | rates)
        return now

    def _validate(self):
        state = self._state
        values = {f"val_psnr_{name}_{scale}": state.number for name in ("model", "bicubic") for scale in (2, 3, 4)}
        values |= {"val_psnr_gain": state.number, "seconds": 0.0}
        self._log("validated", values, pictures={"val": self._picture})
        self._keep(state.number)

    def _keep(self, score):
        self._uploader.submit(
            lambda folder: self._state.save(folder, self.job.checkpoint_bytes), self._state.step, score
        )
        self._log("kept", {"seconds": 0.0})

    def _report_retries(self):
        """Each worker has had a request to make again, as when a store was busy."""
        for worker in self._workers:
            self._log("retries", {"busy": 1.0}, rank=worker.rank)

    def _die(self, coming):
        """Some workers are in the middle of a step when one is killed, and its group with it."""
        some = self._workers[: 1 + int(coming.place * len(self._workers))]
        self._samples(self._state.step, some)
        self._note()
        os.kill(os.getpid(), signal.SIGKILL)

    def _end(self):
        self._over.set()
        try:
            self._uploader.drain()
        finally:
            self._uploader.close()
            self._note()

    def _note(self):
        cpu_s, peak_mb = cpu_and_peak(os.getpid())
        self.tally.add("workers CPU s", cpu_s)
        self.tally.counts["workers peak MB"] = peak_mb
        for reason, count in (self._data_store.retries.counts + self._storage.retries.counts).items():
            self.tally.add(f"store retried: {reason}", count)
        self.tally.write(self.job.counts)

    def _beat(self):
        """The heartbeats of all workers, each of which has a thread for it."""
        while not self._over.is_set():
            begin = time.monotonic()
            for worker in self._workers:
                if not self._over.is_set():
                    worker.progress.continues()
            self._over.wait(max(0.0, begin + HEARTBEAT_S - time.monotonic()))

    def _uploaded(self, kept, seconds, waiting):
        values = {"seconds": seconds, "bytes": float(kept.num_bytes), "pending": float(waiting)}
        self.mailbox.put.remote(Event("uploaded", kept.step, values))

    def _log(self, kind, values=(), text="", pictures=(), rank=0):
        event = Event(kind, self._state.step, dict(values), text, dict(pictures), rank=rank)
        self.mailbox.put.remote(event)

    def _warn(self, text, *arguments):
        self._log("warning", text=text % arguments if arguments else text)


def _picture():
    """Return a PNG picture as large as one of a validation."""
    noise = Image.frombytes("L", (PICTURE_PX, PICTURE_PX), random.Random(0).randbytes(PICTURE_PX**2))
    noise.save(file := io.BytesIO(), "png")
    return file.getvalue()


def main(path: str) -> int:
    """Train; return the exit code."""
    deliver_without_ray()
    try:
        return _Group(Job.read(Path(path))).run()
    except SupersededError:
        return Ended.SUPERSEDED


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    os._exit(code)  # as threads that poll the mailbox have no end

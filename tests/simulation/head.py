"""The driver of a simulated run: the project's own parts, around a light group of workers."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from cluster.checkpoints import RunCheckpoints, SupersededError
from cluster.config import TrackingConfig
from cluster.outbox.run_log import RunLog
from cluster.store import Store, open_store
from cluster.store.lease import Lease, RunTakenError
from cluster.store.waiting import WaitingStore
from cluster.training.failures import Failure
from cluster.training.mailbox import mail
from cluster.training.observers import REPORT, Observers
from tests.simulation.counting import Tally, counted_store
from tests.simulation.data import Data
from tests.simulation.field import Ended, Job
from tests.simulation.schedule import WORKERS_PER_MACHINE, Happening, machines_after

PATIENCE_S = 600
LOOK_AGAIN_S = 0.1
RIVAL_S = 120.0  # a rival that is patient with a driver that a busy machine holds up


@dataclass(frozen=True)
class Run:
    """A simulated run: what it trains and where."""

    name: str
    data: Data
    num_workers: int
    steps: int
    checkpoint_every: int
    checkpoint_bytes: int
    step_s: float
    storage_url: str
    data_url: str
    folder: Path
    tracking: TrackingConfig


@dataclass
class Seen:
    """What was seen of a run, for the invariants and the table.

    Attributes:
        groups: Workers of each group.
        fences: Of the drivers, in order.
        rivals_refused, rivals: Drivers that asked for the lease of one that was alive.
        woken_lost: Of each driver that was frozen, whether it found its lease lost.
        woken_refused: Of each, whether its ledger was closed to it, and its workers stopped.
        waiting_at_end: Records that MLflow had not got.
        drain_s: From the end of the last group until MLflow had all.
        events: Events that drivers have seen.
    """

    groups: list[int] = field(default_factory=list)
    fences: list[int] = field(default_factory=list)
    rivals: int = 0
    rivals_refused: int = 0
    woken_lost: list[bool] = field(default_factory=list)
    woken_refused: list[bool] = field(default_factory=list)
    waiting_at_end: int = 0
    drain_s: float = 0.0
    events: int = 0


class Freezable(WaitingStore):
    """A store whose compare-and-set a process cannot do while it is frozen.

    Attributes:
        runs: Whether it is not.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store, lambda line: None)
        self.runs = threading.Event()
        self.runs.set()

    def _replace(self, key, data, version):
        self.runs.wait()
        return super()._replace(key, data, version)


class Head:
    """Drives a run, one driver after the other, until it ends.

    Args:
        run: The run.
        happenings: What happens to it.
        tally: Counts the requests of this process.
    """

    def __init__(self, run: Run, happenings: list[Happening], tally: Tally) -> None:
        self.run, self.seen = run, Seen()
        self._coming, self._happened, self._tally = list(happenings), [], tally
        self._step, self._is_done = 0, False
        self._frozen: list[_Frozen] = []

    def drive(self) -> None:
        """Drive to the end; a driver that was frozen on the way wakes up when the next has its place."""
        while self._one_driver():
            pass

    def _one_driver(self) -> bool:
        """Drive until the run ends, or this driver is frozen; return whether another must follow."""
        run, store = self.run, Freezable(open_store(self.run.storage_url))
        lease = Lease.acquire(store, run.name, self._tell)
        self.seen.fences.append(lease.fence)
        storage = counted_store(open_store(run.storage_url, has_begun=True), self._tally)
        checkpoints = RunCheckpoints(storage, run.name).claim(lease.fence, self._tell)
        self._wake()
        spool = str(run.folder / f"records-{lease.fence}")  # the disk of this driver's machine
        log = RunLog(run.tracking.model_copy(update={"spool": spool}), run.name, {"workers": run.num_workers}, {})
        observers = Observers(log, run.steps, self._tell)
        with ExitStack() as stack:
            box = stack.enter_context(mail(self._seen_by(observers, store.runs, lease), max_failures=8))
            frozen = self._groups(box, lease, store)
            if frozen is not None:
                frozen.lease, frozen.store, frozen.checkpoints = lease, store, checkpoints
                frozen.log, frozen.rest = log, stack.pop_all()
                self._frozen.append(frozen)
                return True
        begin = time.monotonic()
        checkpoints = checkpoints.claim(lease.fence, self._tell)
        observers.finish("FINISHED", "finished", lambda content: storage.put(f"{run.name}/{REPORT}", content))
        checkpoints.finish({"step": str(run.steps)})
        self.seen.waiting_at_end += log.drain(PATIENCE_S)
        self.seen.drain_s = time.monotonic() - begin
        log.close()
        lease.release()
        return False

    def _groups(self, box, lease, store):
        """Start groups until the run ends; return the driver as it is frozen, None at the end."""
        run = self.run
        while True:
            machines = machines_after(self._happened, run.num_workers)
            workers = min(run.num_workers, WORKERS_PER_MACHINE * len(machines))
            if run.num_workers < 2 * WORKERS_PER_MACHINE:
                workers = max(1, run.num_workers * len(machines) // 2)
            coming = self._next()
            number = len(self.seen.groups)
            job = Job(
                run.data,
                run.steps,
                run.checkpoint_every,
                run.checkpoint_bytes,
                run.step_s,
                run.name,
                run.storage_url,
                run.data_url,
                lease.fence,
                machines,
                workers,
                run.folder / "disks",
                run.folder / f"counts-{number:04}.json",
                coming,
                box.actor.name,
            )
            self.seen.groups.append(workers)
            job.write(path := run.folder / f"job-{number:04}.json")
            group = subprocess.Popen([sys.executable, "-m", "tests.simulation.field", path])
            if self._watch(group, coming, box, lease) == "frozen":
                store.runs.clear()
                return _Frozen(group)
            if self._is_done:
                return None

    def _watch(self, group, coming, box, lease):
        """Wait until a group ends, or this driver is frozen; let happen what is to happen meanwhile."""
        left, has_asked = list(coming), False
        while group.poll() is None:
            time.sleep(LOOK_AGAIN_S)
            assert not lease.lost.is_set(), "a driver that is alive has lost its lease"
            if not left or self._step < left[0].step:
                continue
            if left[0].kind == "store busy":
                self._took_place(left.pop(0))
            elif left[0].kind == "driver frozen":
                self._rival()
                self._took_place(left[0])
                return "frozen"
            elif left[0].kind == "machines join" and not has_asked:
                has_asked = True
                box.grow()
        self._note_end(group.returncode, left, box)
        return "ended"

    def _note_end(self, code, left, box):
        """Note how a group has ended, and what of what was to happen to it has."""
        if code == -signal.SIGKILL:
            box.actor.failed.remote(Failure("ActorDiedError (worker 0)", is_bug=False))
            if final := box.actor.final.remote():
                raise final
        elif code not in (Ended.DONE, Ended.REGROUPS):
            raise AssertionError(f"a group has ended with exit code {code}")
        self._is_done = code == Ended.DONE
        if not self._is_done:
            for happening in left:
                self._took_place(happening)

    def _next(self):
        """Return what happens to the next group: nothing comes after what ends it."""
        ends = next((i for i, one in enumerate(self._coming) if one.kind != "store busy"), len(self._coming))
        return tuple(self._coming[: ends + 1])

    def _took_place(self, happening):
        self._coming.remove(happening)
        before = machines_after(self._happened, self.run.num_workers)
        self._happened.append(happening)
        after = machines_after(self._happened, self.run.num_workers)
        if happening.kind == "machine lost":
            for machine in set(before) - set(after):
                shutil.rmtree(self.run.folder / "disks" / str(machine), ignore_errors=True)

    def _rival(self):
        """Another driver asks for the run, and must be refused."""
        self.seen.rivals += 1
        try:
            Lease.acquire(open_store(self.run.storage_url), self.run.name, self._tell, patience_s=RIVAL_S)
        except RunTakenError:
            self.seen.rivals_refused += 1

    def _wake(self):
        """Wake the drivers that were frozen: they must find out, and so must their workers."""
        for one in self._frozen:
            one.store.runs.set()
            self.seen.woken_lost.append(one.lease.lost.wait(PATIENCE_S))
            self.seen.woken_refused.append(one.is_refused())
            one.rest.close()  # what its workers did before they were refused counts, and MLflow is told of it
            self.seen.waiting_at_end += one.log.drain(PATIENCE_S)
            one.log.close()
            one.lease.release()
        self._frozen.clear()

    def _seen_by(self, observers, runs, lease):
        def see(event):
            runs.wait()
            self.seen.events += 1
            if event.kind == "steps" and lease.fence == self.seen.fences[-1]:
                self._step = event.step
            observers.see(event)

        return see

    def _tell(self, line):
        """Print nothing: a person would see it in the terminal."""


class _Frozen:
    """A driver that does nothing, and its workers, who do not know."""

    def __init__(self, group):
        self.group = group
        self.lease = self.store = self.checkpoints = self.log = self.rest = None

    def is_refused(self) -> bool:
        """Return whether it cannot change the ledger, and its workers have stopped."""
        try:
            self.checkpoints.finish({"step": "0"})
            return False
        except SupersededError:
            return self.group.wait(PATIENCE_S) == Ended.SUPERSEDED

"""Checkpoints go up beside training: a snapshot on the local disk at once, the way to the store in a thread."""

import errno
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

from cluster.checkpoints.ledger import SavedCheckpoint, best_of, comparable
from cluster.checkpoints.run import RunCheckpoints
from cluster.checkpoints.spool import Snapshot, Spool
from cluster.store import UnavailableError
from metasr.errors import CheckpointError, StoreError, TrainingError

MAX_PENDING = 4
ROOM_BYTES = 2_000_000_000
"""More than a checkpoint takes, and little beside the copies of shards that a disk holds."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Uploader:
    """Keeps the checkpoints that the first worker hands to it, in order, while training goes on.

    Finished snapshots that a killed process of this run left in the spool go up first: `drain` before looking for
    the newest checkpoint, and the run goes on from them. While the store is away snapshots wait in the spool, at most
    `MAX_PENDING` of them.

    Args:
        checkpoints: Of the run, claimed.
        folder: The spool, on this machine's own disk, for this run alone.
        keep: See `RunCheckpoints.publish`.
        tell: Called with lines of progress, also from the uploader's thread.
        uploaded: Called with each checkpoint that is in the store, the seconds that took, and how many still wait.
        make_room: Called when the disk is full, before checkpoints that wait are dropped, with how many bytes to
            free, if it can.
    """

    def __init__(
        self,
        checkpoints: RunCheckpoints,
        folder: Path,
        keep: int,
        tell: Callable[[str], None],
        uploaded: Callable[[SavedCheckpoint, float, int], None] = lambda kept, seconds, waiting: None,
        make_room: Callable[[int], None] = lambda num_bytes: None,
    ) -> None:
        self._checkpoints, self._keep, self._tell, self._uploaded = checkpoints, keep, tell, uploaded
        self._make_room = make_room
        self._spool = Spool(folder)
        self._pending = self._spool.adopt(tell)
        self._in_hand: Snapshot | None = None
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._failure: BaseException | None = None
        self._wait_for_store = checkpoints.store_wait(tell, "checkpoints wait on the local disk").run
        threading.Thread(target=self._work, name="checkpoints", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, save: Callable[[Path], None], step: int, score: float | None) -> None:
        """Take a checkpoint; it is on the local disk when this returns, and in the store some time later.

        Args:
            save: Writes it into an empty folder.
            step: Updates done.
            score: How good it is, higher is better; None if nobody looked.

        Raises:
            SupersededError: Another has claimed the run.
            StoreError: The store refused an earlier checkpoint.
            TrainingError: The local disk is full or refuses. What waits there is unharmed.
        """
        self._check()
        snapshot = self._write(save, step, comparable(score))
        with self._changed:
            self._pending.append(snapshot)
            self._drop(MAX_PENDING, "the store is behind")
            self._changed.notify_all()

    def drain(self, timeout_s: float | None = None) -> bool:
        """Wait until all checkpoints are in the store; return False if they are not after `timeout_s`, or closed.

        Raises:
            SupersededError: Another has claimed the run.
            StoreError: The store refuses.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._closed.is_set() or not self._pending, timeout_s)
            is_done = not self._pending
        self._check()
        return is_done

    def close(self) -> None:
        """End the thread after what it is at, without waiting. What is pending stays in the spool."""
        with self._changed:
            self._closed.set()
            self._changed.notify_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _write(self, save: Callable[[Path], None], step: int, score: float | None) -> Snapshot:
        try:
            for give_way in (partial(self._make_room, ROOM_BYTES), self._drop_all):
                try:
                    return self._spool.write(save, step, score)
                except OSError as error:
                    if error.errno not in _DISK_FULL:
                        raise
                give_way()
            return self._spool.write(save, step, score)
        except OSError as error:
            raise TrainingError(
                f"cannot write the checkpoint of step {step} to {self._spool.folder}",
                error.strerror or type(error).__name__,
                "Free some space or give the right to it, then run the same command again",
            ) from error

    def _drop_all(self) -> None:
        with self._changed:
            self._drop(0, "the local disk is full")

    def _drop(self, at_most: int, why: str) -> None:
        """Drop snapshots, the oldest first, that are neither the newest, nor the best, nor on their way."""
        best = best_of(self._pending)
        for snapshot in self._pending[:-1]:
            if len(self._pending) <= at_most:
                return
            if snapshot not in (best, self._in_hand):
                self._tell(f"dropping the checkpoint of step {snapshot.step}, which waits to be uploaded: {why}")
                self._pending.remove(snapshot)
                self._spool.remove(snapshot)

    def _work(self) -> None:
        try:
            while self._wait_for_store(self._upload_next, self._closed):
                pass
        except UnavailableError:
            pass  # closed while the store was away: what is pending stays in the spool
        except BaseException as error:  # for the next `submit` or `drain`
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _upload_next(self) -> bool:
        """Upload the oldest snapshot, once there is one; return False when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closed.is_set())
            if self._closed.is_set():
                return False
            snapshot = self._in_hand = self._pending[0]
        try:
            self._publish(snapshot)
            with self._changed:
                self._spool.remove(snapshot)
                self._pending.remove(snapshot)
        finally:
            with self._changed:
                self._in_hand = None
                self._changed.notify_all()
        return True

    def _publish(self, snapshot: Snapshot) -> None:
        if snapshot.adopted:
            newest = self._checkpoints.entries()[:1]
            if newest and newest[0].step >= snapshot.step:
                return  # a process was killed after it went up, or the run is past it
            self._tell(f"uploading the checkpoint of step {snapshot.step}, which an earlier process left")
        start = time.perf_counter()
        try:
            kept = self._checkpoints.publish(snapshot.checkpoint, snapshot.step, snapshot.score, keep=self._keep)
        except UnavailableError:
            raise
        except (CheckpointError, StoreError) as error:
            if self._spool.holds(snapshot):
                raise
            self._tell(f"the checkpoint of step {snapshot.step} was lost on the local disk: {error}")
            return
        self._uploaded(kept, time.perf_counter() - start, len(self._pending) - 1)

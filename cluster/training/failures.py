"""Workers that fail: whether a new group may fare better, and when there have been enough."""

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train import UserCallback

from cluster.checkpoints import SupersededError
from cluster.store import UnavailableError
from metasr.errors import MetaSRError, TrainingError

SAME_BUGS = 3
NUMBER = re.compile(r"\d+(\.\d+)?")
LOGS = "The logs of the workers, in Ray's dashboard or its session's folder, have the traceback"


class RegroupError(Exception):
    """Ends a group of workers that has kept all it did, so that Ray makes a new one."""


@dataclass(frozen=True)
class Failure:
    """Why a group of workers has ended.

    Attributes:
        reason: What the worker says that failed for a reason of its own, on one line.
        is_bug: It raised an error of unknown kind, and no process of the group was lost.
    """

    reason: str
    is_bug: bool


def failure_of(errors: Mapping[int, BaseException]) -> Failure | None:
    """Return why a group has ended; None if that was meant to be, or because its machine was taken away.

    Who waits for a worker that is gone hears it from the network before Ray does, and fails too. That says nothing
    about the program.

    Args:
        errors: By the rank of the worker, as Ray Train reports them.
    """
    if any(isinstance(error, RegroupError) or _is_taken_away(error) for error in errors.values()):
        return None
    lost = {rank: error for rank, error in errors.items() if _is_lost(error)}
    own = {rank: error for rank, error in errors.items() if not _is_lost(error) and not _is_of_network(error)}
    found = lost or own or errors
    rank = min(found)
    is_known = isinstance(found[rank], UnavailableError | SupersededError)
    return Failure(f"{_words(found[rank])} (worker {rank})", is_bug=found is own and not is_known)


class Failures:
    """Counts failures since training came further, and says when there are enough.

    Args:
        at_most: So many may follow each other without a newer checkpoint between.
    """

    def __init__(self, at_most: int) -> None:
        self._at_most, self._kept_step = at_most, -1
        self._number, self._bugs = 0, Counter[str]()

    def kept(self, step: int) -> None:
        """Note a checkpoint. One that is newer than all before is progress."""
        if step > self._kept_step:
            self._kept_step, self._number = step, 0
            self._bugs.clear()

    def count(self, failure: Failure) -> TrainingError | None:
        """Note a failure; return the error to end with, if there is no use in another try."""
        self._number += 1
        same = NUMBER.sub("#", failure.reason)  # how much memory was free, and who had it, is never the same
        self._bugs[same] += failure.is_bug
        if self._bugs[same] == SAME_BUGS:
            return TrainingError(f"training failed {SAME_BUGS} times in the same way", failure.reason, LOGS)
        if self._number <= self._at_most:
            return None
        often = f" {self._number} times without a newer checkpoint" if self._number > 1 else ""
        return TrainingError(f"training failed{often}", failure.reason, f"{LOGS}. The same command again goes on")


class Listener(UserCallback):
    """Tells the mailbox of groups that have failed, and ends Ray Train after the last. It runs beside that."""

    def __init__(self, mailbox: ActorHandle) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Tell, and raise what ends the run: Ray Train then gives back its place in the cluster."""
        if failure := failure_of(worker_exceptions):
            self._mailbox.failed.remote(failure)
        final: MetaSRError | None = None
        with suppress(RayError):  # the driver has gone, which ends all
            final = ray.get(self._mailbox.final.remote())
        if final is not None:
            raise final


def _is_lost(error: BaseException) -> bool:
    """Return whether an error is Ray's own: a process or a node has died, or does not answer."""
    return type(error).__module__.partition(".")[0] == "ray"


def _is_taken_away(error: BaseException) -> bool:
    return bool(getattr(getattr(error, "health_check_failure", None), "preempted", False))


def _is_of_network(error: BaseException) -> bool:
    """Return whether workers lost each other: NCCL has a class for that, gloo has none."""
    return isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)


def _words(error: BaseException) -> str:
    cause = getattr(error, "health_check_failure", error)
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"

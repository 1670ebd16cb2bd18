"""What Ray Train says of workers that fail: whether a new group may fare better."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train import UserCallback

from cluster.checkpoints import SupersededError
from cluster.store import UnavailableError
from cluster.training.failures import Failure, RegroupError
from metasr.errors import MetaSRError


class Listener(UserCallback):
    """Tells the mailbox of groups that have failed, and ends Ray Train after the last. It runs beside that."""

    def __init__(self, mailbox: ActorHandle[Any]) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Tell, and raise what ends the run: Ray Train then gives back its place in the cluster."""
        if failure := failure_of(worker_exceptions):
            self._mailbox.failed.remote(failure)
        final: MetaSRError | None = None
        with suppress(RayError):  # the driver has gone, which ends all
            final = cast(MetaSRError | None, ray.get(self._mailbox.final.remote()))
        if final is not None:
            raise final


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

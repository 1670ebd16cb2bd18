"""Classifies the failures of workers that Ray Train reports: whether a restart may help."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train import UserCallback

from cluster.checkpoints import SupersededError
from cluster.store import UnavailableError
from cluster.training.failures import Failure, RegroupError
from metasr.errors import MetaSRError


class Listener(UserCallback):
    """Callback in Ray Train's controller: reports failed groups to the mailbox, and ends training after the last."""

    def __init__(self, mailbox: ActorHandle[Any]) -> None:
        self._mailbox = mailbox

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """Report the failure; raise the error that ends the run, upon which Ray Train frees its resources."""
        if failure := failure_of(worker_exceptions):
            self._mailbox.failed.remote(failure)
        final: MetaSRError | None = None
        with suppress(RayError):  # the driver is gone, and everything ends
            final = cast(MetaSRError | None, ray.get(self._mailbox.final.remote()))
        if final is not None:
            raise final


def failure_of(errors: Mapping[int, BaseException]) -> Failure | None:
    """Return why a group failed; None if it ended on purpose, or because its node was taken away.

    When a worker dies, the network tells its peers before Ray knows, and they fail too. Such errors say nothing about
    the program.

    Args:
        errors: Errors by rank, as Ray Train reports them.
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
    """Return whether Ray raised an error: a process or a node died, or does not answer."""
    return type(error).__module__.partition(".")[0] == "ray"


def _is_taken_away(error: BaseException) -> bool:
    return bool(getattr(getattr(error, "health_check_failure", None), "preempted", False))


def _is_of_network(error: BaseException) -> bool:
    """Return whether the connection to another worker broke: NCCL has a class for that, gloo has none."""
    return any(kind.__name__ == "DistError" for kind in type(error).__mro__) or "/gloo/" in str(error)


def _words(error: BaseException) -> str:
    cause = getattr(error, "health_check_failure", error)
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"

"""Work on several things at once, by Ray, with the results in the order of the things."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from metasr.errors import DataError, MetaSRError

AHEAD = 2  # things in hand for each CPU: one that is worked on, and one that waits
MIN_FOR_RAY = 16
MAX_RETRIES = 3
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Lost:
    """In place of the result of a thing at which the process that worked on it died, again and again."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Needs:
    """What is reserved for each thing that is worked on: CPU cores, and a part of a GPU where there are GPUs."""

    cpus: float = 1.0
    gpus: float = 0.0


class InOrder(Protocol):
    """`map`, which may give `Lost` for a result. Only so many things are in hand at a time."""

    def __call__(self, function: Callable[[T], R], things: Iterable[T], /) -> Iterator[R | Lost]:
        """Return the results, in the order of the things."""


@contextmanager
def in_order(
    workers: int | None, num_things: int, needs: Needs = Needs(), min_for_ray: int = MIN_FOR_RAY
) -> Iterator[InOrder]:
    """Give a `map` that works on several things at a time, on the cluster of RAY_ADDRESS or on this machine.

    The results do not depend on `workers`. A thing whose node or process is lost is done again, some times.

    Args:
        workers: Things in hand at a time; None takes two for each CPU there is. 1 works in this process, without Ray,
            and so does None where Ray would take longer to start than the few things take.
        num_things: How many there will be.
        needs: Of each thing, on Ray.
        min_for_ray: Fewer things than this are not worth a start of Ray.

    Raises:
        ConfigError: The cluster of RAY_ADDRESS cannot be reached.
    """
    if workers == 1 or (workers is None and num_things < min_for_ray):
        yield map
        return
    import ray  # here, because a few things need not wait for it

    from cluster.runtime.connection import connected

    with connected(cpus=needs.cpus):
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = needs.gpus if there.get("GPU") else 0.0
        at_once = min(there.get("CPU", 1) / needs.cpus, there["GPU"] / gpus if gpus else float("inf"))
        in_hand = workers or AHEAD * max(1, round(at_once))
        yield lambda function, things: _map(function, things, in_hand, Needs(needs.cpus, gpus))


def _map(function: Callable[[T], R], things: Iterable[T], in_hand: int, needs: Needs) -> Iterator[R | Lost]:
    import ray
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

    task: Any = ray.remote(max_retries=MAX_RETRIES, num_cpus=needs.cpus, num_gpus=needs.gpus)(_call)
    shared = ray.put(function)  # once, and not with each thing: it may hold the weights of a network
    waiting = iter(things)
    running = deque(task.remote(shared, thing) for thing in islice(waiting, in_hand))
    try:
        while running:
            try:
                result = ray.get(running.popleft())
            except (OutOfMemoryError, WorkerCrashedError) as error:
                result = Lost(f"the process that read it died ({_reason(error)})")
            running.extend(task.remote(shared, thing) for thing in islice(waiting, 1))
            yield result
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, MetaSRError) else error) from None
    except RayError as error:
        raise DataError("Ray cannot go on", _reason(error), "Run the same command again to continue") from error


def _call(function: Callable[[T], R], thing: T) -> R:
    return function(thing)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

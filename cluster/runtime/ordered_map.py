"""A map over Ray tasks whose results come in the order of the items."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

from cluster.redaction import one_line
from metasr.errors import DataError, MetaSRError

TASKS_PER_CPU = 2  # one that runs, and one that waits
MIN_FOR_RAY = 16
MAX_RETRIES = 3
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Lost:
    """In place of the result of an item whose process died at each of several tries."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Needs:
    """What each task reserves: CPU cores, and a part of a GPU where there are GPUs."""

    cpus: float = 1.0
    gpus: float = 0.0


class InOrder(Protocol):
    """`map`, which may give `Lost` for a result. A bounded number of items is in flight at a time."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R | Lost]:
        """Return the results, in the order of the items."""


@contextmanager
def in_order(
    workers: int | None, num_items: int, needs: Needs = Needs(), min_for_ray: int = MIN_FOR_RAY
) -> Iterator[InOrder]:
    """Give a `map` over tasks, on the cluster of RAY_ADDRESS or on this machine.

    The results do not depend on `workers`. An item whose node or process is lost is tried again, a few times.

    Args:
        workers: Items in flight at a time; None takes two for each CPU there is. 1 works in this process, without
            Ray, and so does None where Ray would take longer to start than the few items take.
        num_items: How many there will be.
        needs: What each task reserves on Ray.
        min_for_ray: Fewer items than this are not worth a start of Ray.

    Raises:
        ConfigError: The cluster of RAY_ADDRESS cannot be reached.
    """
    if workers == 1 or (workers is None and num_items < min_for_ray):
        yield map
        return
    import ray  # here, because a few items need not wait for it

    from cluster.runtime.connection import connected

    with connected(cpus=needs.cpus):
        there: dict[str, float] = ray.cluster_resources()
        gpus = needs.gpus if there.get("GPU") else 0.0
        at_once = min(there.get("CPU", 1) / needs.cpus, there["GPU"] / gpus if gpus else float("inf"))
        in_flight = workers or TASKS_PER_CPU * max(1, round(at_once))
        yield lambda function, items: _map(function, items, in_flight, Needs(needs.cpus, gpus))


def _map(function: Callable[[T], R], items: Iterable[T], in_flight: int, needs: Needs) -> Iterator[R | Lost]:
    import ray
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

    task: Any = ray.remote(max_retries=MAX_RETRIES, num_cpus=needs.cpus, num_gpus=needs.gpus)(_call)
    shared = ray.put(function)  # once, and not with each task: it may hold the weights of a network
    waiting = iter(items)
    running = deque(task.remote(shared, item) for item in islice(waiting, in_flight))
    try:
        while running:
            try:
                result = ray.get(running.popleft())
            except (OutOfMemoryError, WorkerCrashedError) as error:
                result = Lost(f"the process that read it died ({one_line(error)})")
            running.extend(task.remote(shared, item) for item in islice(waiting, 1))
            yield result
    except RayTaskError as error:
        raise (error.cause if isinstance(error.cause, MetaSRError) else error) from None
    except RayError as error:
        raise DataError("Ray cannot go on", one_line(error), "Run the same command again to continue") from error


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)

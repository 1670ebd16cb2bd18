"""The mailbox between driver and workers: events and errors one way, requests the other way."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.training.failures import Failure, Failures
from metasr.context import Request
from metasr.errors import MetaSRError
from metasr.events import Event

POLL_S = 0.5


class Mailbox:
    """An actor on the driver's node. No worker waits for it, and it survives the restart of workers.

    Args:
        max_failures: See `Failures`.
    """

    def __init__(self, max_failures: int) -> None:
        self._events: list[Event] = []
        self._failures = Failures(max_failures)
        self._failure: MetaSRError | None = None
        self._request, self._is_growing = Request.NONE, False
        self._polled_at = self._progress_at = -math.inf

    def put(self, event: Event) -> None:
        """Store an event for the driver."""
        self._events.append(event)
        if event.kind == "kept":
            self._failures.kept(event.step)
        elif event.kind == "group":
            self._is_growing = False

    def fail(self, error: MetaSRError) -> None:
        """Store an error that a restart of the workers cannot fix."""
        self._failure = self._failure or error

    def failed(self, failure: Failure) -> None:
        """Record that a group of workers failed; too many failures end the run."""
        if error := self._failures.count(failure):
            self.fail(error)

    def final(self) -> MetaSRError | None:
        """Return the error that a restart of the workers cannot fix, if there is one."""
        return self._failure

    def take(self) -> "Taken":
        """Return the messages for the driver."""
        events, self._events = self._events, []
        return Taken(events, self._failure, time.monotonic() - self._polled_at)

    def request(self, request: Request) -> None:
        """Store a request for the workers."""
        self._request = request

    def grow(self) -> None:
        """Request that the group saves a checkpoint and ends, so that a larger one can start."""
        self._is_growing = True

    def requested(self) -> Request:
        """Return what the driver requests; workers poll this."""
        self._polled_at = time.monotonic()
        return Request.STOP if self._is_growing else self._request

    def stalled_s(self, has_progressed: bool) -> float:
        """Record whether a worker has made progress; return the seconds since any worker has."""
        if has_progressed:
            self._progress_at = time.monotonic()
        return time.monotonic() - self._progress_at

    def regroups(self) -> bool:
        """Return whether another group follows one that has stopped: nobody has requested the end of the run."""
        return self._request != Request.STOP


class Taken(NamedTuple):
    """Messages for the driver."""

    events: list[Event]
    """Events since the last call."""
    failure: MetaSRError | None
    """The first error that a restart of the workers cannot fix."""
    silent_s: float
    """Seconds since a worker polled for requests; infinite if none ever has."""


class Mail:
    """The driver's end of the mailbox: delivers events in its own thread until it is closed.

    Args:
        see: Called with each event.
        max_failures: See `Failures`.

    Attributes:
        actor: The mailbox, for the workers.
        failure: The first error that a restart of the workers cannot fix.
        silent_s: Seconds since a worker polled for requests.
        num_workers: Workers of the newest group; 0 before the first.
    """

    def __init__(self, see: Callable[[Event], None], max_failures: int = 0) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote = cast(Any, ray.remote(Mailbox))  # Ray's annotations lack actor classes
        self.actor: ActorHandle[Any] = remote.options(num_cpus=0, scheduling_strategy=here).remote(max_failures)
        self.failure: MetaSRError | None = None
        self.silent_s, self.num_workers = math.inf, 0
        self._see, self._closed = see, threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def request(self, request: Request) -> None:
        """Send a request to the workers."""
        self.actor.request.remote(request)

    def grow(self) -> None:
        """Request a larger group, see `Mailbox.grow`."""
        self.actor.grow.remote()

    def close(self) -> None:
        """Deliver the remaining events, and remove the actor."""
        self._closed.set()
        self._thread.join()
        try:
            self._deliver()
            ray.kill(self.actor)
        except RayError:
            pass  # the cluster is gone, and the actor with it

    def _poll(self) -> None:
        while not self._closed.wait(POLL_S):
            try:
                self._deliver()
            except RayError:
                return

    def _deliver(self) -> None:
        taken = cast(Taken, ray.get(self.actor.take.remote()))
        self.failure, self.silent_s = taken.failure, taken.silent_s
        for event in taken.events:
            if event.kind == "group":
                self.num_workers = int(event.values["num_workers"])
            self._see(event)


@contextmanager
def mail(see: Callable[[Event], None], max_failures: int = 0) -> Iterator[Mail]:
    """Deliver events until the block ends, see `Mail`."""
    opened = Mail(see, max_failures)
    try:
        yield opened
    finally:
        opened.close()

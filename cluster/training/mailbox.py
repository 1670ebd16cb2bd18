"""What lies between the driver and its workers: events and errors one way, requests the other."""

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
    """An actor beside the driver. No worker waits for it, and a restarted worker finds it again.

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
        """Leave an event for the driver."""
        self._events.append(event)
        if event.kind == "kept":
            self._failures.kept(event.step)
        elif event.kind == "group":
            self._is_growing = False

    def fail(self, error: MetaSRError) -> None:
        """Leave an error that no restart of the workers can mend."""
        self._failure = self._failure or error

    def failed(self, failure: Failure) -> None:
        """Leave word that a group of workers has failed, which ends the run when that comes again and again."""
        if error := self._failures.count(failure):
            self.fail(error)

    def final(self) -> MetaSRError | None:
        """Return the error that no restart of the workers can mend, if there is one."""
        return self._failure

    def take(self) -> "Taken":
        """Return what there is for the driver."""
        events, self._events = self._events, []
        return Taken(events, self._failure, time.monotonic() - self._polled_at)

    def request(self, request: Request) -> None:
        """Leave a request for the workers."""
        self._request = request

    def grow(self) -> None:
        """Have the group of workers keep what it has done and end, for a larger one."""
        self._is_growing = True

    def requested(self) -> Request:
        """Return what the driver requests; workers poll this."""
        self._polled_at = time.monotonic()
        return Request.STOP if self._is_growing else self._request

    def stalled_s(self, has_progressed: bool) -> float:
        """Take from a worker whether it has made progress; return for how many seconds no worker has."""
        if has_progressed:
            self._progress_at = time.monotonic()
        return time.monotonic() - self._progress_at

    def regroups(self) -> bool:
        """Return whether a group that has stopped makes way for another: nobody has requested an end."""
        return self._request != Request.STOP


class Taken(NamedTuple):
    """What the driver finds in the mailbox."""

    events: list[Event]
    """Those since the last time."""
    failure: MetaSRError | None
    """The first error so far that no restart of the workers can mend."""
    silent_s: float
    """How long no worker has polled for requests; infinite if none ever has."""


class Mail:
    """The driver's end: has events delivered in a thread of its own until it is closed.

    Args:
        see: Called with each event.
        max_failures: See `Failures`.

    Attributes:
        actor: For the workers.
        failure: The first error that no restart of the workers can mend.
        silent_s: How long no worker has polled for requests.
        num_workers: In the newest group; 0 before the first.
    """

    def __init__(self, see: Callable[[Event], None], max_failures: int = 0) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote = cast(Any, ray.remote(Mailbox))  # Ray's annotations do not tell a class from its actor
        self.actor: ActorHandle[Any] = remote.options(num_cpus=0, scheduling_strategy=here).remote(max_failures)
        self.failure: MetaSRError | None = None
        self.silent_s, self.num_workers = math.inf, 0
        self._see, self._closed = see, threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def request(self, request: Request) -> None:
        """Request something of the workers."""
        self.actor.request.remote(request)

    def grow(self) -> None:
        """Have a larger group made, see `Mailbox.grow`."""
        self.actor.grow.remote()

    def close(self) -> None:
        """Deliver what is left, and remove the actor."""
        self._closed.set()
        self._thread.join()
        try:
            self._deliver()
            ray.kill(self.actor)
        except RayError:
            pass  # the cluster has gone, and the actor with it

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
    """Have events delivered until the block ends, see `Mail`."""
    opened = Mail(see, max_failures)
    try:
        yield opened
    finally:
        opened.close()

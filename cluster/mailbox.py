"""What lies between the driver and its workers: events and errors one way, wishes the other."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.watch import Event
from metasr.context import Wish
from metasr.errors import MetaSRError, TrainingError

POLL_S = 0.5
SAME_CRASHES = 3
NUMBER = re.compile(r"\d+(\.\d+)?")


class Mailbox:
    """An actor beside the driver. No worker waits for it, and a restarted worker finds it again."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._failure: MetaSRError | None = None
        self._crashes: Counter[str] = Counter()
        self._wish = Wish.NONE

    def put(self, event: Event) -> None:
        """Leave an event for the driver."""
        self._events.append(event)
        if event.kind == "kept":
            self._crashes.clear()

    def fail(self, error: MetaSRError) -> None:
        """Leave an error that no restart of the workers can mend."""
        self._failure = self._failure or error

    def crash(self, reason: str) -> None:
        """Leave word of an error of unknown kind, which ends the run when it comes again and again."""
        same = NUMBER.sub("#", reason)  # how much memory was free, and which process had it, is never the same
        self._crashes[same] += 1
        if self._crashes[same] == SAME_CRASHES:
            self.fail(
                TrainingError(
                    f"training failed {SAME_CRASHES} times in the same way",
                    reason,
                    "The logs of the workers, in Ray's dashboard or its session's folder, have the traceback",
                )
            )

    def take(self) -> tuple[list[Event], MetaSRError | None]:
        """Return the events since the last call, and the first error so far."""
        events, self._events = self._events, []
        return events, self._failure

    def ask(self, wish: Wish) -> None:
        """Leave a wish for the workers."""
        self._wish = wish

    def wish(self) -> Wish:
        """Return what the driver wishes."""
        return self._wish


class Mail:
    """The driver's end: has events delivered in a thread of its own until it is closed.

    Args:
        see: Called with each event.

    Attributes:
        actor: For the workers.
        failure: The first error that no restart of the workers can mend.
    """

    def __init__(self, see: Callable[[Event], None]) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.actor: ActorHandle = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
        self.failure: MetaSRError | None = None
        self._see, self._closed = see, threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def ask(self, wish: Wish) -> None:
        """Tell the workers what is wanted."""
        self.actor.ask.remote(wish)

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
        events, self.failure = ray.get(self.actor.take.remote())
        for event in events:
            self._see(event)


@contextmanager
def mail(see: Callable[[Event], None]) -> Iterator[Mail]:
    """Have events delivered until the block ends, see `Mail`."""
    opened = Mail(see)
    try:
        yield opened
    finally:
        opened.close()

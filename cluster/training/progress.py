"""A worker's messages besides events: it reports progress, polls requests, and forwards warnings."""

import logging
import threading
import time
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from cluster.store import Store
from metasr.context import Request
from metasr.events import Event

log = logging.getLogger(__name__)

HANG_S, START_HANG_S = 300.0, 1800.0  # without progress: between two steps, and before the first
ANSWER_S = 5.0
REQUEST_POLL_S = 0.5
LAST_STEP_S = 60.0  # for a step, once the run is to end


class Progress:
    """Whether the workers of a group make progress: a step, or a retry of a store that is away.

    Workers wait for each other: if one hangs, none makes progress; if one waits for a store, none must be killed.

    Args:
        mailbox: Collects the progress of all workers.

    Attributes:
        stores: Stores whose retries count as progress.
        steps: Steps done by this worker.
        may_take_long: Whether this worker does something of unknown length, such as a validation.
    """

    def __init__(self, mailbox: ActorHandle[Any]) -> None:
        self.stores: list[Store] = []
        self.steps, self.may_take_long = 0, False
        self._mailbox, self._has_warned = mailbox, False
        self._seen = -1, 0

    def continues(self) -> bool:
        """Report whether this worker has made progress; return False if no worker has for too long."""
        now = self.steps, sum(store.retries.counts.total() for store in self.stores)
        has_progressed, self._seen = self.may_take_long or now != self._seen, now
        try:
            stalled_s = cast(float, ray.get(self._mailbox.stalled_s.remote(has_progressed), timeout=ANSWER_S))
        except RayError:
            return True  # unknown; if the driver is gone, Ray ends its workers
        if stalled_s < (HANG_S if self.steps else START_HANG_S):
            return True
        if not self._has_warned:
            log.warning("no progress for %.0f s; restarting workers", stalled_s)
        self._has_warned = True
        return False


class Requests:
    """Polls the driver's requests in a thread, so that no step waits for them.

    A worker that cannot end as it is asked to, because it waits for a store, stops polling. The driver, which then
    hears of no worker, ends without it.

    Args:
        mailbox: Actor beside the driver.
        progress: Of this worker.

    Attributes:
        newest: The last request.
    """

    def __init__(self, mailbox: ActorHandle[Any], progress: Progress) -> None:
        self.newest = Request.NONE
        self._mailbox, self._progress = mailbox, progress
        threading.Thread(target=self._poll, daemon=True).start()

    def _poll(self) -> None:
        steps, since = -1, 0.0
        while True:
            self.newest = cast(Request, ray.get(self._mailbox.requested.remote()))
            if self.newest != Request.STOP or self._progress.may_take_long or self._progress.steps != steps:
                steps, since = self._progress.steps, time.monotonic()
            elif time.monotonic() - since > LAST_STEP_S:
                return
            time.sleep(REQUEST_POLL_S)


class ToDriver(logging.Handler):
    """Logging handler that sends the warnings of this worker to the driver."""

    def __init__(self, mailbox: ActorHandle[Any], rank: int) -> None:
        super().__init__(logging.WARNING)
        self._mailbox, self._rank = mailbox, rank

    def emit(self, record: logging.LogRecord) -> None:
        """Send a warning without waiting."""
        self._mailbox.put.remote(Event("warning", 0, text=record.getMessage(), rank=self._rank))

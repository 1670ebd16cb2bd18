"""Sends what an outbox holds, in order, in a thread of its own that never gives up."""

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from cluster.outbox.outbox import Outbox
from cluster.outbox.record import Record
from cluster.redaction import one_line

MAX_POINTS = 1000
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0
log = logging.getLogger(__name__)


class RefusedError(Exception):
    """A record that MLflow will never take."""


class Delivery(Protocol):
    """Brings records to their destination."""

    def send(self, records: Sequence[Record]) -> None:
        """Send one record, or several of metrics.

        Raises:
            RefusedError: It was understood, and will never be taken.
            Exception: It may work another time.
        """


class Sender:
    """A thread that sends an outbox's records, and tries again for as long as it takes. It never raises.

    Args:
        outbox: Where they are.
        connect: Called in the thread, whenever the connection has to be made anew.

    Attributes:
        last_error: Why the newest try failed; empty if it did not.
    """

    def __init__(self, outbox: Outbox, connect: Callable[[], Delivery]) -> None:
        self.last_error = ""
        self._outbox, self._connect, self._is_urgent = outbox, connect, False
        self._pause_s = FIRST_PAUSE_S
        self._stop, self._wake, self._retry = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow sender", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there is a new record."""
        self._wake.set()

    def drain(self, timeout_s: float) -> int:
        """Wait until all is sent, as long as one goes every `timeout_s`; return the number of records that remain."""
        self._is_urgent = True
        self._wake.set()
        self._retry.set()
        remaining, since = self._outbox.remaining(), time.monotonic()
        while remaining and time.monotonic() - since < timeout_s and self._thread.is_alive():
            time.sleep(0.02)
            before, remaining = remaining, self._outbox.remaining()
            if remaining != before:
                since = time.monotonic()
        self._is_urgent = False
        return remaining

    def close(self, timeout_s: float = 1.0) -> None:
        """End the thread; a request that is under way may outlive the timeout, but not the process."""
        self._stop.set()
        self._wake.set()
        self._retry.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with self._outbox.sending():  # until the end, also while MLflow is away
                    self._send()
            except Exception as error:
                self._put_off(error)

    def _send(self) -> None:
        delivery = None
        while not self._stop.is_set():
            try:
                delivery = delivery or self._connect()
                send_all(self._outbox, delivery, self._stop.is_set)
            except Exception as error:
                delivery = None
                self._put_off(error)
                continue
            self.last_error, self._pause_s = "", FIRST_PAUSE_S
            self._wake.wait()
            self._wake.clear()

    def _put_off(self, error: Exception) -> None:
        if not self.last_error:
            log.warning("MLflow does not take records, they are kept: %s", one_line(error))
        self.last_error = one_line(error)
        self._retry.clear()
        if not self._stop.is_set():  # told before the pause began
            self._retry.wait((FIRST_PAUSE_S if self._is_urgent else self._pause_s) * random.uniform(0.5, 1.0))
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)


def send_all(outbox: Outbox, delivery: Delivery, is_stopped: Callable[[], bool] = lambda: False) -> Counter[str]:
    """Send what is pending, in order, and return how many records of each kind that was."""
    counts = Counter[str]()
    while not is_stopped() and (batch := _batch(outbox.pending())):
        _send(outbox, delivery, batch)
        counts.update(record.kind for record in batch)
    return counts


def _batch(records: list[Record]) -> list[Record]:
    """Return the first record, and the metrics that follow if it is metrics too."""
    num_points = 0
    for count, record in enumerate(records):
        num_points += len(record.payload.get("values", ()))
        if count and (record.kind != "metrics" or records[0].kind != "metrics" or num_points > MAX_POINTS):
            return records[:count]
    return records


def _send(outbox: Outbox, delivery: Delivery, batch: list[Record]) -> None:
    try:
        delivery.send(batch)
    except RefusedError as error:
        if len(batch) > 1:  # find the one
            for record in batch:
                _send(outbox, delivery, [record])
            return
        outbox.refuse(batch[0], one_line(error))
    outbox.mark_sent(batch)

"""Asking again: when, how often and how long, and a count of it."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cluster.store.errors import Reason

_T = TypeVar("_T")


@dataclass(frozen=True)
class RetryPolicy:
    """How patient a store is. The defaults suit objects of up to about 64 MB.

    A server that refuses connections is given up within 10 s: who needs to outlast its restart uses `wait_for_store`.

    The pause before try n + 1 is random between 0 and `first_pause_s` * 2^(n - 1), so that many workers that failed
    together do not come back together.

    Attributes:
        attempts: Tries of one request in all.
        first_pause_s: Upper limit of the first pause.
        max_pause_s: Upper limit of any pause.
        connect_s: Limit for a connection to be made, and for the next 16 KB of an upload to be taken.
        stall_s: Limit for the next bytes of an answer to arrive.
        deadline_s: Limit for one request with all its tries: one object, or one part of a large one. A try that is
            waiting for the server when it passes ends at most `stall_s` later.
        budget: Tries again that a process may have had more than requests that succeeded. So a server that fails
            most of the time is not asked six times as often by all workers: who waits for it asks once at a time.
    """

    attempts: int = 6
    first_pause_s: float = 0.3
    max_pause_s: float = 10.0
    connect_s: float = 5.0
    stall_s: float = 10.0
    deadline_s: float = 120.0
    budget: int = 500


class Retries:
    """Runs requests until they succeed, and counts how often that took another try.

    Attributes:
        policy: See `RetryPolicy`.
        counts: Number of retries in this process by their reason, such as `{"stall": 2}`.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.policy = policy
        self.counts: Counter[str] = Counter()
        self._clock, self._sleep, self._draw = clock, sleep, draw
        self._left, self._lock = policy.budget, threading.Lock()

    def run(self, request: Callable[[Callable[[], None]], _T], explain: Callable[[Exception], Reason | None]) -> _T:
        """Return what a request returns, asked again while that may help.

        Args:
            request: Called with a function that it calls from time to time: it raises TimeoutError at the deadline.
            explain: Says whether another try may help.

        Raises:
            Exception: That of the last try, with a note of how often and how long it was tried.
        """
        start, policy = self._clock(), self.policy

        def check() -> None:
            if self._clock() - start > policy.deadline_s:
                raise TimeoutError(f"longer than {policy.deadline_s:g} s")

        for attempt in range(1, policy.attempts + 1):
            try:
                answer = request(check)
            except Exception as error:
                reason = explain(error)
                if reason is None or not reason.retry:
                    raise
                pause = self._draw() * min(policy.max_pause_s, policy.first_pause_s * 2 ** (attempt - 1))
                spent = self._clock() - start
                is_last = attempt == policy.attempts or spent + pause > policy.deadline_s
                if is_last or not self._spend(reason.retry):
                    error.add_note(f"tried {attempt} times in {spent:.0f} s" if attempt > 1 else "tried once")
                    raise
                self._sleep(pause)
            else:
                with self._lock:
                    self._left = min(policy.budget, self._left + 1)
                return answer
        raise ValueError("a policy needs at least one attempt")

    def _spend(self, reason: str) -> bool:
        """Count a retry, and return whether the budget has one left for it."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            self.counts[reason] += 1
            return True

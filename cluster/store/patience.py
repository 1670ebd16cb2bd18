"""Waiting for a store that is away, however long."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from cluster.store.errors import UnavailableError
from cluster.store.interface import Store

T = TypeVar("T")


def patiently(store: Store, action: Callable[[], T], tell: Callable[[str], None]) -> T:
    """Return what an action returns once the store is there for it.

    Args:
        store: Which the action uses.
        action: Can be done again after it failed.
        tell: Told once that the store is waited for.
    """
    is_first = True
    while True:
        try:
            return action()
        except UnavailableError as error:
            if is_first:
                tell(f"waiting for the store: {error}")
            is_first = False
        time.sleep(pause_s(store))


def pause_s(store: Store) -> float:
    """Return how long to wait before a store that was away is asked again: random, so that few ask at once."""
    return random.uniform(0.5, 1) * store.retries.policy.max_pause_s

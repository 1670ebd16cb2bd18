"""Counts failures of workers since the last progress, and decides when to give up."""

import re
from collections import Counter
from dataclasses import dataclass

from metasr.errors import TrainingError

SAME_BUGS = 3
NUMBER = re.compile(r"\d+(\.\d+)?")
LOGS = "The logs of the workers, in Ray's dashboard or its session's folder, have the traceback"


class RegroupError(Exception):
    """Ends a group of workers that has saved a checkpoint, so that Ray Train starts a new group."""


@dataclass(frozen=True)
class Failure:
    """Why a group of workers failed.

    Attributes:
        reason: The error of the worker that failed first, on one line.
        is_bug: Whether it is an unexpected error, and no process of the group was lost.
    """

    reason: str
    is_bug: bool


class Failures:
    """Counts failures since the newest checkpoint, and decides when to give up.

    Args:
        at_most: Number of failures in a row, without a newer checkpoint in between, that are retried.
    """

    def __init__(self, at_most: int) -> None:
        self._at_most, self._kept_step = at_most, -1
        self._number, self._bugs = 0, Counter[str]()

    def kept(self, step: int) -> None:
        """Record a checkpoint; one that is newer than all before is progress."""
        if step > self._kept_step:
            self._kept_step, self._number = step, 0
            self._bugs.clear()

    def count(self, failure: Failure) -> TrainingError | None:
        """Record a failure; return the error to end the run with, if another try would not help."""
        self._number += 1
        same = NUMBER.sub("#", failure.reason)  # amounts of memory, addresses and pids differ each time
        self._bugs[same] += failure.is_bug
        if self._bugs[same] == SAME_BUGS:
            return TrainingError(f"training failed {SAME_BUGS} times in the same way", failure.reason, LOGS)
        if self._number <= self._at_most:
            return None
        often = f" {self._number} times without a newer checkpoint" if self._number > 1 else ""
        return TrainingError(
            f"training failed{often}", failure.reason, f"{LOGS}. Run the same command again to continue"
        )

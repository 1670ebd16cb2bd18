"""How often workers have failed since training last came further, and when there have been enough."""

import re
from collections import Counter
from dataclasses import dataclass

from metasr.errors import TrainingError

SAME_BUGS = 3
NUMBER = re.compile(r"\d+(\.\d+)?")
LOGS = "The logs of the workers, in Ray's dashboard or its session's folder, have the traceback"


class RegroupError(Exception):
    """Ends a group of workers that has kept all it did, so that Ray makes a new one."""


@dataclass(frozen=True)
class Failure:
    """Why a group of workers has ended.

    Attributes:
        reason: What the worker says that failed for a reason of its own, on one line.
        is_bug: It raised an error of unknown kind, and no process of the group was lost.
    """

    reason: str
    is_bug: bool


class Failures:
    """Counts failures since training came further, and says when there are enough.

    Args:
        at_most: So many may follow each other without a newer checkpoint between.
    """

    def __init__(self, at_most: int) -> None:
        self._at_most, self._kept_step = at_most, -1
        self._number, self._bugs = 0, Counter[str]()

    def kept(self, step: int) -> None:
        """Note a checkpoint. One that is newer than all before is progress."""
        if step > self._kept_step:
            self._kept_step, self._number = step, 0
            self._bugs.clear()

    def count(self, failure: Failure) -> TrainingError | None:
        """Note a failure; return the error to end with, if there is no use in another try."""
        self._number += 1
        same = NUMBER.sub("#", failure.reason)  # how much memory was free, and who had it, is never the same
        self._bugs[same] += failure.is_bug
        if self._bugs[same] == SAME_BUGS:
            return TrainingError(f"training failed {SAME_BUGS} times in the same way", failure.reason, LOGS)
        if self._number <= self._at_most:
            return None
        often = f" {self._number} times without a newer checkpoint" if self._number > 1 else ""
        return TrainingError(f"training failed{often}", failure.reason, f"{LOGS}. The same command again goes on")

"""Finds the workers of a run, and does to them what happens to processes: at random by seed, or at a given moment."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

TITLE = b"ray::RayTrainWorker"
LOOK_AGAIN_S = 0.002


def descendants(*ancestors: int) -> list[int]:
    """Return the processes below others, oldest first, without those that have ended and wait to be buried."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        state, parent = _state_and_parent(int(folder.name))
        if state not in "ZX":
            children.setdefault(parent, []).append(int(folder.name))
    found, generation = [], list(ancestors)
    while generation:
        generation = [child for pid in generation for child in sorted(children.get(pid, []))]
        found += generation
    return found


def train_workers(*ancestors: int) -> list[int]:
    """Return the Ray Train workers below processes: below a driver with a Ray of its own, or below `ray start`."""
    return [pid for pid in descendants(*ancestors) if _title(pid).startswith(TITLE)]


def send(number: int, pids: Iterable[int]) -> None:
    """Send a signal to processes, of which some may be gone."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def until(moment: Callable[[], bool], timeout_s: float, what: str, *, every_s: float = LOOK_AGAIN_S) -> None:
    """Wait for a moment, looking again and again.

    Raises:
        TimeoutError: It did not come.
    """
    deadline = time.monotonic() + timeout_s
    while not moment():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(every_s)


class Killer:
    """Kills workers. The same seed waits as long and picks the same ones.

    Args:
        seed: Of moments and victims.
        workers: Returns the workers there are.
    """

    def __init__(self, seed: int, workers: Callable[[], list[int]]) -> None:
        self._random, self._workers = random.Random(seed), workers

    def strike(self, within_s: float, number: int = signal.SIGKILL, timeout_s: float = 120) -> str:
        """Send a signal to one worker after a random time; return what was done, for a log.

        Raises:
            TimeoutError: There was no worker.
        """
        wait_s, place = self._random.uniform(0, within_s), self._random.random()
        time.sleep(wait_s)
        until(lambda: bool(self._workers()), timeout_s, "a worker", every_s=0.2)
        workers = self._workers()
        index = int(place * len(workers))
        send(number, workers[index : index + 1])
        return f"{signal.Signals(number).name} to worker {index + 1} of {len(workers)} after {wait_s:.2f} s"

    def kill_all_at(self, moment: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Kill all workers at a moment, for certain: they are frozen, and thawed again if it has passed by then.

        Raises:
            TimeoutError: The moment was not met.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            until(moment, deadline - time.monotonic(), what)
            workers = self._workers()
            send(signal.SIGSTOP, workers)
            until(lambda: all(_state_and_parent(pid)[0] in "TZX" for pid in workers), 10, "frozen workers")  # noqa: B023
            if workers and moment():
                send(signal.SIGKILL, workers)
                return
            send(signal.SIGCONT, workers)


def _state_and_parent(pid: int) -> tuple[str, int]:
    """Return the letter of a process's state, X for one that is gone, and its parent."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (OSError, ValueError):
        return "X", 0
    return state, int(parent)


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

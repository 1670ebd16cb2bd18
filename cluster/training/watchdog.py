"""Ends a worker that is frozen or hangs. Ray asks a process to end itself: one that has stopped never hears of it.

Run as a program, it is the watchdog: a small process that reads a beat from its standard input now and then, and
kills the process that it watches when none comes for too long.
"""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

BEATS = 10
"""Beats in the time after which a process counts as frozen."""


def watch_over_me(patience_s: float, goes_on: Callable[[], bool] = lambda: True) -> None:
    """Have this process killed when it has stood still, all threads of it, for `patience_s` seconds.

    Args:
        patience_s: Seconds.
        goes_on: Asked again and again, in a thread of its own: False is as good as standing still.
    """
    command = [sys.executable, __file__, str(os.getpid()), str(patience_s)]
    dog = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_beat, args=(dog, patience_s / BEATS, goes_on), daemon=True).start()


def _beat(dog: "subprocess.Popen[bytes]", every_s: float, goes_on: Callable[[], bool]) -> None:
    assert dog.stdin is not None
    try:
        while dog.poll() is None:
            if goes_on():
                dog.stdin.write(b".")
                dog.stdin.flush()
            threading.Event().wait(every_s)
    except BrokenPipeError:
        pass  # the watchdog has gone: training goes on without


def _watch(pid: int, patience_s: float) -> None:
    while select.select([sys.stdin], [], [], patience_s)[0]:
        if not os.read(sys.stdin.fileno(), 4096):
            return  # it has ended
    print(f"process {pid} has stood still for {patience_s:g} s and is killed", file=sys.stderr, flush=True)
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), float(sys.argv[2]))

"""Kills a worker that is frozen or hangs. Ray asks a process to end itself, which a frozen process cannot.

Run as a program, this is the watchdog: a small process that reads heartbeats from its standard input, and kills the
process that it watches when none comes for too long.
"""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

HEARTBEATS = 10
"""Number of heartbeats in the time after which a process counts as frozen."""


def watch_over_me(patience_s: float, continues: Callable[[], bool] = lambda: True) -> None:
    """Start a watchdog that kills this process when no heartbeat comes for `patience_s` seconds.

    Args:
        patience_s: Time limit in seconds.
        continues: Called before each heartbeat, in its own thread; False suppresses the heartbeat.
    """
    command = [sys.executable, __file__, str(os.getpid()), str(patience_s)]
    dog = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_send_heartbeats, args=(dog, patience_s / HEARTBEATS, continues), daemon=True).start()


def _send_heartbeats(dog: "subprocess.Popen[bytes]", every_s: float, continues: Callable[[], bool]) -> None:
    assert dog.stdin is not None
    try:
        while dog.poll() is None:
            if continues():
                dog.stdin.write(b".")
                dog.stdin.flush()
            threading.Event().wait(every_s)
    except BrokenPipeError:
        pass  # the watchdog is gone: training continues without it


def _watch(pid: int, patience_s: float) -> None:
    while select.select([sys.stdin], [], [], patience_s)[0]:
        if not os.read(sys.stdin.fileno(), 4096):
            return  # the process has ended
    print(f"no heartbeat of process {pid} for {patience_s:g} s; killing it", file=sys.stderr, flush=True)
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), float(sys.argv[2]))

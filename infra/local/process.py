"""A process that outlives who started it: a pid file that it holds locked while it lives, and a log."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

LOOK_AGAIN_S = 0.1
STOP_S = 90.0


def start(
    pid_file: Path,
    log: Path,
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    owner: Mapping[str, object],
) -> None:
    """Start a process in a session of its own.

    It inherits the lock of its pid file, which ends with it: a number alone may be another's by then.
    """
    with open(os.open(pid_file, os.O_RDWR | os.O_CREAT, 0o600), "r+") as held, log.open("ab") as output:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = subprocess.Popen(
            command,
            cwd=pid_file.parent if not owner else "/",
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[held.fileno()],
            **owner,
        )
        held.truncate()
        held.write(str(process.pid))
        process.returncode = 0  # it is meant to outlive this object, which would warn


def alive(pid_file: Path) -> int:
    """Return the pid of the process; 0 if it has ended, or was never started."""
    try:
        held = pid_file.open()
    except FileNotFoundError:
        return 0
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(held.read() or 0)
    return 0


def stop(pid_file: Path, number: int = signal.SIGTERM, within_s: float = STOP_S) -> bool:
    """End a process and its group, in order or, when that takes too long, at once; return whether it was alive."""
    pid = alive(pid_file)
    if not pid:
        return False
    _send(pid, number)
    deadline = time.monotonic() + within_s
    while _group_lives(pid_file, pid):
        if time.monotonic() > deadline:
            _send(pid, signal.SIGKILL)
        time.sleep(LOOK_AGAIN_S)
    return True


def _send(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _group_lives(pid_file: Path, pid: int) -> bool:
    if alive(pid_file):
        return True
    with suppress(ChildProcessError):
        os.waitpid(-pid, os.WNOHANG)  # those that this process started itself
    try:
        os.killpg(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True

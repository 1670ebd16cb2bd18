import signal
import subprocess
import sys

import pytest

from tests.patience import PATIENCE_S

BEATING = """
import sys, threading
from cluster.training.watchdog import watch_over_me
watch_over_me(float(sys.argv[1]), lambda: sys.argv[2] == "goes on")
print("watched", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def watched(request):
    """A process that is killed when it stands still for some seconds, and lives until its input ends."""
    stands_still_s, does = getattr(request, "param", ("1", "goes on"))
    command = [sys.executable, "-c", BEATING, stands_still_s, does]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"watched\n"
        yield process
        process.kill()


def test_a_process_that_is_frozen_is_killed(watched):
    watched.send_signal(signal.SIGSTOP)
    assert watched.wait(timeout=PATIENCE_S) == -signal.SIGKILL
    assert b"for 1 s; killing it" in watched.stderr.readline()


@pytest.mark.parametrize("watched", [("1", "hangs")], indirect=True)
def test_one_that_runs_without_progress_is_killed(watched):
    assert watched.wait(timeout=PATIENCE_S) == -signal.SIGKILL


@pytest.mark.parametrize("watched", [("4", "goes on")], indirect=True)
def test_one_that_waits_lives_for_as_long_as_it_likes(watched):
    with pytest.raises(subprocess.TimeoutExpired):
        watched.wait(timeout=6)
    watched.stdin.close()
    assert watched.wait(timeout=PATIENCE_S) == 0
    assert watched.stderr.read() == b""  # and its watchdog ends with it

"""Ray that cannot be joined, or does not start, is one line; what was started ends with it, and on a signal."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from cluster.config import TrackingConfig
from cluster.outbox.sync import sync
from cluster.runtime.connection import connected
from metasr.errors import ConfigError
from tests.cluster.training import only_run, places, start_training
from tests.patience import PATIENCE_S


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError(), "ConnectionError"),
        (ConnectionError("\n"), "ConnectionError"),
        (RuntimeError("no head at redis://ray:hush@head:6379\nand more"), "no head at redis://head:6379"),
    ],
    ids=["no message", "an empty line", "several lines"],
)
def test_a_cluster_that_cannot_be_joined_is_one_line_with_a_reason_and_no_secret(monkeypatch, error, reason):
    def refuse(**_):
        raise error

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConfigError) as caught, connected(cpus=1):
        pass
    assert str(caught.value) == f"Ray at auto: {reason}. Check RAY_ADDRESS, or unset it to use this machine"


def ray_processes(of):
    """Return the processes of Ray that a process has started."""
    found = set()
    for about in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((about / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == of and b"/ray/" in (about / "cmdline").read_bytes():
                found.add(int(about.name))
        except OSError:
            continue  # it has ended
    return found


def ended(processes):
    """Wait until processes have ended."""
    deadline = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{pid}/exe").exists() for pid in processes):
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes]
        time.sleep(0.1)
    return True


# In a process of its own, because Ray leaves processes behind for Python to complain about.
FAILS = """
import os, sys
import ray
from cluster.runtime.connection import connected
from metasr.errors import MetaSRError
from tests.cluster.test_connection import ray_processes

known, tries = ray._private.services.get_node, []

def get_node(*arguments):
    tries.append(ray_processes(os.getpid()))
    if len(tries) <= int(sys.argv[1]):
        raise OSError("the machine is busy")
    return known(*arguments)

ray._private.services.get_node = get_node
try:
    with connected(cpus=1, tell=print):
        print("connected", ray.cluster_resources()["CPU"] >= 1)
except MetaSRError as error:
    print(error)
print(*map(len, tries), all(not one & other for one, other in zip(tries, tries[1:])))
"""


@pytest.fixture
def failing(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def start(num_failures):
        command = [sys.executable, "-c", FAILS, str(num_failures)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        return [line for line in done.stdout.splitlines() if not line.startswith("starting Ray, ")], done.stderr

    return start


def test_a_start_that_fails_is_cleaned_up_and_tried_again(failing):
    (said, connected_, account), err = failing(1)
    assert said == "Ray has not started (the machine is busy): trying again"
    assert connected_ == "connected True"
    first, *_, others = account.split()
    assert int(first) > 2
    assert others == "True"
    assert err == ""


@pytest.mark.slow
def test_a_ray_that_never_starts_is_one_message_with_the_folder_of_its_logs(failing):
    lines, err = failing(9)
    assert lines[:-2] == ["Ray has not started (the machine is busy): trying again"] * 2
    found = re.fullmatch(
        r"Ray does not start on this machine: the machine is busy\. "
        r"Run the same command again when the machine has less to do; (\S+) has Ray's logs",
        lines[-2],
    )
    assert list(Path(found[1]).glob("raylet*"))
    assert err == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_while_ray_starts_ends_the_run_in_order(tmp_path, store_url, number):
    process = start_training(tmp_path, store_url, {"train.steps": 1})
    try:
        while not (started := ray_processes(process.pid)):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        process.send_signal(number)
        output, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    assert output.splitlines()[-1] == f"stopped by {number.name}: run the same command again to continue"
    assert f"stopped by {number.name} after 0:" in output
    tracking = {name.removeprefix("tracking."): str(value) for name, value in places(tmp_path).items()}
    there = {name: tracking[name] for name in ("uri", "artifacts", "spool")}
    sync(TrackingConfig(**there), print, True)  # a busy machine may have had no time for it
    assert only_run(tmp_path)[1].info.status == "KILLED"
    assert ended(started)

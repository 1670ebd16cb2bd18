"""Training whose machines and driver come and go comes to the same bits."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.chaos.killer import send, until
from tests.chaos.runs import (
    EVERY,
    RESUMING,
    SETTINGS,
    UPLOADED,
    check_restarts,
    digest_of,
    ended,
    report_of,
    running,
)
from tests.cluster.test_submit import RAY
from tests.cluster.training import (
    ROOT,
    arguments_of,
    checkpoints_of,
    line_with,
    only_run,
    state_digest,
    train_locally,
)
from tests.patience import PATIENCE_S


@pytest.fixture
def add(machines):
    """Add machines, which are lost at the end of the test."""
    added = []

    def one_more(num_cpus):
        added.append(machines.add(num_cpus))
        return added[-1]

    yield one_more
    for machine in added:
        machines.lose(machine)


def test_training_goes_on_with_fewer_workers_and_grows_back(machines, add, home, store_url):
    """A machine is lost, another joins and is taken away after a notice; then SIGTERM, as the steps have no end."""
    settings = SETTINGS | {"train.steps": 10**6, "train.pixel_only_steps": 10**6, "resources.min_workers": 1}
    add(1)
    lost = add(1)
    with running(home, store_url, settings, **machines.environment) as process:
        assert "2 workers ready" in line_with(process, "ready")
        line_with(process, UPLOADED)
        machines.lose(lost)
        assert "restart 1: 1 worker ready" in line_with(process, "ready")
        leaving = add(1)
        assert "restart 2: 2 workers ready" in line_with(process, "ready")
        line_with(process, UPLOADED)
        machines.announce_loss(leaving, within_s=30)  # as short as the shortest notice of a cloud
        notice_at = time.monotonic()
        line_with(process, "a node is about to be taken away")
        uploaded = line_with(process, UPLOADED)
        assert int(uploaded.split("step ")[1].split("/")[0]) % EVERY, uploaded  # one out of turn
        line_with(process, "training continues with other workers")
        assert 5 < time.monotonic() - notice_at < 25  # near the end, and before it
        assert "restart 3: 1 worker ready" in line_with(process, "ready")
        line_with(process, UPLOADED)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM, output
    report = report_of(home)
    check_restarts(report, at_least=3)
    for announced in report["restarts"][1:]:
        assert announced["lost_at_step"] == announced["resumed_step"]
    assert_equal_to_uninterrupted(home, store_url)


def assert_equal_to_uninterrupted(home, store_url):
    """Compare the newest checkpoint that was due with the last of a run that has this many steps."""
    checkpoints = checkpoints_of(home / "runs")
    due = next(kept for kept in checkpoints.entries() if kept.step % EVERY == 0)
    checkpoints.fetch(due, home / "due")
    settings = SETTINGS | {"train.steps": due.step, "train.pixel_only_steps": due.step}
    assert state_digest(home / "due") == state_digest(train_locally(home, store_url, settings))


def test_four_workers_wait_for_room_after_the_loss_of_a_machine(machines, add, home, store_url, uninterrupted):
    add(2)
    lost = add(2)
    settings = SETTINGS | {"resources.num_workers": 4}
    with running(home, store_url, settings, **machines.environment) as process:
        assert "4 workers ready" in line_with(process, "ready")
        line_with(process, UPLOADED)
        machines.lose(lost)
        until(lambda: not machines.workers(), PATIENCE_S, "the end of the group", every_s=0.5)
        add(2)
        assert "4 workers ready" in line_with(process, "ready")
        ended(process)
    check_restarts(report_of(home), at_least=1)
    assert digest_of(home) == uninterrupted


def test_a_signal_ends_a_run_that_waits_for_room(machines, add, home, store_url):
    names = ("train.steps", "train.pixel_only_steps", "train.checkpoint_every_steps")
    lost = add(2)
    with running(home, store_url, SETTINGS | dict.fromkeys(names, 10**6), **machines.environment) as process:
        line_with(process, " loss ")
        machines.lose(lost)
        until(lambda: not machines.workers(), PATIENCE_S, "the end of the group", every_s=0.5)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "stopped at step 0: run the same command again to continue" in output
    _, run = only_run(home)
    assert run.info.status == "KILLED"


def test_a_job_whose_driver_is_killed_and_that_is_stopped_is_one_run(machines, add, home, store_url, uninterrupted):
    add(2)
    job = Job(machines, map(str, arguments_of(home, store_url, SETTINGS)))
    job.submit("first")
    job.wait_for("first", UPLOADED)
    send(signal.SIGKILL, [job.driver()])
    job.submit("second")
    job.wait_for("second", RESUMING)
    job.ray("stop", "second")
    stopped = job.ray("logs", "second")
    assert "SIGTERM: saving a checkpoint after this step" in stopped
    assert "run the same command again to continue" in stopped
    job.submit("third")
    job.wait_for("third", "its best generator is version")
    _, run = only_run(home)
    assert run.info.status == "FINISHED"
    assert digest_of(home) == uninterrupted


class Job:
    """A training as a submitted job."""

    def __init__(self, machines, arguments):
        self._machines, self._arguments = machines, list(arguments)

    def submit(self, name):
        """Submit it once more, under another name."""
        command = ["--submission-id", name, "--working-dir", ROOT, "--no-wait", "--", "python", "jobs/train.py"]
        self.ray("submit", *command, *self._arguments)

    def ray(self, verb, *arguments):
        """Do something with a job; return what is said about it."""
        outcome = subprocess.run(
            [RAY, "job", verb, "--address", self._machines.dashboard, *arguments],
            env=os.environ | self._machines.environment | {"RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES": ""},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        return outcome.stdout

    def wait_for(self, name, text):
        """Wait for a text in a job's output."""
        log = self._machines.folder / "session_latest" / "logs" / f"job-driver-{name}.log"
        until(lambda: log.exists() and text in log.read_text(), PATIENCE_S, f"{text!r} of {name}")

    def driver(self):
        """Return the pid of the driver."""
        (pid,) = (pid for pid in self._machines.processes() if is_driver(pid))
        return pid


def is_driver(pid):
    try:
        return b"jobs/train.py" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False

"""SIGTERM and Ctrl-C at every moment of a run's life."""

import signal
import socket
import time
from pathlib import Path

import pytest

from tests.cluster.training import only_run, start_training
from tests.patience import PATIENCE_S

ENDLESS = {"train.steps": 10**6, "train.pixel_only_steps": 10**6, "resources.num_workers": 1}
SHORT = {"train.steps": 2, "train.pixel_only_steps": 2, "resources.num_workers": 1}


def has_begun(process, home):
    return any(home.glob("records/*/records.jsonl"))


def has_a_mailbox(process, home):
    mailboxes = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if b"ray::Mailbox" in content(path)]
    return any(is_below(int(mailbox.name), process.pid) for mailbox in mailboxes)


def is_sending_its_last_records(process, home):
    return any(home.glob("runs/*/run-report.json"))


def content(path):
    """Of a file of a process; empty if the process has gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def is_below(process, ancestor):
    while process > 1 and process != ancestor:
        process = int((content(Path(f"/proc/{process}/stat")).rpartition(b")")[2].split() or [0, 0])[1])
    return process == ancestor


def signalled(process, number, home, has_come):
    """Send a signal when a moment has come; return the output, and how long the end took."""
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not has_come(process, home):
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        began = time.monotonic()
        output, _ = process.communicate(timeout=PATIENCE_S)
        return output, time.monotonic() - began
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("has_come", "number"),
    [
        (has_begun, signal.SIGTERM),
        pytest.param(has_begun, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(has_a_mailbox, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(has_a_mailbox, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_before_a_worker_is_ready_ends_the_run_with_a_report(tmp_path, store_url, has_come, number):
    process = start_training(tmp_path, store_url, ENDLESS)
    output, seconds = signalled(process, number, tmp_path, has_come)
    print(f"ended after {seconds:.1f} s\n{output}")
    assert process.returncode == 128 + number, output
    assert f"stopped by {signal.Signals(number).name}" in output
    assert "keeping a checkpoint" not in output
    assert "run the same command again to continue" in output.splitlines()[-1]
    assert "Traceback" not in output
    client, run = only_run(tmp_path)
    assert run.info.status == "KILLED"
    assert "run-report.json" in [item.path for item in client.list_artifacts(run.info.run_id)]


@pytest.mark.slow
def test_a_signal_ends_the_wait_for_an_mlflow_that_does_not_answer(tmp_path, store_url):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = start_training(tmp_path, store_url, SHORT | {"tracking.uri": uri})
        output, _ = signalled(process, signal.SIGTERM, tmp_path, is_sending_its_last_records)
    assert process.returncode == 143, output
    assert "records not sent to MLflow" in output
    assert list(tmp_path.glob("records/*/bundle-*"))  # nothing is lost

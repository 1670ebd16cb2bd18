"""SIGTERM and Ctrl-C at every moment of a run's life."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.fault_proxy import FaultProxy, Refuse
from tests.cluster.training import ROOT, line_with, only_run, start_training, train_to_end
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


def imports_torch(process, home):
    return b"libtorch" in content(Path(f"/proc/{process.pid}/maps"))


def imports_settings(process, home):
    return b"pydantic_core" in content(Path(f"/proc/{process.pid}/maps"))


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
    assert "saving a checkpoint" not in output
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", [imports_settings, imports_torch])
def test_a_signal_during_the_imports_is_one_line_and_nothing_has_begun(tmp_path, store_url, moment, number):
    (tmp_path / "tiny.yaml").write_text("train:\n  steps: 1\n")
    command = [sys.executable, "-c", "from jobs.start import main; main()", "train", "--recipe", "tiny.yaml"]
    places = ["--data.url", store_url, "--storage.url", tmp_path / "runs"]
    output_to = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([*command, *places], cwd=tmp_path, env=environment, **output_to)
    output, _ = signalled(process, number, tmp_path, moment)
    name = signal.Signals(number).name
    assert (process.returncode, output) == (
        128 + number,
        f"stopped by {name}: run the same command again to continue\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_a_validation_ends_the_run_after_it(tmp_path, store_url, number):
    scales = [1 + n / 100 for n in range(1, 90)]  # for seconds
    settings = {"train.checkpoint_every_steps": 5, "train.log_every_steps": 5, "eval.scales": scales}
    process = start_training(tmp_path, store_url, ENDLESS | settings)
    line_with(process, "step 5/")  # the validation has begun
    output, _ = signalled(process, number, tmp_path, lambda process, home: True)
    assert process.returncode == 128 + number, output
    told, _, after = output.partition("saving a checkpoint after this step")
    assert signal.Signals(number).name in told
    assert "validation:" in after
    assert "run the same command again to continue" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert only_run(tmp_path)[1].info.status == "KILLED"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_last_upload_ends_the_wait_for_a_store_that_is_away(tmp_path, store_url, s3_url, number):
    is_away = {"/step-00000002"}
    storage = {"storage.url": f"{s3_url}/{tmp_path.name}"}

    def plan(count, method, path):
        return Refuse() if method == "PUT" and any(part in path for part in is_away) else None

    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], plan) as proxy:
        process = start_training(tmp_path, store_url, SHORT | storage, AWS_ENDPOINT_URL=proxy.url)
        line_with(process, "checkpoints wait on the local disk")
        output, _ = signalled(process, number, tmp_path, lambda process, home: True)
    assert process.returncode == 128 + number, output
    assert "a checkpoint waits on the disk of this worker" in output
    assert "stopped at step 0: run the same command again to continue" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert only_run(tmp_path)[1].info.status == "KILLED"
    output = train_to_end(tmp_path, store_url, SHORT | storage)
    assert "uploading the checkpoint of step 2, which an earlier process left" in output
    assert only_run(tmp_path)[1].info.status == "FINISHED"


@pytest.mark.slow
def test_a_signal_while_all_of_the_store_is_away_ends_the_run_too(tmp_path, store_url, s3_url):
    is_away = []
    storage = {"storage.url": f"{s3_url}/{tmp_path.name}"}
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], lambda *_: Refuse() if is_away else None) as proxy:
        process = start_training(tmp_path, store_url, ENDLESS | storage, AWS_ENDPOINT_URL=proxy.url)
        line_with(process, "  loss ")
        is_away.append(True)
        output, _ = signalled(process, signal.SIGTERM, tmp_path, lambda process, home: True)
    assert process.returncode == 143, output
    assert list(tmp_path.glob("spool/*/step-*"))
    assert "stopped by SIGTERM: run the same command again to continue" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert only_run(tmp_path)[1].info.status == "KILLED"

"""What a run tells MLflow, through a real server that dies, stalls, loses answers and refuses."""

import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cluster.outbox import sender
from cluster.outbox.run_log import RunLog
from cluster.outbox.sync import sync
from cluster.registry import CHALLENGER
from cluster.tracking import connect
from metasr import manifest
from tests.cluster.fault_proxy import Answer, FaultProxy, Reset
from tests.cluster.tracked import MlflowServer, closed_port
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c63600000000200014827a2330000000049454e44ae426082"
)
CLIENT_WAITS_S = 30
NOTHING_LEFT = ("", 0)  # no failure, no run that another sends
PARAMS = {"train.seed": 1, "tracking.uri": "http://someone:hush@host"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(sender, "FIRST_PAUSE_S", 0.05)


@pytest.fixture
def config(server, tmp_path):
    return server.config(tmp_path / "spool")


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "generator.safetensors").write_bytes(b"weights")
    manifest.seal(folder, "bundle", {})
    return folder


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def the_run(config):
    client = connect(config)
    experiment = client.get_experiment_by_name(config.experiment)
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def history(client, run, name="loss"):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


def pictures(client, run):
    return [entry.path for entry in client.list_artifacts(run.info.run_id, "images") if entry.path.endswith(".png")]


def tell_everything(log, bundle, steps):
    for step in steps:
        log.metrics(step, {"step": step, "loss": 1 / (1 + step)}, {"val/picture": PNG} if step % 10 == 0 else None)
    log.text("recipe.yaml", "uri: http://someone:hush@host\n")
    log.tag("note", "a")
    log.register(bundle)
    log.status("FINISHED")


def assert_everything_is_there(config, steps):
    client, run = the_run(config)
    assert history(client, run) == [(step, 1 / (1 + step)) for step in steps]
    assert len(pictures(client, run)) == len([step for step in steps if step % 10 == 0])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.seed"] == "1"
    assert run.data.tags["note"] == "a"
    (version,) = client.search_model_versions(f"name = '{config.model}'")
    assert client.get_model_version_by_alias(config.model, CHALLENGER).version == version.version
    assert run.data.tags["metasr.version"] == str(version.version)


def test_everything_arrives_though_the_server_dies_in_the_middle(config, server, bundle):
    with RunLog(config, "run-1", PARAMS, {"code": "abc"}) as log:
        log.metrics(0, {"loss": 1.0}, {"val/picture": PNG})
        assert log.drain(PATIENCE_S) == 0
        killer = threading.Thread(target=server.kill)
        killer.start()
        tell_everything(log, bundle, range(1, 40))
        killer.join()
        log.tag("note", "a")
        assert log.remaining > 0
        server.start()
        assert log.drain(PATIENCE_S) == 0
        assert not log.last_error
    assert_everything_is_there(config, range(40))


def first_of_each(faults):
    """Plan a fault for the first request of each kind, in turn."""
    known = {}

    def plan(number, method, path):
        kind = method, path.partition("?")[0]
        return None if kind in known else known.setdefault(kind, faults[len(known) % len(faults)])

    return plan


def test_answers_that_are_lost_make_nothing_twice(config, bundle):
    with FaultProxy(config.uri, first_of_each([Reset(), Reset(), Answer(503), Reset(), Answer(500)])) as proxy:
        with RunLog(config.model_copy(update={"uri": proxy.url}), "run-1", PARAMS, {}) as log:
            tell_everything(log, bundle, range(20))
            assert log.drain(PATIENCE_S) == 0
        assert len([seen for seen in proxy.seen if isinstance(seen.fault, Reset)]) > 5
    assert_everything_is_there(config, range(20))


def test_pictures_of_patients_can_be_kept_out(config):
    with RunLog(config.model_copy(update={"pictures": False}), "run-1", PARAMS, {}) as log:
        log.metrics(0, {"loss": 1.0}, {"val/picture": PNG})
        assert log.drain(PATIENCE_S) == 0
    client, run = the_run(config)
    assert history(client, run) == [(0, 1.0)]
    assert pictures(client, run) == []


def test_the_same_bundle_is_one_version(config, bundle):
    with RunLog(config, "run-1", PARAMS, {}) as log:
        log.register(bundle)
        assert log.drain(PATIENCE_S) == 0
        log.register(bundle)
        assert log.drain(PATIENCE_S) == 0
    client, _ = the_run(config)
    assert len(client.search_model_versions(f"name = '{config.model}'")) == 1


def test_a_record_that_is_refused_holds_up_no_other(config, tmp_path):
    with RunLog(config, "run-1", PARAMS, {}) as log:
        for step in range(10):
            log.metrics(step, {"loss%" if step == 4 else "loss": step})
        log.status("FINISHED")
        assert log.drain(PATIENCE_S) == 0
        assert len(log.refusals) == 1
    client, run = the_run(config)
    assert [step for step, _ in history(client, run)] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert run.info.status == "FINISHED"
    assert "loss%" in next(tmp_path.glob("spool/*/refused.jsonl")).read_text()


def test_a_damaged_picture_holds_up_no_other_record(config):
    with RunLog(config, "run-1", PARAMS, {}) as log:
        log.metrics(0, {"loss": 0}, {"val": b"no picture"})
        log.metrics(1, {"loss": 1})
        assert log.drain(PATIENCE_S) == 0
        assert len(log.refusals) == 1
    assert [step for step, _ in history(*the_run(config))] == [0, 1]


TRAINING = """
import sys, time
from cluster.config import TrackingConfig
from cluster.outbox.run_log import RunLog
config = TrackingConfig.model_validate_json(sys.argv[1])
png, step = bytes.fromhex(sys.argv[2]), int(sys.argv[3])
log = RunLog(config, "run-1", {"train.seed": 1}, {})
while True:
    log.metrics(step, {"loss": 1 / (1 + step)}, {"val": png} if step % 10 == 0 else None)
    print(step, flush=True)
    step += 1
    time.sleep(0.01)
"""


def test_killed_at_any_moment_everything_arrives_once_and_in_order(config):
    draw, told = random.Random(1), []
    for _ in range(3):
        # The next takes up after the last record that the one before may have made.
        arguments = [config.model_dump_json(), PNG.hex(), str(told[-1] + 2 if told else 0)]
        with subprocess.Popen(
            [sys.executable, "-c", TRAINING, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process:
            told += [int(process.stdout.readline()) for _ in range(draw.randint(1, 100))]
            process.send_signal(signal.SIGKILL)
            told += [int(line) for line in process.stdout.read().splitlines()]
    assert sync(config, print, uri_is_given=False)[:2] == NOTHING_LEFT
    client, run = the_run(config)
    steps = [step for step, _ in history(client, run)]
    assert steps == sorted(set(steps))
    assert set(told) <= set(steps)
    assert len(steps) - len(told) <= 3  # made, but not yet told of
    kept = [int(re.search(r"step\+(\d+)\+", path)[1]) for path in pictures(client, run)]
    assert len(kept) == len(set(kept))
    assert {step for step in told if step % 10 == 0} <= set(kept) <= {step for step in steps if step % 10 == 0}
    assert run.info.status == "RUNNING"


def test_nobody_waits_for_a_server_that_never_answers(config):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hole:
        silent = config.model_copy(update={"uri": f"http://127.0.0.1:{hole.getsockname()[1]}"})
        begin = time.monotonic()
        log = RunLog(silent, "run-1", PARAMS, {})
        slowest = time.monotonic() - begin
        for step in range(300):
            begin = time.monotonic()
            log.metrics(step, {"loss": 0.5}, {"val": PNG})
            slowest = max(slowest, time.monotonic() - begin)
        assert slowest < CLIENT_WAITS_S / 2
        begin = time.monotonic()
        assert log.drain(0.5) == 1 + 300 + 300
        log.close()
        assert time.monotonic() - begin < CLIENT_WAITS_S / 2


def test_a_run_without_a_server_ends_well_and_says_how_to_send_the_rest(config, bundle, caplog):
    away = config.model_copy(update={"uri": f"http://someone:hush@127.0.0.1:{closed_port()}"})
    with RunLog(away, "run-1", PARAMS, {}) as log:
        tell_everything(log, bundle, range(20))
        wait_until(lambda: log.last_error)
        assert log.drain(0.5) == 1 + 20 + 2 + 4
    sends = f"`metasr sync --tracking.spool {config.spool}` sends them"
    assert f"27 records for MLflow are still to be sent: {sends}" in caplog.text
    said = []
    wait_until(lambda: not sync(away, lambda line: None, uri_is_given=False).num_skipped)  # its last try has ended
    assert "127.0.0.1" in sync(away, said.append, uri_is_given=False).failure
    assert said == [f"run run-1: 27 records are still to be sent, which wait in {config.spool}/run-1"]
    kept = b"".join(path.read_bytes() for path in Path(config.spool).rglob("*") if path.is_file())
    for words in (kept.decode("latin-1"), caplog.text, log.last_error):
        assert "hush" not in words
    assert sync(config, said.append, uri_is_given=True)[:2] == NOTHING_LEFT
    assert said[1].startswith("run run-1: 27 records sent (20 metrics, ")
    assert_everything_is_there(config, range(20))
    assert sync(config, said.append, uri_is_given=True)[:2] == NOTHING_LEFT
    assert len(said) == 2


def test_a_run_that_sends_its_own_records_is_left_to_do_so(config):
    away = config.model_copy(update={"uri": f"http://127.0.0.1:{closed_port()}"})
    said = []
    with RunLog(away, "run-1", PARAMS, {}) as log:
        wait_until(lambda: log.last_error)
        assert sync(config, said.append, uri_is_given=True)[:2] == ("", 1)
        assert said == ["run run-1: skipped, another process is sending them"]
        assert log.remaining == 1

"""One driver for each run: of two, one; after a death, the next; and who was asleep is told."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from itertools import count

import pytest
from mlflow import MlflowClient

from cluster.checkpoints import RunCheckpoints, SupersededError
from cluster.config import JobConfig, TrackingConfig
from cluster.outbox.sync import sync
from cluster.recipes import Layer, resolve
from cluster.store import open_store
from cluster.store.lease import Held, Holder, Lease, RunTakenError
from cluster.training import driver as training_driver
from cluster.training.identify import RunSpec
from jobs.train import NOT_REGISTERED
from metasr.errors import StoreError, TrainingError
from tests.cluster.fault_proxy import FaultProxy, Refuse, Reset
from tests.cluster.sealed import QUICK, make_sealed, open_at
from tests.cluster.training import TINY, line_with, start_training, train_to_end
from tests.patience import PATIENCE_S

RUN = "recipe-0123"
KEY = f"{RUN}/lease.json"
QUICKLY = {"renew_every_s": 0.05, "patience_s": 1.0}
PATIENTLY = {"renew_every_s": 0.05, "patience_s": 5.0}  # where the holder is alive, on a machine that may be busy

DRIVER = """
import sys
from cluster.store.lease import Lease, RunTakenError
from cluster.store import open_store

store, run, patience_s = open_store(sys.argv[1]), sys.argv[2], float(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
try:
    with Lease.acquire(store, run, lambda line: None, renew_every_s=0.05, patience_s=patience_s) as lease:
        print("fence", lease.fence, flush=True)
        if sys.stdin.readline() == "until lost\\n":
            print("lost", lease.lost.wait(), flush=True)
except RunTakenError as error:
    print("taken", error.exit_code, error, flush=True)
"""


class Driver:
    """A driver in a process of its own."""

    def __init__(self, store, patience_s):
        command = [sys.executable, "-c", DRIVER, store.url, RUN, str(patience_s)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self):
        return self.process.stdout.readline().strip()

    def write(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def driver(store):
    """Start a driver that waits for a line before it takes the lease."""
    with ExitStack() as drivers:

        def start(patience_s=QUICKLY["patience_s"]):
            started = Driver(store, patience_s)
            drivers.callback(started.close)
            assert started.read() == "ready"
            return started

        yield start


@pytest.fixture
def holding(driver):
    """Start a driver that has the lease."""

    def start():
        started = driver()
        started.write("go")
        assert started.read() == "fence 1"
        return started

    return start


def held_in(store):
    return Held.model_validate_json(store.get(KEY))


def wait_for_beat(store, after):
    """Wait until a holder has renewed its lease."""
    deadline = time.monotonic() + PATIENCE_S
    while held_in(store).beat <= after:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_after_the_other_takes_it_at_once_with_a_higher_fence(store):
    told = []
    for fence in (1, 2, 3):
        with Lease.acquire(store, RUN, told.append, **QUICKLY) as lease:
            assert lease.fence == fence
            assert held_in(store).holder == Holder.me()
        assert held_in(store).holder is None
        assert not lease.lost.is_set()
    assert told == []


def test_a_second_driver_is_refused_and_told_who_is_at_work(store, holding):
    first, told = holding(), []
    with pytest.raises(RunTakenError, match=f"process {first.process.pid} on {Holder.me().host}") as caught:
        Lease.acquire(store, RUN, told.append, **PATIENTLY)
    assert caught.value.exit_code == 2
    assert RUN in str(caught.value)
    assert len(told) == 1
    assert "waiting 5 s to see whether" in told[0]
    first.write("end")
    assert first.process.wait(PATIENCE_S) == 0
    with Lease.acquire(store, RUN, told.append, **QUICKLY) as lease:
        assert lease.fence == 2
    assert len(told) == 1


@pytest.mark.parametrize("is_buried", [True, False])
def test_after_a_kill_the_next_one_on_this_host_need_not_wait(store, holding, is_buried):
    first, told = holding(), []
    first.process.kill()
    if is_buried:
        first.process.wait()
    else:  # it has ended, and nobody has asked how
        os.waitid(os.P_PID, first.process.pid, os.WEXITED | os.WNOWAIT)
    with Lease.acquire(store, RUN, told.append, **QUICKLY) as lease:
        assert lease.fence == 2
    assert told == []


def lie(store, **changes):
    """Write a lease as a holder that is gone left it."""
    holder = Holder.me().model_copy(update=changes)
    store.put(KEY, Held(fence=6, beat=40, holder=holder).to_bytes())


def test_a_process_with_the_number_of_a_dead_one_is_not_taken_for_it(store):
    lie(store, started="1")
    told = []
    with Lease.acquire(store, RUN, told.append, **QUICKLY) as lease:
        assert lease.fence == 7
    assert told == []


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"boot": "another"}, {}])
def test_a_silent_holder_that_may_be_alive_is_waited_for(store, changes):
    lie(store, **changes)
    told, start = [], time.monotonic()
    with Lease.acquire(store, RUN, told.append, **QUICKLY) as lease:
        assert time.monotonic() - start >= QUICKLY["patience_s"]
        assert lease.fence == 7
    assert len(told) == 1


def test_of_two_that_come_at_once_one_gets_it(store, driver):
    both = [driver(PATIENTLY["patience_s"]) for _ in range(2)]
    for one in both:
        one.write("go")
    lines = sorted(one.read() for one in both)
    assert lines[0] == "fence 1"
    assert lines[1].startswith("taken 2 ")


def test_of_two_that_find_a_silent_holder_one_takes_over(store, driver):
    lie(store, host="elsewhere")
    both = [driver(), driver()]
    for one in both:
        one.write("go")
    lines = sorted(one.read() for one in both)
    assert lines[0] == "fence 7"
    assert lines[1].startswith("taken 2 ")


def test_a_frozen_driver_is_replaced_and_finds_out_when_it_wakes_up(store, holding):
    first = holding()
    checkpoints = RunCheckpoints(store, RUN).claim(1)
    wait_for_beat(store, 1)
    first.process.send_signal(signal.SIGSTOP)
    told = []
    with Lease.acquire(store, RUN, told.append, **QUICKLY) as lease:
        assert lease.fence == 2
        assert len(told) == 1
        RunCheckpoints(store, RUN).claim(lease.fence)
        first.process.send_signal(signal.SIGCONT)
        first.write("until lost")
        assert first.read() == "lost True"
        assert first.process.wait(PATIENCE_S) == 0
        assert held_in(store).holder == Holder.me()
        assert not lease.lost.is_set()
    with pytest.raises(SupersededError):
        checkpoints.claim(1)


def test_a_driver_that_sleeps_for_less_than_the_patience_keeps_it(store, holding):
    first = holding()
    wait_for_beat(store, 1)
    first.process.send_signal(signal.SIGSTOP)
    threading.Timer(0.3, first.process.send_signal, [signal.SIGCONT]).start()
    with pytest.raises(RunTakenError):
        Lease.acquire(store, RUN, lambda line: None, **PATIENTLY)


def test_a_lease_that_is_none_is_an_error(store):
    store.put(KEY, b"{}")
    with pytest.raises(StoreError, match=r"lease\.json.*not one"):
        Lease.acquire(store, RUN, lambda line: None, **QUICKLY)


# What is said of a run that was taken over


def assert_noted(client, experiment, folder, status, outcome):
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    (report,) = folder.rglob("run-report.json")
    said = json.loads(report.read_text())["outcome"]
    assert (run.info.status, run.data.tags["metasr.outcome"], said) == (status, outcome, outcome)


@pytest.fixture
def resolved(tmp_path, store_url, config):
    """Make the settings of a run, for a driver on a machine of its own."""

    def make(machine):
        tracking = {f"tracking.{name}": value for name, value in config.model_dump().items()}
        ours = tracking | {"tracking.spool": str(tmp_path / machine), "storage.url": str(tmp_path / "runs")}
        return resolve(JobConfig, [Layer("test", {**TINY, **ours, "data.url": store_url})])

    return make


@pytest.mark.parametrize("end", ["well", "by an error", "by word of it"])
def test_a_driver_that_was_replaced_changes_nothing_of_what_the_next_one_noted(
    tmp_path, client, config, resolved, monkeypatch, end
):
    """A second driver is at work, and is stopped, while the first one sleeps. Ray is not needed for that."""
    storage = open_store(str(tmp_path / "runs"))

    def train_as_second(run, lease, observers, stop):
        checkpoints = RunCheckpoints(storage, run.name).claim(lease.fence)
        checkpoints.publish(make_sealed(tmp_path / "checkpoint", 1), 1, None, keep=1)
        stop.request("SIGTERM")

    def train_as_first(run, lease, observers, stop):
        given_back = Held(fence=lease.fence + 1, beat=0, holder=None)  # by a third
        storage.put(f"{run.name}/lease.json", given_back.to_bytes())
        monkeypatch.setattr(training_driver, "train_on_ray", train_as_second)
        assert training_driver.train(RunSpec(resolved("second"), "tiny"), print).step == 1
        if end == "by an error":
            assert lease.lost.wait(PATIENCE_S)
            raise TrainingError("training failed", "its workers were superseded")
        if end == "by word of it":
            raise SupersededError("training has stopped here", "it was superseded")

    monkeypatch.setattr(training_driver, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(training_driver, "require_nodes", lambda *_: None)
    monkeypatch.setattr(training_driver, "train_on_ray", train_as_first)
    with pytest.raises(TrainingError, match=r"superseded|taken the run over"):
        training_driver.train(RunSpec(resolved("first"), "tiny"), print)
    assert_noted(client, config.experiment, tmp_path / "artifacts", "KILLED", "stopped by SIGTERM")


@pytest.mark.slow
def test_a_frozen_driver_that_wakes_up_after_the_end_leaves_the_run_finished(tmp_path, store_url):
    settings = {
        "train.steps": 400,
        "train.checkpoint_every_steps": 50,
        "train.pixel_only_steps": 400,
        "resources.num_workers": 1,
    }
    first = start_training(tmp_path, store_url, settings)
    try:
        line_with(first, "1 worker ready")  # which goes on without its driver
        first.send_signal(signal.SIGSTOP)
        output = train_to_end(tmp_path, store_url, settings, code=NOT_REGISTERED)
        assert "records and the model wait" in output  # for the frozen one, which is sending them
        first.send_signal(signal.SIGCONT)
        output, _ = first.communicate(timeout=PATIENCE_S)
    finally:
        first.kill()
        first.communicate()
    assert first.returncode == 1, output
    assert "has taken the run over" in output.splitlines()[-1]
    tracking = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", spool=str(tmp_path / "records"))
    assert sync(tracking, print, uri_is_given=False).failure == ""
    client = MlflowClient(tracking.uri)
    assert_noted(client, tracking.experiment, tmp_path / "artifacts", "FINISHED", "finished")


# Faults on the way to a real server


@pytest.fixture
def url(s3_url):
    return f"{s3_url}/{uuid.uuid4().hex}"


def proxy_with(plan):
    return FaultProxy(os.environ["AWS_ENDPOINT_URL"], plan)


def test_a_holder_outlasts_an_outage(url, caplog):
    plain, is_away, refused = open_store(url), threading.Event(), threading.Event()

    def plan(*_):
        if not is_away.is_set():
            return None
        refused.set()
        return Refuse()

    with proxy_with(plan) as proxy, Lease.acquire(open_at(proxy.url, url), RUN, print, **QUICKLY) as lease:
        wait_for_beat(plain, 1)
        is_away.set()
        assert refused.wait(PATIENCE_S)
        before = held_in(plain).beat
        is_away.clear()
        wait_for_beat(plain, before)
        assert not lease.lost.is_set()
        assert held_in(plain).fence == 1


def test_an_outage_is_not_taken_for_the_silence_of_the_holder(url):
    is_away = threading.Event()

    def tell(line):
        is_away.set()  # as soon as the second driver watches
        threading.Timer(3, is_away.clear).start()

    patient = replace(QUICK, attempts=1000, deadline_s=60)
    with (
        proxy_with(lambda *_: Refuse() if is_away.is_set() else None) as proxy,
        Lease.acquire(open_at(proxy.url, url), RUN, print, renew_every_s=0.4) as lease,
    ):
        with pytest.raises(RunTakenError):
            Lease.acquire(open_at(proxy.url, url, patient), RUN, tell, patience_s=2.0)
        assert not lease.lost.is_set()


def test_a_renewal_whose_answer_was_lost_is_no_loss(url):
    plain, puts = open_store(url), count()

    def plan(number, method, path):
        is_first_renewal = method == "PUT" and next(puts) in (1, 2)  # in both of its tries
        return Reset() if is_first_renewal else None

    with proxy_with(plan) as proxy:
        with Lease.acquire(open_at(proxy.url, url), RUN, print, **QUICKLY) as lease:
            wait_for_beat(plain, 3)
            assert not lease.lost.is_set()
        assert held_in(plain).holder is None


def test_a_release_without_the_store_fails_nobody(url, caplog):
    is_away = threading.Event()
    with (
        proxy_with(lambda *_: Refuse() if is_away.is_set() else None) as proxy,
        Lease.acquire(open_at(proxy.url, url), RUN, print, **QUICKLY),
    ):
        is_away.set()
    assert "not given back" in caplog.text

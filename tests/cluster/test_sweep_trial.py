"""A trial in its actor, without Ray: what it tells Tune while another driver has its run, or the store is away."""

import json
import os
import threading
import time
import uuid
from types import SimpleNamespace

import pytest

from cluster.checkpoints import RunCheckpoints
from cluster.recipes import Layer
from cluster.store import open_store
from cluster.store.lease import Lease
from cluster.stream import read_index
from cluster.sweep import trial as trial_module
from cluster.sweep.objective import Objective
from cluster.sweep.space import SweepPlan
from cluster.sweep.trial import SweepContext, TrialRun
from cluster.training.naming import run_name
from jobs.cli import RECIPES
from jobs.tune import SWEEPS
from metasr.context import Request
from metasr.events import Event
from metasr.training.state import LOG
from tests.cluster.fault_proxy import FaultProxy, Refuse
from tests.cluster.sealed import make_sealed
from tests.cluster.training import TINY, places

RATE, STEPS = "optim.generator_lr", 90


class Run:
    """A run of a sweep that another driver trains.

    Args:
        home: Where things are kept.
        store_url: Of the data.
        storage_url: Where runs keep their checkpoints.
    """

    def __init__(self, home, store_url, storage_url):
        (home / "s.yaml").write_text(f"space: {{{RATE}: {{choice: [0.001, 0.002]}}}}")
        given = {**places(home), **TINY, "data.url": store_url, "storage.url": storage_url, "train.steps": STEPS}
        one = {"resources.num_workers": 1}
        values = {
            name: value if isinstance(value, list | int | float) else str(value) for name, value in given.items()
        }
        plan = SweepPlan.read(str(home / "s.yaml"), SWEEPS, "smoke", RECIPES, Layer("test", values | one))
        digest = read_index(open_store(store_url)).digest()
        box = SimpleNamespace(requested=SimpleNamespace(remote=lambda: Request.NONE))
        self.work = SweepContext("sweep-1", plan, Objective(("1.5", "2.0")), digest, box)
        self.name = run_name(plan.trial({RATE: 0.001}).config, "smoke", digest)
        self.storage, self._home, self._log = open_store(storage_url), home, ""

    def begin(self):
        """Take the run's lease, and give signs of life."""
        self.lease = Lease.acquire(self.storage, self.name, print, renew_every_s=0.05)
        self._checkpoints = RunCheckpoints(self.storage, self.name).claim(self.lease.fence)

    def validate(self, step):
        """Keep a checkpoint, with the validations until then in its log."""
        numbers = {f"val_ssim_{method}_x{scale}": 0.9 for method in ("model", "bicubic") for scale in ("1.5", "2.0")}
        gained = {name: value + step / 1000 * ("model" in name) for name, value in numbers.items()}
        self._log += json.dumps({"step": step, "selection_score": step / 1000, **gained}) + "\n"
        folder = make_sealed(self._home / f"step-{step}", step)
        (folder / LOG).write_text(self._log)
        self._checkpoints.publish(folder, step, None, keep=2)

    def end(self):
        """Finish the run."""
        self._checkpoints.finish({"step": str(STEPS), "registered": ""})
        self.lease.release()

    def trial(self):
        """Return a trial with the settings of the run, in this process."""
        run = TrialRun.__new__(TrialRun)
        run.setup({RATE: 0.001}, self.work)
        return run


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    monkeypatch.setattr(trial_module.ray, "get", lambda request: request)
    monkeypatch.setattr(trial_module, "RETRY_S", 0.05)


def results_until(trial, name):
    """Return results of a trial up to the first that has something."""
    results = [trial.step()]
    while name not in results[-1]:
        results.append(trial.step())
    return results


def steps_of(results):
    return [result["step"] for result in results if "step" in result]


def test_a_trial_whose_run_another_driver_has_waits_and_takes_what_that_one_finds(tmp_path, store_url):
    run = Run(tmp_path, store_url, str(tmp_path / "runs"))
    run.begin()
    run.validate(30)
    trial = run.trial()
    before = results_until(trial, "has_workers")
    assert steps_of(before) == [30]
    assert not before[-1]["has_workers"]
    run.validate(60)
    run.validate(STEPS)
    run.end()
    after = results_until(trial, "done")
    assert steps_of(after) == [60, STEPS]
    assert after[-1]["outcome"] == "finished"
    assert after[-1]["objective"] == pytest.approx(STEPS / 1000)
    assert all(result["repeated"] for result in (*before, *after) if "step" in result)


def test_a_trial_waits_for_a_store_that_is_away(tmp_path, store_url, s3_url, monkeypatch):
    storage_url, is_back = f"{s3_url}/{uuid.uuid4().hex}", threading.Event()
    run = Run(tmp_path, store_url, storage_url)
    run.begin()
    run.validate(STEPS)
    run.end()
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], lambda *_: None if is_back.is_set() else Refuse()) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        trial = run.trial()
        assert not trial.step()["has_workers"]
        is_back.set()
        *_, last = results_until(trial, "done")
    assert (last["outcome"], last["step"]) == ("finished", STEPS)


def test_a_trial_says_when_it_has_workers_and_what_they_were_missing(tmp_path, store_url, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, sleep=time.sleep)
    monkeypatch.setattr(trial_module, "time", clock)

    def train(spec, tell, *, sweep):
        for now, kind in ((100, "group"), (130, "steps"), (150, "group"), (160, "steps")):
            clock.now = float(now)
            sweep.see(Event(kind, 0))
        clock.now = 165.0
        return SimpleNamespace(stopped_by=0)

    monkeypatch.setattr(trial_module, "train", train)
    trial = Run(tmp_path, store_url, str(tmp_path / "runs")).trial()
    results = results_until(trial, "done")[:-1]
    assert [(one["has_workers"], one["idle_s"]) for one in results] == [(True, 0.0), (True, 20.0), (False, 5.0)]


def test_time_in_which_workers_wait_for_a_store_does_not_count(tmp_path, store_url, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, sleep=time.sleep)
    monkeypatch.setattr(trial_module, "time", clock)
    away, back = Event("warning", 0, text="waiting for the store: no connection"), "s3://b is back after 500 s"

    def train(spec, tell, *, sweep):
        for now, event in (
            (100, Event("group", 0)),
            (110, away),
            (310, Event("warning", 0, text=back)),
            (320, Event("resumed", 0)),  # 200 s of these
            (330, Event("steps", 10)),
            (340, Event("steps", 20)),
            (341, away),
            (350, Event("steps", 30)),  # from memory
            (860, Event("warning", 0, text=back)),
            (865, Event("steps", 40)),  # 505 s longer than the others
            (866, Event("warning", 0, text=f"checkpoints wait on the local disk: {back}")),
            (875, Event("steps", 50)),
        ):
            clock.now = float(now)
            sweep.see(event)
        return SimpleNamespace(stopped_by=0)

    monkeypatch.setattr(trial_module, "train", train)
    trial = Run(tmp_path, store_url, str(tmp_path / "runs")).trial()
    results = results_until(trial, "done")[:-1]
    told = [(one["has_workers"], one["idle_s"]) for one in results]
    assert told == [(True, 0.0), (True, 200.0), (True, 505.0), (False, 0.0)]

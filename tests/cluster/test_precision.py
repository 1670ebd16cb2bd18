"""`train.precision: auto`: bfloat16 where the hardware computes it, and a run keeps what it began with."""

import os
import re
import subprocess
import sys

import pytest
import torch

from cluster.checkpoints import RunCheckpoints
from cluster.config import JobConfig
from cluster.recipes import Layer, flatten, resolve
from cluster.store import open_store
from cluster.sweep.budget import Limits
from cluster.sweep.ledger import TrialLedger
from cluster.sweep.record import SweepRecord
from cluster.sweep.space import SweepPlan
from cluster.sweep.sweep import preview
from cluster.training import precision
from cluster.training.identify import RunSpec, identify, settled
from jobs.cli import RECIPES
from jobs.tune import SWEEPS
from metasr.arithmetic import has_bfloat16
from metasr.errors import ConfigError
from tests.cluster.ray_nodes import ray_node
from tests.patience import PATIENCE_S

SAYS = "import torch; from metasr.arithmetic import has_bfloat16; print(has_bfloat16(torch.device('cpu')))"


@pytest.fixture
def spec(job):
    def make(value):
        layer = Layer("test", flatten(job) | {"train.precision": value})
        return RunSpec(resolve(JobConfig, [layer]), "tiny")

    return make


@pytest.fixture
def machine(monkeypatch):
    """This machine, as one that has bfloat16 or has not."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return lambda has: monkeypatch.setattr(precision, "computes_bfloat16", lambda gpu: has)


def test_a_processor_whose_instructions_end_at_avx2_has_no_bfloat16():
    limited = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    assert subprocess.check_output([sys.executable, "-c", SAYS], env=limited, text=True).strip() == "False"


@pytest.mark.parametrize(
    ("has", "value", "said"),
    [
        (True, "bfloat16", "precision: bfloat16"),
        (False, "float32", "precision: float32 (this processor has no bfloat16)"),
    ],
)
def test_auto_is_what_the_processor_computes_and_the_run_is_named_by_that(spec, machine, has, value, said):
    machine(has)
    told = []
    assert identify(settled(spec("auto"), tell=told.append)).run_name == identify(spec(value)).run_name
    assert told == [said]


def test_a_run_keeps_the_precision_that_it_began_with_on_another_machine_and_says_so(spec, machine):
    machine(True)
    begun = settled(spec("auto"))
    RunCheckpoints(open_store(begun.config.storage.url), identify(begun).run_name).claim(1)
    machine(False)
    told = []
    assert identify(settled(spec("auto"), tell=told.append)).run_name == identify(begun).run_name
    assert told == ["precision: bfloat16, which it was started with"]


@pytest.mark.parametrize("value", ["float32", "bfloat16"])
def test_a_precision_that_is_given_is_taken_on_any_machine(spec, machine, value):
    machine(value != "bfloat16")
    assert settled(spec(value), tell=pytest.fail).config.train.precision == value


def test_the_settings_of_a_run_say_what_auto_was_and_who_asked_for_it(spec, machine):
    machine(True)
    assert 'precision: "bfloat16"' in settled(spec("auto")).resolved.text()
    assert settled(spec("auto")).resolved.origins["train.precision"] == "auto (test)"


def test_a_sweep_is_named_by_what_auto_was_and_keeps_it_for_all_trials(job, machine):
    def lines(value, **more):
        given = {"data.url": job.data.url, "storage.url": job.storage.url, "train.precision": value, **more}
        return preview(SweepPlan.read("scale-range", SWEEPS, "default", RECIPES, Layer("test", given)), Limits())

    machine(False)
    said, *named = lines("auto")
    assert said == "precision: float32 (this processor has no bfloat16)"
    assert named[0] == lines("float32")[0] != lines("bfloat16")[0]
    folder = f"sweeps/{lines('bfloat16')[0].split()[1].rstrip(',')}"
    begun = SweepRecord(name="sweep", recipe="default", objective="", scales=(), space={})
    TrialLedger(open_store(job.storage.url), folder, 1, begun)
    assert lines("auto")[0] == "precision: bfloat16, which it was started with"


def test_auto_in_a_space_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("space:\n  train.precision.choice: [auto, float32]\n")
    with pytest.raises(ConfigError, match=r"train\.precision auto in the space of mine: it is chosen for all trials"):
        SweepPlan.read(str(tmp_path / "mine.yaml"), SWEEPS, "default", RECIPES, Layer("test", {}))


CHOOSES = """
import sys, time
import ray
from cluster.config import JobConfig
from cluster.runtime.connection import connected
from cluster.training.precision import choose_precision

with connected(cpus=1):
    while len(ray.nodes()) < int(sys.argv[1]):
        time.sleep(0.1)
choose_precision(JobConfig(), lambda precision: False, print)
"""


@pytest.mark.slow
def test_of_a_cluster_all_nodes_that_workers_fit_on_are_asked(cluster):
    """The second node computes as a processor does whose instructions end at AVX2."""
    _, environment = cluster

    def said(num_nodes):
        command = [sys.executable, "-c", CHOOSES, str(num_nodes)]
        return subprocess.check_output(command, env=environment, text=True, timeout=PATIENCE_S).splitlines()[-1]

    assert (said(1) == "precision: bfloat16") == has_bfloat16(torch.device("cpu"))
    limited = environment | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    options = [f"--address={environment['RAY_ADDRESS']}", "--num-cpus=2", "--dashboard-agent-listen-port=0"]
    with ray_node(limited, *options):
        assert re.fullmatch(r"precision: float32 \([0-9., ]+ ha(s|ve) no bfloat16\)", said(2))

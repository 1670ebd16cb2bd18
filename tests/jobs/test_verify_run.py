"""`metasr verify-run` as a person or a script meets it: a line a comparison, a verdict, an exit code."""

import json
import shutil

import pytest
import safetensors.torch

from cluster.checkpoints import RunCheckpoints
from cluster.compare.states import state_digest
from cluster.store import open_store
from metasr.manifest import seal, unseal
from metasr.training.state import WEIGHTS
from tests.jobs.command import METASR, start
from tests.unit.runs import experiment, train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the run `one` of two checkpoints, and the run `other`, whose last has one value changed."""
    place = tmp_path_factory.mktemp("place")
    train(place / "trained", experiment(steps=2, checkpoint_every_steps=1))
    changed = shutil.copytree(place / "trained" / "step-2", place / "changed")
    tensors = safetensors.torch.load_file(changed / WEIGHTS)
    tensors["generator_optimiser/0/exp_avg"].view(-1)[0] += 1
    safetensors.torch.save_file(tensors, changed / WEIGHTS)
    seal(changed, "checkpoint", unseal(place / "trained" / "step-2", "checkpoint"))
    for name, last in (("one", place / "trained" / "step-2"), ("other", changed), ("shorter", None)):
        checkpoints = RunCheckpoints(open_store(str(place / "runs")), name).claim(1)
        checkpoints.publish(place / "trained" / "step-1", 1, 0.0, keep=3)
        if last:
            checkpoints.publish(last, 2, 0.0, keep=3)
    return place


@pytest.fixture
def verify(metasr, place):
    return lambda *arguments: metasr("verify-run", *arguments, "--storage.url", place / "runs")


def test_the_same_bits_leave_with_0_and_say_at_which_step(place):
    done = start(METASR, "verify-run", "one", "shorter", "--storage.url", place / "runs", folder=place)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].endswith("/runs/one, step 1 (its newest is step 2)")
    assert lines[2].endswith("/runs/shorter, step 1")
    assert lines[1].strip() == lines[3].strip() == state_digest(place / "trained" / "step-1")
    assert [line.partition("  ")[0] for line in lines[4:-1]] == ["equal"] * 10
    assert "random weights" in done.out
    assert lines[-1].startswith("identical: every bit of metric log, generator, ")


def test_other_bits_leave_with_1_and_are_named(verify):
    done = verify("one", "other")
    assert (done.code, done.err) == (1, "")
    (line,) = (line for line in done.out.splitlines() if line.startswith("DIFFERS"))
    assert line.split()[:3] == ["DIFFERS", "generator_optimiser", "generator_optimiser/0/exp_avg:"]
    assert 'values "1 of ' in line
    assert done.out.splitlines()[-1].startswith("they diverge at or before step 2, although these are equal")


def test_json_says_the_same(verify, place):
    done = verify("one", "other", "--json")
    assert done.code == 1, done.err
    found = json.loads(done.out)
    assert (found["identical"], found["step"]) == (False, 2)
    assert found["a"]["digest"] == state_digest(place / "trained" / "step-2")
    assert found["b"]["digest"] == state_digest(place / "changed")
    assert [cause["equal"] for cause in found["causes"]] == [True] * 5
    (effect,) = (effect for effect in found["effects"] if not effect["equal"])
    (difference,) = effect["differences"]
    assert difference["name"] == "generator_optimiser/0/exp_avg"
    assert difference["max_abs"] == 1


@pytest.mark.parametrize("arguments", [["one"], ["one", "missing"], ["one", "s3:"], ["one", "."], ["one", "x" * 300]])
def test_what_cannot_be_compared_leaves_with_2_and_one_line(verify, arguments):
    done = verify(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) == 1

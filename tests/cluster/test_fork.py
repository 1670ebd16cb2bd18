"""A run that branches off from another: what it takes along, what it does not, and what it refuses."""

import pytest

from cluster.checkpoints import RunCheckpoints
from cluster.checkpoints.fork import Fork, branch_off
from cluster.config import JobConfig
from cluster.recipes import Layer, resolve
from cluster.store import open_store
from cluster.training.identify import RunSpec, prepare
from metasr.errors import CheckpointError, ConfigError
from metasr.manifest import seal
from tests.cluster.training import newest_digest, train_to_end

CONFIG = JobConfig()
SETTINGS = {"train.pixel_only_steps": 2, "train.steps": 4, "train.checkpoint_every_steps": 2}


def make_checkpoint(folder, step):
    folder.mkdir()
    (folder / "state.safetensors").write_bytes(b"weights")
    seal(folder, "checkpoint", {"step": step, "config": CONFIG.model_dump(mode="json")})
    return folder


@pytest.fixture
def source(store, tmp_path):
    """A run with checkpoints of steps 20 and 40."""
    checkpoints = RunCheckpoints(store, "one").claim(1)
    for step in (20, 40):
        folder = make_checkpoint(tmp_path / str(step), step)
        (folder / "bundle").mkdir()
        seal(folder / "bundle", "bundle", {})
        checkpoints.publish(folder, step, 1.0, keep=2)
    return checkpoints


def test_a_branch_begins_with_the_checkpoint_and_without_what_it_was_worth(store, source, tmp_path):
    own = RunCheckpoints(store, "two").claim(1)
    branch_off(store, Fork("one", 20), own, CONFIG)
    (kept,) = own.entries()
    (theirs,) = (one for one in source.entries() if one.step == 20)
    assert (kept.step, kept.score, own.best()) == (20, None, None)
    assert kept.files == {name: file for name, file in theirs.files.items() if not name.startswith("bundle/")}
    own.fetch(kept, tmp_path / "fetched")


@pytest.mark.parametrize("steps", [10, 20])
def test_a_branch_that_would_train_nothing_is_refused_before_anything_is_made(steps):
    spec = RunSpec(resolve(JobConfig, [Layer("test", {"train.steps": steps})]), "tiny", fork=Fork("one", 20))
    with pytest.raises(ConfigError, match=f"one@20: train.steps is {steps}: nothing would be trained"):
        prepare(spec, print)


def test_a_run_that_has_checkpoints_branches_off_no_more(store, source, tmp_path):
    own = RunCheckpoints(store, "two").claim(1)
    own.publish(make_checkpoint(tmp_path / "own", 30), 30, 0.5, keep=2)
    before = own.entries()
    branch_off(store, Fork("one", 40), own, CONFIG)
    assert own.entries() == before


@pytest.mark.parametrize(
    ("fork", "message"),
    [
        (Fork("one", 30), "cannot branch off from one@30: it has checkpoints of steps 40, 20"),
        (Fork("none", 20), "cannot branch off from none@20: .* has no checkpoint of it"),
    ],
)
def test_what_is_not_there_is_named(store, source, fork, message):
    with pytest.raises(ConfigError, match=message):
        branch_off(store, fork, RunCheckpoints(store, "two").claim(1), CONFIG)


def test_of_a_damaged_checkpoint_no_branch_begins(store, source):
    (theirs,) = (one for one in source.entries() if one.step == 20)
    store.put(f"one/{theirs.folder}/{next(iter(theirs.files))}", b"other bytes")
    own = RunCheckpoints(store, "two").claim(1)
    with pytest.raises(CheckpointError):
        branch_off(store, Fork("one", 20), own, CONFIG)
    assert own.entries() == ()


def test_another_network_branches_off_from_nothing(store, source):
    other = CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update={"num_features": 8})})
    own = RunCheckpoints(store, "two").claim(1)
    with pytest.raises(ConfigError, match=r"cannot branch off from one@20: its model\.num_features is \d+, not 8"):
        branch_off(store, Fork("one", 20), own, other)
    assert own.entries() == ()


@pytest.mark.parametrize("text", ["one", "one@", "@20", "one@20.5", "one/two@20", "one@two@20"])
def test_a_fork_is_written_as_run_at_step(text):
    with pytest.raises(ConfigError, match="it is not RUN@STEP"):
        Fork.parse(text)
    assert Fork.parse(str(Fork("brats-0123", 500))) == Fork("brats-0123", 500)


@pytest.mark.slow
def test_a_branch_with_the_same_settings_ends_as_the_run_it_left_to_the_bit(tmp_path, store_url):
    train_to_end(tmp_path, store_url, {**SETTINGS, "resources.num_workers": 1})
    storage = open_store(str(tmp_path / "runs"))
    (ledger,) = (tmp_path / "runs").glob("*/checkpoints.json")
    fork = Fork(ledger.parent.name, 2)
    output = train_to_end(tmp_path, store_url, {**SETTINGS, "resources.num_workers": 1, "fork": fork})
    assert f"branching off from run {fork.run_name} at step 2" in output
    name = output.partition("run ")[2].partition(",")[0]
    assert name != fork.run_name
    branch = RunCheckpoints(storage, name)
    assert newest_digest(branch) == newest_digest(RunCheckpoints(storage, fork.run_name))
    assert branch.finished()["step"] == "4"

    other = {**SETTINGS, "resources.num_workers": 1, "fork": fork, "loss.adversarial": 0.5}
    output = train_to_end(tmp_path, store_url, other)
    other = RunCheckpoints(storage, output.partition("run ")[2].partition(",")[0])
    assert newest_digest(other)[0] == 4
    assert newest_digest(other) != newest_digest(branch)

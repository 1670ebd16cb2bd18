"""Two runs are told to be the same bits, or which cause, metric and tensor is the first to differ."""

import hashlib
import json
import shutil
import uuid

import pytest
import safetensors.torch
import torch

from cluster.checkpoints import RunCheckpoints
from cluster.compare.states import state_digest
from cluster.config import JobConfig, StorageConfig
from cluster.store import open_store
from metasr.context import LocalContext, Request
from metasr.errors import CheckpointError, StoreError
from metasr.training.state import LOG, WEIGHTS
from tests.cluster.compared import CAUSES, MOMENT, change_tensor, compare, config, flip_lowest_bit, names_of, reseal
from tests.cluster.sealed import make_sealed
from tests.unit.runs import smooth_images, train

pytestmark = pytest.mark.usefixtures("one_thread")

EFFECTS = ["metric log", "generator", "average", "discriminator", "generator_optimiser", "discriminator_optimiser"]


@pytest.fixture(scope="module")
def trained(one_thread, tmp_path_factory):
    """Folders with the checkpoints of steps 2 and 4, by seed. Not to be written to."""
    folders = {}
    for seed in (0, 1):
        folders[seed] = tmp_path_factory.mktemp(f"seed-{seed}")
        train(folders[seed], config(seed=seed))
    return folders


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the last checkpoint, to be changed."""
    return shutil.copytree(trained[0] / "step-4", tmp_path / uuid.uuid4().hex)


@pytest.fixture
def original(trained):
    return trained[0] / "step-4"


@pytest.fixture
def runs(tmp_path):
    return open_store(str(tmp_path / "runs"))


def publish(store, folder, steps=(2, 4)):
    """Put checkpoints into a store as a run of its own; return its URL."""
    name = uuid.uuid4().hex
    checkpoints = RunCheckpoints(store, name).claim(1)
    for step in steps:
        checkpoints.publish(folder / f"step-{step}", step, 0.0, keep=5)
    return f"{store.url}/{name}"


def compute(folder, **changes):
    """Have a checkpoint say that other code or arithmetic has computed all of its steps."""
    about = json.loads((folder / "manifest.json").read_text())["about"]
    reseal(folder, lineage=[stretch | changes for stretch in about["lineage"]])


# The same bits


def test_a_run_trained_again_is_identical_in_every_part(trained, store, tmp_path):
    train(tmp_path / "again", config())
    found = compare(publish(store, trained[0]), publish(store, tmp_path / "again"))
    assert found.identical
    assert found.step == 4
    assert names_of(found.causes, equal=True) == CAUSES
    parts = [name for name in EFFECTS if name != "average"]
    assert names_of(found.effects, equal=True) == parts
    assert found.verdict == (
        "identical: every bit of metric log, generator, discriminator, generator_optimiser and "
        "discriminator_optimiser at step 4"
    )
    assert found.a.digest == found.b.digest == state_digest(trained[0] / "step-4")


class StoppedContext(LocalContext):
    """A laptop that is asked to stop after step 3."""

    steps = 0

    def requested(self):
        self.steps += 1
        return Request.STOP if self.steps == 3 else Request.NONE


def test_a_run_that_was_stopped_and_continued_is_identical(trained, tmp_path):
    state, _ = train(tmp_path, config(), context=StoppedContext(tmp_path))
    assert state.step == 3
    train(tmp_path, config())
    assert state_digest(tmp_path / "step-4") == state_digest(trained[0] / "step-4")
    assert not (trained[0] / "step-3").exists()


def test_the_moving_average_is_compared_where_there_is_one(tmp_path):
    averaged = config().optim.model_copy(update={"ema_decay": 0.9})
    train(tmp_path, config(optim=averaged, steps=2))
    changed = shutil.copytree(tmp_path / "step-2", tmp_path / "changed")
    assert names_of(compare(tmp_path / "step-2", changed).effects, equal=True) == EFFECTS
    change_tensor(changed, average_tensor(changed), flip_lowest_bit)
    found = compare(tmp_path / "step-2", changed)
    assert names_of(found.effects, equal=False) == ["average"]


def average_tensor(folder):
    names = safetensors.torch.load_file(folder / WEIGHTS)
    return next(name for name in sorted(names) if name.startswith("average/") and name.endswith("weight"))


def test_machines_and_places_are_no_settings_that_matter(trained, tmp_path):
    """A laptop's run and a cluster's, each with its own storage, are the same run."""
    folders = []
    for number in (1, 2):
        job = JobConfig(**config().model_dump(mode="json"), storage=StorageConfig(url=f"/place-{number}"))
        job = job.model_copy(update={"data": job.data.model_copy(update={"url": f"/data-{number}"})})
        folders.append(tmp_path / str(number))
        train(folders[-1], job)
    found = compare(*(folder / "step-4" for folder in folders))
    assert found.identical
    assert names_of(found.causes, equal=True) == CAUSES
    assert found.a.digest == state_digest(trained[0] / "step-4")


def test_the_digest_is_what_its_description_says(original):
    """Computed again from safetensors' own reader and hashlib, so that others can compute it too."""
    lines = {"metrics.jsonl": hashlib.sha256((original / LOG).read_bytes()).hexdigest()}
    tensors = safetensors.torch.load_file(original / WEIGHTS)
    types = {torch.float32: "F32", torch.int64: "I64"}
    for part in {name.partition("/")[0] for name in tensors}:
        text = b""
        for name in sorted(name for name in tensors if name.startswith(f"{part}/")):
            value = tensors[name]
            text += json.dumps([name, types[value.dtype], list(value.shape)]).encode() + b"\n"
            text += value.numpy().tobytes()
        lines[part] = hashlib.sha256(text).hexdigest()
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(lines.items()))
    assert state_digest(original) == hashlib.sha256(text.encode()).hexdigest()


# Causes


def test_another_seed_is_the_cause_and_the_first_logged_step_the_effect(trained, runs):
    found = compare(publish(runs, trained[0]), publish(runs, trained[1]))
    assert not found.identical
    assert names_of(found.causes, equal=False) == ["settings"]
    assert found.verdict == "they diverge at or before step 1, because of the settings: train.seed: A 0, B 1"
    (first,) = found.effects[0].differences
    assert first.about["line"] == first.about["step"] == 1
    records = [json.loads((trained[seed] / "step-4" / LOG).read_text().splitlines()[0]) for seed in (0, 1)]
    assert first.name == next(name for name in records[0] if records[0][name] != records[1][name])
    assert (first.about["A"], first.about["B"]) == tuple(record[first.name] for record in records)


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        ("code_version", "1", "code version"),
        ("data_digest", "1" * 64, "data"),
        ("initial_bundle", "2" * 64, "start"),
        ("arithmetic", "abacus", "arithmetic"),
    ],
)
def test_a_cause_that_changed_no_bit_is_told_and_the_runs_are_identical(original, copy, key, value, cause):
    (compute if key in ("code_version", "arithmetic") else reseal)(copy, **{key: value})
    found = compare(original, copy)
    assert found.identical
    assert names_of(found.causes, equal=False) == [cause]
    assert found.verdict.endswith(f"at step 4, although these differ: {cause}")
    (check,) = (check for check in found.causes if not check.equal)
    assert check.differences[0].about["B"] == value


def test_of_several_causes_the_first_is_blamed(trained, original, tmp_path):
    other = shutil.copytree(trained[1] / "step-4", tmp_path / "other")
    reseal(other, data_digest="1" * 64)
    compute(other, code_version="1")
    found = compare(original, other)
    assert names_of(found.causes, equal=False) == ["code version", "settings", "data"]
    assert found.verdict.endswith('because of the code version: code_version: A "0", B "1"')


def test_data_of_another_digest_that_trains_other_weights_is_blamed(original, tmp_path):
    train(tmp_path, config(), crops=smooth_images(4, 48, seed=5))
    reseal(tmp_path / "step-4", data_digest="5" * 64)
    found = compare(original, tmp_path / "step-4")
    assert not found.identical
    assert "because of the data: data_digest" in found.verdict


# Effects without a cause


def test_one_flipped_bit_is_found_named_and_measured(original, copy):
    name = "discriminator_optimiser/0/exp_avg"
    change_tensor(copy, name, flip_lowest_bit)
    found = compare(original, copy)
    assert not found.identical
    assert names_of(found.causes, equal=True) == CAUSES
    (check,) = (check for check in found.effects if not check.equal)
    assert check.name == "discriminator_optimiser"
    (difference,) = check.differences
    assert difference.name == name
    assert difference.about["values"].startswith("1 of ")
    assert 0 < difference.about["max_abs"] < 1e-6
    assert 0 < difference.about["relative"] <= 2**-22
    assert "step 4, although these are equal until then: code version, settings" in found.verdict
    assert "which may have been edited" in found.verdict


def test_bits_differ_also_where_numbers_do_not(original, copy):
    change_tensor(copy, MOMENT, torch.zeros_like)
    zeros = shutil.copytree(copy, copy.with_name("zeros"))
    change_tensor(copy, MOMENT, torch.Tensor.negative)
    found = compare(zeros, copy)
    assert names_of(found.effects, equal=False) == ["generator_optimiser"]
    assert found.effects[3].differences[0].about["max_abs"] == 0


@pytest.mark.parametrize("change", [lambda tensor: tensor.double(), lambda tensor: tensor.flatten()])
def test_a_tensor_of_another_kind_is_described(original, copy, change):
    change_tensor(copy, MOMENT, change)
    (difference,) = next(check for check in compare(original, copy).effects if not check.equal).differences
    assert difference.about["A"].startswith("F32 [")
    assert difference.about["B"] != difference.about["A"]


def test_a_tensor_and_a_part_that_only_one_has_are_named(original, copy):
    tensors = safetensors.torch.load_file(copy / WEIGHTS)
    gone = tensors.pop(MOMENT)
    safetensors.torch.save_file(tensors | {"another/part": gone}, copy / WEIGHTS)
    reseal(copy)
    found = compare(original, copy)
    assert not found.identical
    assert names_of(found.effects, equal=False) == ["generator_optimiser", "another"]
    assert found.effects[-1].differences[0].about["A"] is None


def test_the_first_line_of_the_log_that_differs_is_told_with_both_values(original, copy):
    lines = (copy / LOG).read_text().splitlines()
    record = json.loads(lines[2])
    assert record["step"] == 2
    name = list(record)[-1]
    lines[2] = json.dumps(record | {name: 123.0})
    (copy / LOG).write_text("".join(f"{line}\n" for line in lines))
    reseal(copy)
    found = compare(original, copy)
    assert names_of(found.effects, equal=False) == ["metric log"]
    assert found.effects[0].differences == ((name, {"line": 3, "step": 2, "A": record[name], "B": 123.0}),)
    assert found.verdict.startswith("they diverge at or before step 2, although")


@pytest.mark.parametrize("text", ["", "no JSON\n", "[1, 2]\n"])
def test_a_log_that_is_none_differs_in_its_first_line(original, copy, text):
    (copy / LOG).write_text(text)
    reseal(copy)
    found = compare(original, copy)
    assert found.effects[0].differences[0].about["line"] == 1
    assert found.verdict.startswith("they diverge at or before step 1")


def test_what_was_not_held_equal_is_what_to_look_at(original, copy, tmp_path):
    settings = config(reduction="fast").model_dump(mode="json")
    settings["loss"]["perceptual"] = 0.006
    reseal(copy, config=settings)
    compute(copy, code_version="abc+changes")
    other = shutil.copytree(copy, tmp_path / "other")
    change_tensor(other, MOMENT, flip_lowest_bit)
    verdict = compare(copy, other).verdict
    for word in ("resources.num_workers", "uncommitted changes", "VGG"):
        assert word in verdict


# Which checkpoints


def test_the_newest_step_that_both_have_is_compared(trained, runs):
    found = compare(publish(runs, trained[0]), publish(runs, trained[0], steps=[2]))
    assert found.identical
    assert (found.step, found.a.newest_step, found.b.newest_step) == (2, 4, 2)


def test_a_run_is_given_by_name_folder_or_checkpoint(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    store = open_store("~/runs")
    checkpoints = RunCheckpoints(store, "smoke-01").claim(1)
    kept = checkpoints.publish(trained[0] / "step-4", 4, 0.0, keep=1)
    ways = ["smoke-01", "~/runs/smoke-01", "~/runs/smoke-01/", f"{store.url}/smoke-01"]
    for way in (*ways, f"~/runs/smoke-01/{kept.folder}", trained[0] / "step-4"):
        assert compare("smoke-01", way, storage="~/runs").identical


# What cannot be compared


def test_runs_without_a_step_in_common_are_refused(trained, runs):
    with pytest.raises(
        CheckpointError, match=r"no checkpoint of the same step: .* has step 2; .* has step 4"
    ) as refused:
        compare(publish(runs, trained[0], steps=[2]), publish(runs, trained[0], steps=[4]))
    assert refused.value.exit_code == 2


def test_a_run_that_is_not_there_is_refused(original, trained, runs):
    publish(runs, trained[0])
    with pytest.raises(CheckpointError, match="no-such-run: run no-such-run: it has no checkpoint"):
        compare(original, f"{runs.url}/no-such-run")


def test_a_store_that_is_not_there_is_refused(original, tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        compare(original, tmp_path / "gone" / "run")


@pytest.mark.parametrize("name", [WEIGHTS, LOG])
def test_a_damaged_file_in_the_store_is_refused_with_its_run(trained, runs, tmp_path, name):
    kept = RunCheckpoints(runs, "bad").claim(1).publish(trained[0] / "step-4", 4, 0.0, keep=1)
    path = tmp_path / "runs" / "bad" / kept.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"cannot compare .*/bad: checkpoint of step 4: its file {name}"):
        compare("bad", trained[0] / "step-4", storage=runs.url)
    with pytest.raises(CheckpointError, match=rf"{name} differs from its SHA-256"):
        compare(path.parent, trained[0] / "step-4")
    with pytest.raises(CheckpointError, match=rf"{name} differs from its SHA-256"):
        state_digest(path.parent)


@pytest.mark.parametrize("name", [WEIGHTS, LOG])
def test_a_checkpoint_without_a_state_is_refused(original, copy, name):
    (copy / name).unlink()
    reseal(copy)
    with pytest.raises(CheckpointError, match="its state cannot be read"):
        compare(original, copy)


def test_a_checkpoint_that_the_ledger_lists_under_another_step_is_refused(trained, runs):
    RunCheckpoints(runs, "odd").claim(1).publish(trained[0] / "step-4", 9, 0.0, keep=1)
    with pytest.raises(CheckpointError, match="is not that of step 9"):
        compare("odd", "odd", storage=runs.url)


def test_a_checkpoint_that_says_nothing_of_its_step_is_refused(original, copy):
    reseal(copy, step=None)
    with pytest.raises(CheckpointError, match="names no step"):
        compare(original, copy)


def test_what_is_no_safetensors_file_is_refused_and_a_bundle_is_no_checkpoint(original, tmp_path):
    sealed = make_sealed(tmp_path / "sealed", 4)
    with pytest.raises(CheckpointError, match="cannot compare"):
        compare(original, sealed)
    with pytest.raises(CheckpointError, match="not that of a checkpoint"):
        compare(original, original / "bundle")

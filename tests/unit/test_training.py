import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metasr.config import OptimConfig
from metasr.context import LocalContext, Request
from metasr.data.degrade import resize_bicubic
from metasr.errors import CheckpointError, TrainingError
from metasr.inference.bundle import load_bundle
from metasr.manifest import unseal
from tests.unit.runs import (
    assert_same_state,
    assert_same_weights,
    experiment,
    initial_state,
    losses_of,
    smooth_images,
    train,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# Step: pixel, adversarial and discriminator loss of `experiment(steps=6, pixel_only_steps=3)`.
GOLDEN_CURVE = {
    1: (0.02356442, 0.0, 0.0),
    2: (0.01808082, 0.0, 0.0),
    3: (0.01800273, 0.0, 0.0),
    4: (0.01745069, 0.6559573, 1.3905856),
    5: (0.01507986, 0.7247102, 1.3884008),
    6: (0.02176798, 0.7236855, 1.3899999),
}


def test_losses_follow_the_golden_curve_and_repeat_exactly(tmp_path):
    config = experiment(steps=6, pixel_only_steps=3)
    first, second = (losses_of(train(tmp_path / name, config)[1]) for name in ("first", "second"))
    assert first == second
    curve = {
        step: (losses["loss_pixel"], losses["loss_adversarial"], losses["loss_discriminator"])
        for step, losses in first
    }
    assert curve.keys() == GOLDEN_CURVE.keys()
    for step, expected in GOLDEN_CURVE.items():
        assert curve[step] == pytest.approx(expected, rel=1e-3), step


def test_exact_and_fast_differ_by_no_more_than_rounding_without_batchnorm(tmp_path):
    exact, fast = (
        losses_of(train(tmp_path / name, experiment(steps=4, adversarial=0, reduction=name))[1])
        for name in ("exact", "fast")
    )
    for (_, ours), (_, theirs) in zip(exact, fast, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_training_without_perceptual_loss_imports_neither_torchs_compiler_nor_torchvision(tmp_path):
    code = """if True:
        import pathlib, sys
        from tests.unit.runs import experiment, train
        train(pathlib.Path(sys.argv[1]), experiment(steps=2))
        train(pathlib.Path(sys.argv[1]), experiment(steps=4))
        sys.exit(bool({"torch._dynamo", "torchvision"} & set(sys.modules)))  # each takes a second or more
    """
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=Path(__file__).parents[2], check=True)


def test_another_seed_gives_another_run(tmp_path):
    first, second = (
        losses_of(train(tmp_path / str(seed), experiment(steps=1, adversarial=0, seed=seed))[1]) for seed in (0, 1)
    )
    assert first != second


def test_a_run_does_not_depend_on_the_random_numbers_of_others(tmp_path):
    config = experiment(steps=1, adversarial=0)
    torch.manual_seed(11)
    first, _ = train(tmp_path / "first", config)
    torch.manual_seed(12)
    second, _ = train(tmp_path / "second", config)
    assert_same_weights(first.generator, second.generator)


def test_initial_weights_draw_on_no_one_elses_random_numbers():
    before = torch.get_rng_state()
    initial_state(experiment())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    settings = {"checkpoint_every_steps": 2, "pixel_only_steps": 1}
    whole, curve = train(tmp_path / "whole", experiment(steps=4, **settings))
    train(tmp_path / "stopped", experiment(steps=2, **settings))
    resumed, rest = train(tmp_path / "stopped", experiment(steps=4, **settings))
    assert_same_state(resumed, whole)
    assert losses_of(rest) == losses_of(curve)[2:]


class Listener(LocalContext):
    """Remembers what it is told in words."""

    def log(self, event):
        self.words = {**getattr(self, "words", {}), event.kind: event.text}
        super().log(event)


def test_a_run_that_goes_on_with_other_threads_says_so_and_its_checkpoints_name_both(tmp_path):
    first, second = Listener(tmp_path), Listener(tmp_path)
    train(tmp_path, experiment(steps=1, adversarial=0), context=first)
    torch.set_num_threads(2)
    try:
        train(tmp_path, experiment(steps=2, adversarial=0), context=second)
    finally:
        torch.set_num_threads(1)
    assert "changed" not in first.words
    assert re.fullmatch(r"arithmetic .* 1 thread, .*; after step 1: .* 2 threads, .*", second.words["changed"])
    lineage = unseal(tmp_path / "step-2", "checkpoint")["lineage"]
    assert [stretch["after_step"] for stretch in lineage] == [0, 1]
    assert [re.search(r"\d thread", stretch["arithmetic"])[0] for stretch in lineage] == ["1 thread", "2 thread"]


def test_work_after_the_newest_checkpoint_is_done_again(tmp_path):
    settings = {"checkpoint_every_steps": 1, "pixel_only_steps": 2}
    whole, _ = train(tmp_path, experiment(steps=3, **settings))
    for step in (2, 3):
        shutil.rmtree(tmp_path / f"step-{step}")
    resumed, rest = train(tmp_path, experiment(steps=3, **settings))
    assert [step for step, _ in losses_of(rest)] == [2, 3]
    assert_same_state(resumed, whole)


def test_a_finished_run_is_not_trained_further(tmp_path):
    config = experiment(steps=2, adversarial=0)
    finished, _ = train(tmp_path, config)
    again, history = train(tmp_path, config)
    assert history == []
    assert again.step == 2
    assert_same_weights(again.generator, finished.generator)


def test_the_newest_checkpoint_is_the_one_with_the_highest_number(tmp_path):
    for step in (9, 10, 2):
        (tmp_path / f"step-{step}").mkdir()
    loaded = []
    LocalContext(tmp_path).resume(loaded.append)
    assert [folder.name for folder in loaded] == ["step-10"]


def test_looking_at_validation_slices_does_not_change_training(tmp_path):
    often, _ = train(tmp_path / "often", experiment(steps=3, adversarial=0, checkpoint_every_steps=1))
    once, _ = train(tmp_path / "once", experiment(steps=3, adversarial=0))
    assert_same_weights(often.generator, once.generator)
    assert often.generator.training


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a run of one step."""
    folder = tmp_path_factory.mktemp("run")
    train(folder, experiment(steps=1, adversarial=0))
    return folder


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, r"state\.safetensors differs from its SHA-256"),
        (cut_short, r"state\.safetensors differs from its SHA-256"),
        (lambda file: file.unlink(), r"its file state\.safetensors is missing"),
        (lambda file: (file.parent / "manifest.json").unlink(), r"it has no manifest\.json"),
        (lambda file: (file.parent / "manifest.json").write_text("{"), r"its manifest\.json cannot be read"),
    ],
    ids=["flipped byte", "cut short", "missing", "no manifest", "broken manifest"],
)
def test_a_damaged_checkpoint_is_refused(checkpoint, tmp_path, damage, reason):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "step-1" / "state.safetensors")
    with pytest.raises(CheckpointError, match=rf"step-1: {reason}"):
        train(tmp_path, experiment(steps=2, adversarial=0))
    assert not (tmp_path / "step-2").exists()


def test_the_bundle_in_a_checkpoint_is_the_generator(checkpoint):
    bundle = load_bundle(checkpoint / "step-1" / "bundle", torch.device("cpu"))
    state = initial_state(experiment())
    state.load(checkpoint / "step-1")
    assert_same_weights(bundle.generator, state.generator)
    assert torch.equal(bundle.generator.mean, state.generator.mean)
    assert bundle.about["step"] == 1
    assert bundle.about["run_name"] == "test"
    assert bundle.trained_scales == (1.5, 2.0)


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 1), (59_999, 1), (60_000, 0.8), (119_999, 0.8), (120_000, 0.64), (359_999, 0.8**5)]
)
def test_both_learning_rates_fall_in_steps(step, factor):
    optim = OptimConfig(generator_lr=1e-4, discriminator_lr=3e-4)
    state = initial_state(experiment(optim=optim))
    state.step = step
    state.set_learning_rates(optim, 360_000)
    assert state.generator_optimiser.param_groups[0]["lr"] == pytest.approx(1e-4 * factor)
    assert state.discriminator_optimiser.param_groups[0]["lr"] == pytest.approx(3e-4 * factor)


def test_the_schedule_is_followed_through_a_resumption(tmp_path):
    optim = OptimConfig(generator_lr=1e-3, decay_every_steps=2, decay_factor=0.5)
    for steps, expected in [(2, 1e-3), (3, 5e-4), (5, 2.5e-4)]:
        state, _ = train(tmp_path, experiment(steps=steps, adversarial=0, optim=optim))
        assert state.generator_optimiser.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize(("step", "factor"), [(0, 1), (250, 0.853553), (500, 0.5), (999, 2.467e-6)])
def test_both_learning_rates_follow_half_a_cosine(step, factor):
    optim = OptimConfig(generator_lr=1e-4, discriminator_lr=3e-4, schedule="cosine")
    state = initial_state(experiment(optim=optim))
    state.step = step
    state.set_learning_rates(optim, 1000)
    assert state.generator_optimiser.param_groups[0]["lr"] == pytest.approx(1e-4 * factor, rel=1e-3)
    assert state.discriminator_optimiser.param_groups[0]["lr"] == pytest.approx(3e-4 * factor, rel=1e-3)


def test_the_schedule_decides_how_far_a_step_goes(tmp_path):
    """Adam's first step has the length of its learning rate."""
    optim = OptimConfig(generator_lr=2e-3)
    state, _ = train(tmp_path, experiment(steps=1, adversarial=0, optim=optim))
    start = initial_state(experiment()).generator.upscale.kernel.bias
    moved = (state.generator.upscale.kernel.bias - start).abs()
    assert moved.median().item() == pytest.approx(2e-3, rel=0.01)


def test_first_steps_are_those_of_the_pixel_loss_alone(tmp_path):
    config = experiment(steps=2, pixel_only_steps=2)
    state, history = train(tmp_path / "pixel-only", config)
    for _, losses in losses_of(history):
        assert losses["loss_total"] == losses["loss_pixel"] > 0
        assert losses["loss_adversarial"] == losses["loss_discriminator"] == 0
    assert_same_weights(state.discriminator, initial_state(config).discriminator)
    without, _ = train(tmp_path / "without", experiment(steps=2, adversarial=0))
    assert_same_weights(state.generator, without.generator)


def test_after_them_the_discriminator_learns_and_judges(tmp_path):
    config = experiment(steps=2, pixel_only_steps=1)
    state, history = train(tmp_path, config)
    losses = dict(losses_of(history))
    assert losses[1]["loss_adversarial"] == losses[1]["loss_discriminator"] == 0
    assert losses[2]["loss_adversarial"] > 0
    assert losses[2]["loss_discriminator"] > 0
    assert losses[2]["loss_total"] == pytest.approx(losses[2]["loss_pixel"] + 0.001 * losses[2]["loss_adversarial"])
    start = dict(initial_state(config).discriminator.named_parameters())
    assert not torch.equal(state.discriminator.features[0].weight, start["features.0.weight"])


def test_weight_zero_trains_no_discriminator(tmp_path):
    config = experiment(steps=1, adversarial=0)
    state, history = train(tmp_path, config)
    assert losses_of(history)[0][1]["loss_discriminator"] == 0
    assert_same_weights(state.discriminator, initial_state(config).discriminator)


def test_bfloat16_learns_what_float32_learns(tmp_path):
    settings = {"steps": 30, "adversarial": 0, "skip": "none"}
    single = losses_of(train(tmp_path / "single", experiment(**settings))[1])
    half = losses_of(train(tmp_path / "half", experiment(precision="bfloat16", **settings))[1])
    assert single != half
    curves = [[losses["loss_pixel"] for _, losses in curve] for curve in (single, half)]
    assert curves[1][-1] < 0.7 * curves[1][0]
    assert curves[1] == pytest.approx(curves[0], rel=0.1)


def test_adversarial_training_runs_in_bfloat16(tmp_path):
    state, history = train(tmp_path, experiment(steps=2, precision="bfloat16"))
    assert all(math.isfinite(value) for _, losses in losses_of(history) for value in losses.values())
    assert {value.dtype for value in state.discriminator.parameters()} == {torch.float32}


@pytest.mark.parametrize(("skip", "fall"), [("none", 0.2), ("bicubic", 0.97)])
def test_a_few_patches_can_be_learnt_by_heart(tmp_path, skip, fall):
    crops = smooth_images(2, 40, seed=4)
    optim = OptimConfig(generator_lr=2e-3, decay_every_steps=80, decay_factor=0.3)
    config = experiment(steps=200, adversarial=0, flips=False, scale_min=2.0, skip=skip, optim=optim)
    _, history = train(tmp_path, config, crops)
    first, last = (losses_of(history)[i][1]["loss_pixel"] for i in (0, -1))
    assert last < fall * first
    bicubic = (resize_bicubic(resize_bicubic(crops, (20, 20)), (40, 40)) - crops).abs().mean().item()
    if skip == "bicubic":
        assert last < 0.99 * bicubic


def test_a_run_that_diverges_says_so_and_leaves_no_checkpoint(tmp_path):
    crops = smooth_images(2, 48, seed=0)
    crops[1] = torch.nan
    with pytest.raises(TrainingError, match="the loss is nan"):
        train(tmp_path, experiment(steps=2, adversarial=0), crops)
    assert not list(tmp_path.glob("step-*"))


def half_of_them_damaged():
    crops = smooth_images(4, 48, seed=0)
    crops[1] = torch.nan
    return crops


@pytest.mark.parametrize("reduction", ["exact", "fast"])
def test_updates_that_are_not_finite_can_be_left_out(tmp_path, reduction):
    config = experiment(steps=6, on_nan="skip", reduction=reduction)
    state, history = train(tmp_path, config, half_of_them_damaged())
    assert 0 < state.skipped < 6
    assert [step for step, values in history if "skipped" in values and "steps_per_s" not in values]
    assert all(torch.isfinite(value).all() for value in state.tensors().values())
    assert {float(entry["step"]) for entry in state.generator_optimiser.state.values()} == {6.0 - state.skipped}
    again = initial_state(config)
    again.load(tmp_path / "step-6")
    assert again.skipped == state.skipped


def test_not_any_number_of_updates_can_be_left_out(tmp_path):
    with pytest.raises(TrainingError, match="the loss is nan"):
        train(tmp_path, experiment(steps=60, on_nan="skip", max_skipped=2), half_of_them_damaged())


def test_a_checkpoint_holds_what_was_logged_so_far(tmp_path):
    settings = {"checkpoint_every_steps": 2, "pixel_only_steps": 1}
    whole, history = train(tmp_path / "whole", experiment(steps=4, **settings))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "step-4" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 2, 3, 4, 4]
    logged = dict(losses_of(history))
    assert all(line["loss_total"] == logged[line["step"]]["loss_total"] for line in lines if "loss_total" in line)
    train(tmp_path / "stopped", experiment(steps=2, **settings))
    resumed, _ = train(tmp_path / "stopped", experiment(steps=4, **settings))
    assert resumed.log == whole.log


class Impatient(LocalContext):
    """Somebody asks to stop during the step after `patience`."""

    patience = 0

    def requested(self):
        self.patience -= 1
        return Request.STOP if self.patience < 0 else Request.NONE


def test_a_run_that_is_asked_to_stop_keeps_a_checkpoint_and_goes_on_from_it(tmp_path):
    config = experiment(steps=5, checkpoint_every_steps=4)
    whole, _ = train(tmp_path / "whole", config)
    context = Impatient(tmp_path / "stopped")
    context.patience = 2
    stopped, _ = train(tmp_path / "stopped", config, context=context)
    assert stopped.step == 3
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["step-3"]
    resumed, _ = train(tmp_path / "stopped", config)
    assert_same_state(resumed, whole)
    assert resumed.log == whole.log


def test_the_newest_checkpoint_that_is_whole_is_used(tmp_path):
    settings = {"checkpoint_every_steps": 1, "pixel_only_steps": 2}
    whole, _ = train(tmp_path, experiment(steps=3, **settings))
    flip_a_byte(tmp_path / "step-3" / "state.safetensors")
    context = Listener(tmp_path)
    resumed, rest = train(tmp_path, experiment(steps=3, **settings), context=context)
    assert [step for step, _ in losses_of(rest)] == [3]
    assert_same_state(resumed, whole)
    assert context.words["resumed"] == "step-3 (state.safetensors differs from its SHA-256)"


def test_what_is_logged_and_kept_follows_the_settings(tmp_path):
    config = experiment(steps=5, adversarial=0, log_every_steps=2, checkpoint_every_steps=3)
    state, history = train(tmp_path, config)
    assert state.step == 5
    assert [step for step, metrics in history if "loss_total" in metrics] == [2, 4]
    assert all(metrics["steps_per_s"] > 0 for _, metrics in history if "loss_total" in metrics)
    validations = [(step, metrics) for step, metrics in history if "val_psnr_gain" in metrics]
    assert [step for step, _ in validations] == [3, 5]
    assert {folder.name for folder in tmp_path.iterdir()} == {"step-3", "step-5"}
    for _, metrics in validations:
        gain = metrics["val_psnr_model_x2"] - metrics["val_psnr_bicubic_x2"]
        assert metrics["val_psnr_gain"] == pytest.approx(gain)

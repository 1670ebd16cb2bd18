"""Which weights a run starts from, and which it validates and keeps."""

import pytest
import safetensors.torch
import torch

from metasr.config import LossConfig, OptimConfig
from metasr.context import LocalContext
from metasr.data.crops import MemoryCrops
from metasr.evaluation import Conditions, HeldOutSlice, evaluate
from metasr.inference.bundle import load_bundle
from metasr.perceptual_distance import load_perceptual_distance
from metasr.training.loop import TrainingData, fit
from tests.unit.runs import (
    IDENTITY,
    assert_same_state,
    assert_same_weights,
    experiment,
    initial_state,
    smooth_images,
    train,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def averaging(decay):
    return OptimConfig(generator_lr=1e-3, ema_decay=decay)


def test_the_average_is_that_of_the_generators_of_all_steps(tmp_path):
    """Written out from the definition: a_n = d a_(n-1) + (1 - d) w_n, with d = min(decay, (1 + n) / (10 + n))."""
    config = experiment(steps=4, adversarial=0, optim=averaging(0.25), checkpoint_every_steps=1)
    state, _ = train(tmp_path, config)
    expected = initial_state(config).generator.upscale.kernel.weight.double()
    for step in range(1, 5):
        checkpoint = initial_state(config)
        checkpoint.load(tmp_path / f"step-{step}")
        decay = min(0.25, step / (9 + step))
        expected = decay * expected + (1 - decay) * checkpoint.generator.upscale.kernel.weight.double()
    torch.testing.assert_close(state.average.upscale.kernel.weight.double(), expected, rtol=1e-5, atol=1e-8)


def test_the_average_is_what_is_validated_and_kept_and_not_what_is_trained(tmp_path):
    with_average, history = train(tmp_path / "with", experiment(steps=3, adversarial=0, optim=averaging(0.9)))
    without, plain = train(tmp_path / "without", experiment(steps=3, adversarial=0))
    assert_same_weights(with_average.generator, without.generator)
    bundle = load_bundle(tmp_path / "with" / "step-3" / "bundle", torch.device("cpu"))
    assert_same_weights(bundle.generator, with_average.average)
    assert not torch.equal(bundle.generator.upscale.kernel.weight, without.generator.upscale.kernel.weight)
    assert history[-1][1]["val_psnr_gain"] != plain[-1][1]["val_psnr_gain"]


@pytest.mark.parametrize(("theirs", "ours"), [(0.0, 0.9), (0.9, 0.0)], ids=["begins one", "drops it"])
def test_a_fork_of_a_run_with_or_without_an_average_trains_without_or_with_one(tmp_path, theirs, ours):
    settings = {"adversarial": 0, "checkpoint_every_steps": 2}
    left, _ = train(tmp_path, experiment(steps=2, optim=averaging(theirs), **settings))
    fork = initial_state(experiment(steps=4, optim=averaging(ours), **settings))
    fork.load(tmp_path / "step-2")
    assert_same_weights(fork.best_generator, left.generator)
    ended, _ = train(tmp_path, experiment(steps=4, optim=averaging(ours), **settings))
    assert (ended.step, ended.average is not None) == (4, ours > 0)


def test_a_stopped_run_goes_on_with_its_average(tmp_path):
    settings = {"optim": averaging(0.9), "checkpoint_every_steps": 2, "pixel_only_steps": 1}
    whole, _ = train(tmp_path / "whole", experiment(steps=4, **settings))
    train(tmp_path / "stopped", experiment(steps=2, **settings))
    resumed, _ = train(tmp_path / "stopped", experiment(steps=4, **settings))
    assert_same_state(resumed, whole)


def test_training_can_start_from_the_weights_of_another_run_but_keeps_its_own_statistics(tmp_path):
    first, _ = train(tmp_path / "first", experiment(steps=2, adversarial=0))
    brighter = smooth_images(4, 48, seed=0) * 0.5 + 0.3
    weights = first.generator.state_dict()
    state = initial_state(experiment(optim=averaging(0.9)))
    state.start_from(weights)
    assert_same_weights(state.generator, first.generator)
    assert_same_weights(state.average, first.generator)
    config = experiment(steps=1, adversarial=0)
    context = LocalContext(tmp_path / "second")
    mean, std = brighter.mean().item(), brighter.std().item()
    held_out = [HeldOutSlice("a", 0, brighter[:1])]
    second = fit(config, TrainingData(MemoryCrops(brighter), mean, std, held_out), IDENTITY, context, weights)
    assert second.generator.mean.item() == pytest.approx(mean)
    assert second.generator.std.item() == pytest.approx(std)
    moved = (second.generator.upscale.kernel.weight - first.generator.upscale.kernel.weight).abs().max()
    assert 0 < moved <= 1.01e-3  # one step of Adam


def test_initial_weights_do_not_undo_a_resumption(tmp_path):
    other, _ = train(tmp_path / "other", experiment(steps=1, adversarial=0, seed=5))
    config = experiment(steps=2, adversarial=0)
    state, _ = train(tmp_path / "run", config)
    crops = smooth_images(4, 48, seed=0)
    context = LocalContext(tmp_path / "run")
    again = fit(
        config, TrainingData(MemoryCrops(crops), 0.5, 0.2, []), IDENTITY, context, other.generator.state_dict()
    )
    assert_same_weights(again.generator, state.generator)


@pytest.fixture(scope="module")
def vgg_weights(tmp_path_factory):
    """A VGG-16 that has learnt nothing."""
    file = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    torch.manual_seed(0)
    weights, index, inputs = {}, 0, 3
    for widths in ([64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3):
        for outputs in widths:
            weights[f"features.{index}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
            weights[f"features.{index}.bias"] = torch.zeros(outputs)
            index, inputs = index + 2, outputs
        index += 1  # the pooling
    safetensors.torch.save_file(weights, file)
    return file


@pytest.mark.parametrize("keep_best_by", ["psnr", "perceptual", "newest"])
def test_what_makes_a_checkpoint_the_best_is_a_setting(tmp_path, vgg_weights, keep_best_by):
    loss = LossConfig(
        adversarial=0, perceptual=0.01, vgg_network="vgg16", vgg_layer="relu1_2", vgg_weights=vgg_weights
    )
    settings = experiment(steps=1, pixel_only_steps=1, keep_best_by="newest")
    config = settings.model_copy(
        update={"loss": loss, "train": settings.train.model_copy(update={"keep_best_by": keep_best_by})}
    )
    _, history = train(tmp_path, config)
    metrics = history[-1][1]
    expected = {"psnr": "val_psnr_gain", "perceptual": "val_perceptual_gain"}.get(keep_best_by)
    assert metrics["selection_score"] == (metrics[expected] if expected else 1)
    assert ("val_perceptual_gain" in metrics) == (keep_best_by == "perceptual")
    if keep_best_by == "perceptual":
        held_out = [HeldOutSlice("held-out", 3, smooth_images(1, 40, seed=9))]
        bundle = load_bundle(tmp_path / "step-1" / "bundle", torch.device("cpu"))
        distance = load_perceptual_distance("vgg16", vgg_weights)
        scores = evaluate(bundle.generator, held_out, config.eval.scales, Conditions(distance=distance)).scores
        whole = {score.method: score.perceptual for score in scores if score.region == "whole"}
        assert metrics["selection_score"] == pytest.approx(whole["bicubic"] - whole["model"], rel=1e-4)

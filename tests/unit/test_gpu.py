"""What holds on a CPU holds on a GPU. Skipped where there is none."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from metasr.context import LocalContext
from metasr.data.crops import MemoryCrops
from metasr.data.degrade import Degradation
from metasr.data.sample import make_batch, plan_step
from metasr.evaluation import HeldOutSlice
from metasr.models import Generator, MetaUpscale
from metasr.training.loop import TrainingData, fit
from metasr.training.reduction import Exact
from metasr.training.state import TrainingState
from metasr.training.steps import Networks, UpdateRule, discriminator_step, generator_step
from tests.unit.runs import IDENTITY, assert_same_state, experiment, losses_of, smooth_images
from tests.unit.test_reduction import ThreadContext, Together

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GPU = torch.device("cuda")
SIZES = [(2.0, (48, 60)), (1.5, (36, 45)), (3.3, (99, 66)), (1.1, (33, 44))]


@pytest.fixture(autouse=True)
def full_precision():
    """Products in float32, as on a CPU, and not in TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def train_on_gpu(folder, config):
    crops = smooth_images(4, 48, seed=0)
    context = LocalContext(folder, GPU)
    held_out = [HeldOutSlice("held-out", 3, smooth_images(1, 40, seed=9))]
    data = TrainingData(MemoryCrops(crops), crops.mean().item(), crops.std().item(), held_out)
    return fit(config, data, IDENTITY, context), context.history


@pytest.mark.parametrize(("scale", "size"), SIZES)
def test_meta_upscale_gives_the_image_of_a_cpu(scale, size):
    torch.manual_seed(0)
    layer, features = MetaUpscale(16, 1), torch.rand(2, 16, round(size[0] / scale), round(size[1] / scale))
    expected = layer(features, size)
    found = layer.to(GPU)(features.to(GPU), size).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_generator_gives_the_image_of_a_cpu():
    torch.manual_seed(0)
    generator, lr = Generator(num_features=16, num_blocks=2, norm="none").eval(), smooth_images(2, 40, seed=2)
    with torch.inference_mode():
        expected = generator(lr, (100, 84))
        found = generator.to(GPU)(lr.to(GPU), (100, 84)).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["bicubic", "kspace", "thick_slices", "bilinear8"])
def test_patches_are_those_of_a_cpu(kind):
    config = experiment(batch_size=4)
    crops, plan = smooth_images(4, 48, seed=3), plan_step(config, 5)
    expected = make_batch(crops, plan, slice(0, 4), Degradation(kind))
    found = make_batch(crops.to(GPU), plan, slice(0, 4), Degradation(kind))
    torch.testing.assert_close(found.hr.cpu(), expected.hr)
    tolerance = 1.01 / 255 if kind == "bilinear8" else 1e-4  # a value between two levels may fall to either
    torch.testing.assert_close(found.lr.cpu(), expected.lr, rtol=0, atol=tolerance)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_exact_training_gives_the_same_bits_again_and_after_a_stop(tmp_path, precision):
    settings = {"batch_size": 4, "pixel_only_steps": 2, "checkpoint_every_steps": 4, "precision": precision}
    settings["min_brain"] = 0.15
    whole, curve = train_on_gpu(tmp_path / "whole", experiment(steps=8, **settings))
    again, same_curve = train_on_gpu(tmp_path / "again", experiment(steps=8, **settings))
    assert_same_state(again, whole)
    assert losses_of(same_curve) == losses_of(curve)
    train_on_gpu(tmp_path / "stopped", experiment(steps=4, **settings))
    resumed, _ = train_on_gpu(tmp_path / "stopped", experiment(steps=8, **settings))
    assert_same_state(resumed, whole)


def test_training_on_a_gpu_follows_that_on_a_cpu(tmp_path):
    config = experiment(steps=6, batch_size=4, pixel_only_steps=3)
    _, curve = train_on_gpu(tmp_path / "gpu", config)
    context = LocalContext(tmp_path / "cpu")
    crops = smooth_images(4, 48, seed=0)
    held_out = [HeldOutSlice("held-out", 3, smooth_images(1, 40, seed=9))]
    fit(
        config, TrainingData(MemoryCrops(crops), crops.mean().item(), crops.std().item(), held_out), IDENTITY, context
    )
    for (_, ours), (_, theirs) in zip(losses_of(curve), losses_of(context.history), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-2)


def steps_of(context, config, state):
    """Do a few steps on one of the workers, which are threads of one process and share a GPU."""
    reduction = Exact(context, config.train.num_virtual_shards, (state.generator, state.discriminator))
    networks = Networks(state.generator, state.discriminator, None)
    crops = smooth_images(4, 48, seed=0).to(GPU)
    for step in range(3):
        plan = plan_step(config, step)
        parts = [make_batch(crops[part], plan, part) for part in reduction.parts(4)]
        rules = [UpdateRule(one, reduction) for one in (state.generator_optimiser, state.discriminator_optimiser)]
        images, _, outcome = generator_step(networks, parts, config.loss, rules[0], pixel_only=False)
        discriminator_step(networks, parts, images, rules[1], outcome.finite)
    return state


def start(config):
    return TrainingState.initial(config, GPU, mean=0.5, std=0.25)


@pytest.mark.parametrize("num_workers", [2, 3, 4])
def test_any_number_of_workers_computes_the_same_bits(num_workers):
    config = experiment(batch_size=4)
    torch.use_deterministic_algorithms(True)
    try:
        alone = steps_of(LocalContext(Path(), GPU), config, start(config))
        together = Together(num_workers)
        contexts = [ThreadContext(rank, together) for rank in range(num_workers)]
        states = [start(config) for _ in contexts]  # here, as threads share their random numbers
        with ThreadPoolExecutor(num_workers) as pool:
            for state in pool.map(lambda context, state: steps_of(context, config, state), contexts, states):
                assert_same_state(state, alone)
    finally:
        torch.use_deterministic_algorithms(False)

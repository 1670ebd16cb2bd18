"""Small runs of training in one process, and what is asked of them."""

import torch

from metasr.config import DataConfig, EvalConfig, ExperimentConfig, LossConfig, ModelConfig, OptimConfig, TrainConfig
from metasr.context import LocalContext
from metasr.data.crops import MemoryCrops
from metasr.data.degrade import resize_bicubic
from metasr.evaluation import HeldOutSlice
from metasr.identity import RunIdentity
from metasr.training.loop import TrainingData, fit
from metasr.training.state import TrainingState

IDENTITY = RunIdentity(run_name="test", code_version="0", data_url="", data_digest="0" * 64)


def experiment(*, adversarial=0.001, skip="bicubic", optim=None, flips=True, min_brain=0.0, **train):
    defaults = {
        "steps": 4,
        "batch_size": 2,
        "scale_min": 1.5,
        "scale_max": 2.0,
        "checkpoint_every_steps": 1000,
        "log_every_steps": 1,
    }
    return ExperimentConfig(
        model=ModelConfig(num_features=8, num_blocks=1, skip=skip),
        data=DataConfig(patch_px=40, flips=flips, min_brain=min_brain),
        loss=LossConfig(adversarial=adversarial, perceptual=0),
        optim=optim or OptimConfig(generator_lr=1e-3),
        train=TrainConfig(**(defaults | train)),
        eval=EvalConfig(scales=(2.0,)),
    )


def smooth_images(count, side, seed):
    """Smooth blobs in [0, 1] with a sharp edge each, `[count, 1, side, side]`."""
    coarse = torch.rand((count, 1, 6, 6), generator=torch.Generator().manual_seed(seed))
    images = resize_bicubic(coarse, (side, side)).clamp(0, 1)
    return torch.where(images > 0.3, images, torch.zeros(()))


def train(folder, config, crops=None, context=None):
    crops = smooth_images(4, 48, seed=0) if crops is None else crops
    validation = [HeldOutSlice("held-out", 3, smooth_images(1, 40, seed=9))]
    context = context or LocalContext(folder)
    usable = crops[crops.isfinite()]
    data = TrainingData(MemoryCrops(crops), usable.mean().item(), usable.std().item(), validation)
    return fit(config, data, IDENTITY, context), context.history


def losses_of(history):
    """Return the losses logged, without times and validations."""
    return [
        (step, {name: value for name, value in metrics.items() if name.startswith("loss_")})
        for step, metrics in history
        if "loss_total" in metrics
    ]


def assert_same_state(one, other):
    assert one.step == other.step
    tensors, others = one.tensors(), other.tensors()
    assert tensors.keys() == others.keys()
    assert len(tensors) > 200
    for name, value in tensors.items():
        assert torch.equal(value, others[name]), name


def initial_state(config):
    return TrainingState.initial(config, torch.device("cpu"), mean=0.5, std=0.25)


def assert_same_weights(one, other):
    for (name, value), expected in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(value, expected), name

"""The training loop: plan, batch, generator step, discriminator step; now and then look, and save."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from metasr.config import ExperimentConfig
from metasr.context import WorkerContext
from metasr.data.crops import CropSource
from metasr.data.degrade import Degradation
from metasr.data.order import SampleOrder
from metasr.data.sample import Batch, make_batch, plan_step
from metasr.evaluation import HeldOutSlice, evaluate, mean_by_scale
from metasr.identity import RunIdentity
from metasr.inference.bundle import save_bundle
from metasr.perceptual import load_perceptual
from metasr.perceptual_distance import PerceptualDistance, load_perceptual_distance
from metasr.pictures import comparison_panel, png_bytes
from metasr.training.state import TrainingState
from metasr.training.steps import Networks, discriminator_step, generator_step

SELECTION_METRIC = "selection_score"


def fit(
    config: ExperimentConfig,
    crops: CropSource,
    statistics: tuple[float, float],
    validation: Sequence[HeldOutSlice],
    identity: RunIdentity,
    context: WorkerContext,
    initial_weights: Mapping[str, Tensor] | None = None,
) -> TrainingState:
    """Train until `config.train.steps`, from the newest checkpoint if there is one, and return the final state.

    Args:
        config: The experiment.
        crops: Training crops, intensities in about [0, 1].
        statistics: Mean and standard deviation of the training crops.
        validation: Slices of subjects that are not trained on.
        identity: What the run is made from.
        context: The worker's view of the world.
        initial_weights: Of a generator of another run to start from, instead of random ones.
    """
    train = config.train
    mean, std = statistics
    state = TrainingState.initial(config, context.device, mean=mean, std=std)
    if initial_weights is not None:
        state.start_from(initial_weights)
    with context.newest_checkpoint() as checkpoint:
        if checkpoint is not None:
            state.load(checkpoint)
            if state.step < train.steps:
                context.log(state.step, {"resumed_at_step": float(state.step)})
    perceptual = load_perceptual(config.loss)
    networks = Networks(
        context.prepare(state.generator, share_buffers=True),
        context.prepare(state.discriminator, share_buffers=False),
        perceptual.to(context.device) if perceptual else None,
        half_precision=train.precision == "bfloat16",
    )
    distance = None
    if train.keep_best_by == "perceptual":
        distance = load_perceptual_distance(config.loss.vgg_network, config.loss.vgg_weights)
    part = context.part(train.batch_size)
    order = SampleOrder(crops.shard_sizes, config.data.shuffle_shards, train.seed)
    stream = crops.stream(order, first_step=state.step, batch_size=train.batch_size, part=part)
    degrade = Degradation(config.data.degradation, config.data.noise)
    clock = time.perf_counter()
    while state.step < train.steps:
        plan = plan_step(config, state.step)
        batch = make_batch(next(stream).to(context.device), plan, part, degrade, min_brain=config.data.min_brain)
        losses = _step(config, state, networks, batch)
        state.step += 1
        if state.step % train.log_every_steps == 0:
            metrics = dict(zip(losses, context.average(torch.stack(list(losses.values()))).tolist(), strict=True))
            elapsed, clock = time.perf_counter() - clock, time.perf_counter()
            context.log(state.step, metrics | {"steps_per_s": train.log_every_steps / elapsed})
        if state.step % train.checkpoint_every_steps == 0 or state.step == train.steps:
            _look_and_save(config, state, validation, distance, identity, context)
            clock = time.perf_counter()
    return state


def _step(config: ExperimentConfig, state: TrainingState, networks: Networks, batch: Batch) -> dict[str, Tensor]:
    """Do one update of each network and return the losses by name, the same names at every step."""
    pixel_only, clip_norm = state.step < config.train.pixel_only_steps, config.optim.clip_norm
    state.set_learning_rates(config.optim, config.train.steps)
    sr, losses = generator_step(
        networks, state.generator_optimiser, batch, config.loss, pixel_only=pixel_only, clip_norm=clip_norm
    )
    state.update_average(config.optim.ema_decay)
    judged = torch.zeros_like(losses.total)
    if config.loss.adversarial and not pixel_only:
        judged = discriminator_step(networks, state.discriminator_optimiser, batch, sr, clip_norm=clip_norm)
    return {
        "loss_total": losses.total.detach(),
        "loss_pixel": losses.pixel.detach(),
        "loss_adversarial": losses.adversarial.detach(),
        "loss_perceptual": losses.perceptual.detach(),
        "loss_discriminator": judged.detach(),
    }


def _look_and_save(
    config: ExperimentConfig,
    state: TrainingState,
    validation: Sequence[HeldOutSlice],
    distance: PerceptualDistance | None,
    identity: RunIdentity,
    context: WorkerContext,
) -> None:
    """Validate the generator, record metrics and pictures, and keep a checkpoint with its bundle."""
    degradation = Degradation(config.data.degradation, config.data.noise)
    result = evaluate(state.best_generator, validation, config.eval.scales, degradation, distance=distance)
    means = mean_by_scale(result.scores)
    metrics = {"step": float(state.step)}
    for (scale, method), mean in means.items():
        metrics[f"val_psnr_{method}_x{scale}"] = mean.psnr
        metrics[f"val_ssim_{method}_x{scale}"] = mean.ssim
    pairs = [(means[scale, "model"], means[scale, "bicubic"]) for scale in config.eval.scales]
    metrics["val_psnr_gain"] = fmean(model.psnr - bicubic.psnr for model, bicubic in pairs)
    if distance is not None:
        metrics["val_perceptual_gain"] = fmean(bicubic.perceptual - model.perceptual for model, bicubic in pairs)
    best_by = {"psnr": "val_psnr_gain", "perceptual": "val_perceptual_gain", "newest": "step"}
    metrics[SELECTION_METRIC] = metrics[best_by[config.train.keep_best_by]]
    panel = comparison_panel(result.comparisons)
    context.log(state.step, metrics, {"validation": png_bytes(panel)})

    def save(folder: Path) -> None:
        state.save(folder, identity)
        save_bundle(folder / "bundle", state.best_generator, config, identity, step=state.step, metrics=metrics)

    context.report(metrics, save)

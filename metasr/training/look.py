"""Looking at what a generator makes of validation slices while it is trained, and keeping it."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from metasr.config import ExperimentConfig
from metasr.context import WorkerContext
from metasr.data.degrade import Degradation
from metasr.evaluation import Conditions, HeldOutSlice, Mean, evaluate, mean_by_scale
from metasr.evaluation.pictures import comparison_panel, png_bytes
from metasr.events import Event
from metasr.identity import RunIdentity
from metasr.inference.bundle import save_bundle
from metasr.perceptual_distance import load_perceptual_distance
from metasr.scale import Scale
from metasr.training.collapse import Collapse
from metasr.training.state import TrainingState


class Look:
    """Looks at what the generator makes of validation slices, and keeps it."""

    def __init__(
        self,
        config: ExperimentConfig,
        validation: Sequence[HeldOutSlice],
        identity: RunIdentity,
        context: WorkerContext,
        collapse: Collapse,
    ) -> None:
        self._config, self._validation, self._identity = config, validation, identity
        self._context, self._collapse = context, collapse
        self._distance = None
        if config.train.keep_best_by == "perceptual":
            self._distance = load_perceptual_distance(config.loss.vgg_network, config.loss.vgg_weights)

    def and_keep(self, state: TrainingState) -> float:
        """Validate the generator, record metrics and pictures, keep a checkpoint with its bundle; return seconds."""
        config, began = self._config, time.perf_counter()
        conditions = Conditions(Degradation(config.data.degradation, config.data.noise), self._distance)
        result = evaluate(state.best_generator, self._validation, config.eval.scales, conditions)
        metrics = _metrics(mean_by_scale(result.scores), config.eval.scales)
        best_by = {"psnr": "val_psnr_gain", "perceptual": "val_perceptual_gain"}.get(config.train.keep_best_by)
        metrics["selection_score"] = metrics[best_by] if best_by else float(state.step)
        images = [(comparison.images["model"], comparison.hr) for comparison in result.comparisons]
        metrics["val_contrast"] = fmean((sr.std() / hr.std()).item() for sr, hr in images)
        if config.loss.adversarial and state.step > config.train.pixel_only_steps:
            self._collapse.see_contrast(state.step, metrics["val_contrast"])
        state.record(**metrics)
        pictures = {"validation": png_bytes(comparison_panel(result.comparisons))}
        seconds = {"seconds": time.perf_counter() - began}
        self._context.log(Event("validated", state.step, metrics | seconds, pictures=pictures))

        def save(folder: Path) -> None:
            save_bundle(
                folder / "bundle", state.best_generator, config, self._identity, step=state.step, metrics=metrics
            )
            state.save(folder, config, self._identity)

        self._context.keep(state.step, metrics["selection_score"], save)
        return time.perf_counter() - began


def _metrics(means: Mapping[tuple[Scale, str], Mean], scales: Sequence[Scale]) -> dict[str, float]:
    """Return the means by name, and by how much the model is better than bicubic on average."""
    metrics = {}
    for (scale, method), mean in means.items():
        metrics[f"val_psnr_{method}_x{scale}"] = mean.psnr
        metrics[f"val_ssim_{method}_x{scale}"] = mean.ssim
    pairs = [(means[scale, "model"], means[scale, "bicubic"]) for scale in scales]
    metrics["val_psnr_gain"] = fmean(model.psnr - bicubic.psnr for model, bicubic in pairs)
    distance = fmean(bicubic.perceptual - model.perceptual for model, bicubic in pairs)
    return metrics if math.isnan(distance) else metrics | {"val_perceptual_gain": distance}

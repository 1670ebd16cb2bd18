"""The report of an evaluation, as text and as JSON."""

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from textwrap import fill
from typing import Any

import torch

from metasr import __version__
from metasr.data.patients import patient_of_row
from metasr.evaluation import tables
from metasr.evaluation.background import disagreements
from metasr.evaluation.cost import SLICE_PX, VOLUME_SLICES, Cost
from metasr.evaluation.coverage import COVERED
from metasr.evaluation.methods import BICUBIC_NAME, LANCZOS_NAME, MODEL_NAME
from metasr.evaluation.protocol import Evaluation, Score
from metasr.evaluation.regions import REGIONS
from metasr.evaluation.ring_correlation import MISMATCH
from metasr.evaluation.statistics import MIN_PATIENTS_FOR_TEST, NUM_RESAMPLES, differences, mean_by_scale
from metasr.scale import Scale

WIDTH = 110
CONVENTIONS = {
    "psnr": "dB, data range 1",
    "ssim": "Wang et al. 2004: 11 x 11 Gaussian window, sigma 1.5, population covariance, range 1, full windows",
    "nrmse": "norm of the error / norm of HR",
    "consistency": "PSNR of the SR image, degraded as HR was, against LR",
    "mismatch": MISMATCH,
    "covered": COVERED,
    "border": "ceil(r) rows and columns are left out on each side",
    "whole": "all of the slice",
    "brain": "pixels where HR is not background (0), SSIM windows around them",
    "crop128": "the 128 x 128 window of HR with the most brain",
    "mean": "over patients, of each patient's mean over slices",
    "interval": f"95 %, percentile bootstrap over patients, {NUM_RESAMPLES} resamples, seed 0",
    "test": f"Wilcoxon signed-rank, two-sided, Holm over the scales, from {MIN_PATIENTS_FOR_TEST} patients",
    "macs": f"convolutions and matrix products for {SLICE_PX} x {SLICE_PX} HR pixels (PyTorch's FLOPs / 2)",
    "seconds": f"median over the slices evaluated; a volume has {VOLUME_SLICES}",
}


@dataclass(frozen=True)
class Circumstances:
    """What was evaluated, on what data, and where.

    Attributes:
        model: Reference of the model, as given by the user.
        bundle_sha256: SHA-256 of the bundle.
        trained_scales: Smallest and largest trained scale.
        data: URL of the data's store.
        data_sha256: SHA-256 of the data's index.
        degradation: How LR was made from HR.
        noise: Standard deviation of the noise on LR.
        min_brain: Smallest fraction of brain in a slice when the data was prepared; None if unknown.
        num_slices: Number of evaluated slices.
        perceptual_network: Network of the perceptual distance; empty: not measured.
        device: Device of the computation, see `device_name`.
        date: Date and time, ISO 8601.
    """

    model: str
    bundle_sha256: str
    trained_scales: tuple[float, float]
    data: str
    data_sha256: str
    degradation: str
    noise: float
    min_brain: float | None
    num_slices: int
    perceptual_network: str
    device: str
    date: str


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or the CPU architecture and the number of PyTorch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def report(result: Evaluation, costs: Sequence[Cost], about: Circumstances) -> str:
    """Return the report as text, `WIDTH` columns wide."""
    scores = result.scores
    parts = [_head(result, about)]
    for rival in rivals_of(scores):
        parts.append(f"Whole slices, PSNR (dB) / SSIM, and the model's gain over {rival}:")
        parts[-1] += f"\n{tables.comparison_table(scores, rival)}"
        if own := tables.patients_table(scores, rival):
            parts.append(f"Gain over {rival} for each patient:\n{own}")
    named = f", perceptual distance in {about.perceptual_network}" if about.perceptual_network else ""
    named += ", pixels within the bounds of --trust" if any(score.covered is not None for score in scores) else ""
    inside = f"Inside the brain, and on the 128 x 128 crop with the most brain:\n{tables.regions_table(scores)}"
    parts += [
        "\n".join([inside, *(fill(text, WIDTH) for text in disagreements(scores))]),
        f"NRMSE, PSNR of the degraded output against LR (dB), patches whose detail is not HR's{named}:\n"
        f"{tables.measures_table(scores)}",
        _cost(costs, about),
    ]
    return "\n\n".join(parts)


def summary(result: Evaluation, costs: Sequence[Cost], about: Circumstances) -> str:
    """Return means, statistics and costs as JSON, with everything that they depend on."""
    scores = result.scores
    means = [
        {"scale": str(scale), "method": method, "region": region, **mean._asdict()}
        for region in REGIONS
        for (scale, method), mean in mean_by_scale(scores, region).items()
    ]
    gains = [
        asdict(difference) | {"scale": str(difference.scale)}
        for rival in rivals_of(scores)
        for measure in ("psnr", "ssim")
        for difference in differences(scores, rival, measure)
    ]
    content = {
        **asdict(about),
        "versions": {"metasr": __version__, "python": platform.python_version(), "torch": torch.__version__},
        "conventions": CONVENTIONS,
        "means": means,
        "differences": gains,
        "cost": [asdict(cost) | {"scale": str(cost.scale)} for cost in costs],
    }
    return json.dumps(_finite(content), indent=1) + "\n"


def rivals_of(scores: Sequence[Score]) -> list[str]:
    """Return the methods that the model is compared with by statistics: bicubic first, without Lanczos."""
    methods = dict.fromkeys(score.method for score in scores)
    return [name for name in methods if name not in (LANCZOS_NAME, MODEL_NAME)]


def _head(result: Evaluation, about: Circumstances) -> str:
    """Return the head of the report: model, data, number of patients and tests."""
    patients = sorted({patient_of_row(score) for score in result.scores})
    who = f"{len(patients)} patients" if len(patients) > 1 else f"1 patient ({patients[0]})"
    low, high = about.trained_scales
    lines = [
        f"model {about.model}, data {about.data}, degradation {about.degradation}, noise {about.noise:g}",
        f"{about.num_slices} slices of {who}; means are over patients",
    ]
    if len(patients) < MIN_PATIENTS_FOR_TEST:
        lines[-1] += f", too few for a test: {MIN_PATIENTS_FOR_TEST} are needed"
    else:
        lines[-1] += "; * p < 0.05 (Wilcoxon signed-rank, Holm over the scales)"
    if len(patients) > 1:
        lines.append("[ ] 95 % interval of the mean gain, bootstrap over patients")
    beyond = [scale for scale in sorted({s.scale for s in result.scores}) if not is_within(scale, low, high)]
    if beyond:
        lines.append(f"outside the scales it was trained on ({low:g} to {high:g}): {', '.join(map(str, beyond))}")
    return "\n".join(lines)


def _cost(costs: Sequence[Cost], about: Circumstances) -> str:
    """Return the cost of interpolation and the model; other models would make the table too wide."""
    shown = [cost for cost in costs if cost.method in (BICUBIC_NAME, LANCZOS_NAME, MODEL_NAME)]
    parameters = max((cost.parameters or 0 for cost in shown), default=0)
    head = f"Cost for {SLICE_PX} x {SLICE_PX} HR pixels, seconds on {about.device}; {parameters:,} parameters"
    elsewhere = " (other models: scores.json)" if len(shown) < len(costs) else ""
    return f"{head}{elsewhere}:\n{tables.cost_table(shown)}"


def is_within(scale: Scale, low: float, high: float) -> bool:
    """Return whether the scale of each enlarged axis was trained on."""
    return all(axis == 1 or low <= axis <= high for axis in (scale.rows, scale.columns))


def _finite(value: Any) -> Any:
    """Return a JSON value with infinity and NaN, which JSON lacks, replaced by strings."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

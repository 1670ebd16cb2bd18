"""What a GPU has to show before training uses CUDA graphs by itself: one command, one table.

    python -m tests.gpu

Needs what `metasr` needs, and torchvision for the perceptual loss: neither Ray nor MLflow. Compares, bit for bit,
trainings whose steps are launched as CUDA graphs with the same ones step by step: weights, moments, statistics and
losses over 60 steps with three scales, and a run that was stopped and resumed. Then measures steps a second of the
full GAN recipe with batch 8 over all scales, what `exact` costs beside `fast`, and a volume of 155 slices at scale 2.
Exit code 1 if bits differ. Without a GPU nothing is checked, and it says so. It has not been run on a GPU yet.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import metasr
from metasr.arithmetic import arithmetic
from metasr.config import ExperimentConfig
from metasr.context import LocalContext, Request
from metasr.data.crops import MemoryCrops
from metasr.data.degrade import resize_bicubic
from metasr.evaluation import HeldOutSlice
from metasr.identity import RunIdentity
from metasr.training.loop import TrainingData, fit
from metasr.training.state import TrainingState

IDENTITY = RunIdentity("gpu", "", "", "")
KINDS = [(reduction, precision) for reduction in ("exact", "fast") for precision in ("float32", "bfloat16")]
WARM_UP_STEPS, STEPS = 300, 300  # with 30 scales, of which nearly all are captured before the clock starts


class Watched(LocalContext):
    """Notes when a step was asked for, after the GPU was waited for at the first and the last that count."""

    times: tuple[float, ...] = ()
    asked = 0

    def requested(self) -> Request:
        """Look at the clock twice, and stop then."""
        self.asked += 1
        if self.asked in (WARM_UP_STEPS, WARM_UP_STEPS + STEPS):
            torch.cuda.synchronize()
            self.times += (time.perf_counter(),)
        return Request.STOP if self.asked == WARM_UP_STEPS + STEPS else Request.NONE

    def keep(self, *_: object) -> None:
        """Keep nothing."""


def main() -> int:
    """Check, measure, and print the table."""
    if not torch.cuda.is_available():
        print("There is no GPU that torch can use here: nothing was checked.")
        return 2
    device = torch.device("cuda")
    torch.backends.cudnn.conv.fp32_precision = torch.backends.cuda.matmul.fp32_precision = "ieee"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {arithmetic(device)}\n\n| | |\n|---|---|", flush=True)
    all_equal = True
    with tempfile.TemporaryDirectory() as folder:
        for reduction, precision in KINDS:
            found = differences(Path(folder) / f"{reduction}-{precision}", device, reduction, precision)
            for what, is_equal in found.items():
                print(f"| {what}, {reduction}, {precision} | {'equal' if is_equal else 'DIFFERENT'} |", flush=True)
                all_equal = all_equal and is_equal
        measure_steps(Path(folder), device)
    seconds = volume_seconds(device)
    print(f"| volume of 240 x 240 x 155, scale 2, the model that ships | {seconds:.2f} s |")
    return 0 if all_equal else 1


def differences(folder: Path, device: torch.device, reduction: str, precision: str) -> dict[str, bool]:
    """Train in three ways; return whether the ends are the same bits."""
    train = {"reduction": reduction, "precision": precision, "pixel_only_steps": 20, "log_every_steps": 1}
    train |= {"scale_min": 1.9, "scale_max": 2.1, "checkpoint_every_steps": 1000}
    model = {"num_features": 32, "num_blocks": 2}
    settings = {"model": model, "data": {"patch_px": 63}, "loss": {"perceptual": 0}, "optim": {"ema_decay": 0.9}}

    def trained(name: str, graphs: str, steps: int) -> tuple[TrainingState, list[str]]:
        config = ExperimentConfig.model_validate(settings | {"train": train | {"graphs": graphs, "steps": steps}})
        state = fit(config, data_on(device), IDENTITY, LocalContext(folder / name, device))
        return state, state.log

    plain, launched = trained("off", "off", 60), trained("on", "on", 60)
    trained("stopped", "on", 33)
    resumed = trained("stopped", "on", 60)
    steps = [[line for line in log if "loss_total" in line] for _, log in (plain, launched, resumed)]
    return {
        "losses of 60 steps, graphs and step by step": steps[0] == steps[1],
        "weights, moments and statistics": same(plain[0], launched[0]),
        "the same after a stop at step 33": same(plain[0], resumed[0]) and steps[0] == steps[2],
    }


def same(one: TrainingState, other: TrainingState) -> bool:
    """Return whether two states are the same bits."""
    others = other.tensors()
    return all(torch.equal(value.cpu(), others[name].cpu()) for name, value in one.tensors().items())


def data_on(device: torch.device) -> TrainingData:
    """Return smooth random images, from which training takes as long as from any."""
    random = torch.Generator().manual_seed(0)
    crops = resize_bicubic(torch.rand((64, 1, 16, 16), generator=random), (128, 128)).clamp(0, 1)
    return TrainingData(MemoryCrops(crops.to(device)), 0.5, 0.2, [HeldOutSlice("none", 0, crops[:1])])


def measure_steps(folder: Path, device: torch.device) -> None:
    """Print steps a second of the full GAN recipe, and what exact costs beside fast."""
    perceptual = dict(vgg_in(folder))
    what = "GAN with VGG-19" if perceptual else "GAN without its perceptual loss (torchvision is not installed)"
    for precision in ("float32", "bfloat16"):
        rates = {}
        for graphs in ("off", "on"):
            for reduction in ("fast", "exact"):
                train = {"batch_size": 8, "reduction": reduction, "precision": precision, "graphs": graphs}
                train |= {"log_every_steps": 10**6, "checkpoint_every_steps": 10**6}
                config = ExperimentConfig.model_validate({"loss": perceptual or {"perceptual": 0}, "train": train})
                watched = Watched(folder, device)
                fit(config, data_on(device), IDENTITY, watched)
                rates[graphs, reduction] = STEPS / (watched.times[1] - watched.times[0])
                print(f"| {what}, batch 8, {precision}, {reduction}, graphs {graphs} | ", end="")
                print(f"{rates[graphs, reduction]:.1f} steps/s |", flush=True)
            ratio = rates[graphs, "fast"] / rates[graphs, "exact"]
            print(f"| exact with four parts beside fast, {precision}, graphs {graphs} | {ratio:.2f} times the time |")


def vgg_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Write a VGG-19 with random weights, which takes as long as a trained one; yield the setting that names it."""
    import safetensors.torch

    try:
        from torchvision import models
    except ImportError:
        return
    weights = models.vgg19(init_weights=False).features.state_dict()
    path = folder / "vgg19.safetensors"
    safetensors.torch.save_file({f"features.{name}": value for name, value in weights.items()}, path)
    yield "vgg_weights", path


def volume_seconds(device: torch.device) -> float:
    """Return the median time to enlarge a volume whose brain fills about 44 % of the slices' area."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in (240, 240, 155)), indexing="ij", sparse=True)
    inside = (i / 0.8) ** 2 + (j / 0.7) ** 2 + (k / 0.95) ** 2 < 1
    volume = np.where(inside, 1 + 0.3 * np.sin(40 * i) * np.cos(50 * j) + 0.1 * k, 0).astype(np.float32)
    model = metasr.load(Path(metasr.__file__).parent / "released" / "fidelity", device=device)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        model.upscale(volume, scale=(2, 2))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    sys.exit(main())

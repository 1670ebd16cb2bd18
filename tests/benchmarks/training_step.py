"""Measure what exact training costs beside fast training: milliseconds a step, on this machine's GPU or one core.

`make bench-train` runs it. All contenders train the same network on the same crops, which are in memory, in one
process without a cluster; they take turns, round after round, and the medians are printed. `fast` computes a batch at
once; `exact` computes `train.virtual_shards` parts of it one after the other, and adds up. The perceptual loss uses
a VGG-19 with random weights, which costs as much as a trained one.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import safetensors.torch
import torch
from torchvision import models

from metasr.arithmetic import arithmetic
from metasr.config import ExperimentConfig
from metasr.context import LocalContext, Request
from metasr.data.crops import MemoryCrops
from metasr.data.degrade import resize_bicubic
from metasr.evaluation import HeldOutSlice
from metasr.identity import RunIdentity
from metasr.training.loop import TrainingData, fit

LOSSES = {
    "pixel loss": {"adversarial": 0.0, "perceptual": 0.0},
    "+ adversarial": {"adversarial": 0.001, "perceptual": 0.0},
    "+ perceptual": {"adversarial": 0.001, "perceptual": 0.006},
}
REDUCTIONS = (("fast", 1), ("exact", 1), ("exact", 2), ("exact", 4), ("exact", 8))


class Stopwatch(LocalContext):
    """Notes when each step has ended, and stops after enough of them."""

    def __init__(self, device: torch.device, num_steps: int) -> None:
        super().__init__(Path(), device)
        self.ends: list[float] = []
        self._num_steps = num_steps

    def requested(self) -> Request:
        """Stop after the last step."""
        self.ends.append(time.perf_counter())
        return Request.STOP if len(self.ends) == self._num_steps else Request.NONE

    def keep(self, *_: object) -> None:
        """Keep nothing."""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender [3]")
    parser.add_argument("--steps", type=int, default=12, help="steps of a turn, of which the first two do not count")
    parser.add_argument("--batch", type=int, default=8, help="patches of a step [8]")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"], help="precisions [both]")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {arithmetic(device)}, batch {options.batch}, milliseconds a step")
    names = [f"{reduction} {shards}" if reduction == "exact" else reduction for reduction, shards in REDUCTIONS]
    print(f"| | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
    with tempfile.TemporaryDirectory() as folder:
        vgg = Path(folder) / "vgg19.safetensors"
        weights = models.vgg19(init_weights=False).features.state_dict()
        safetensors.torch.save_file({f"features.{name}": value for name, value in weights.items()}, vgg)
        for precision in options.precision:
            for what, weights in LOSSES.items():
                configs = [
                    config_of(weights, vgg, options, precision, reduction, shards) for reduction, shards in REDUCTIONS
                ]
                medians = measure(configs, device, options.rounds, options.steps)
                print(
                    f"| {what}, {precision} | {' | '.join(f'{median * 1e3:.1f}' for median in medians)} |", flush=True
                )


def config_of(
    loss: dict[str, float], vgg: Path, options: argparse.Namespace, precision: str, reduction: str, shards: int
) -> ExperimentConfig:
    """Return the experiment of one contender: the networks of the paper, without its BatchNorm in the generator."""
    train = {
        "batch_size": options.batch,
        "reduction": reduction,
        "virtual_shards": min(shards, options.batch),
        "precision": precision,
        "log_every_steps": 10**6,
        "checkpoint_every_steps": 10**6,
    }
    return ExperimentConfig.model_validate({"loss": loss | {"vgg_weights": vgg}, "train": train})


def measure(configs: list[ExperimentConfig], device: torch.device, rounds: int, num_steps: int) -> list[float]:
    """Return for each contender the median seconds of a step."""
    times: list[list[float]] = [[] for _ in configs]
    for _ in range(rounds):
        for config, found in zip(configs, times, strict=True):
            found += seconds_of_steps(config, device, num_steps)
    return [statistics.median(found) for found in times]


def seconds_of_steps(config: ExperimentConfig, device: torch.device, num_steps: int) -> Iterator[float]:
    """Train, and yield the seconds of all steps but the first two. Each step waits for its losses."""
    random = torch.Generator().manual_seed(0)
    crops = resize_bicubic(torch.rand((64, 1, 16, 16), generator=random), (128, 128)).clamp(0, 1).to(device)
    watch = Stopwatch(device, num_steps)
    held_out = [HeldOutSlice("none", 0, crops[:1].cpu())]
    data = TrainingData(MemoryCrops(crops), 0.5, 0.2, held_out)
    fit(config, data, RunIdentity("benchmark", "", "", ""), watch)
    yield from (end - begin for begin, end in zip(watch.ends[1:], watch.ends[2:], strict=False))


if __name__ == "__main__":
    main()

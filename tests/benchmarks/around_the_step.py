"""Measure what Ray Train, checkpoints, MLflow and data add to a step, beside the same loop under torch.distributed.

    python -m tests.benchmarks.around_the_step

Both train the same network on the same store with as many workers, each with one thread, and take turns: as `metasr
train` does, with MLflow on a server of its own; and as processes that torch.distributed alone connects (gloo), which
call the same `metasr.training.loop.fit` and tell nobody anything. The ratio is the median over rounds of the ratio of
the medians of their steps. The first steps of a turn, and those after a validation, do not count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from cluster.config import JobConfig
from cluster.recipes import Layer, resolve
from cluster.runtime.connection import connected
from cluster.store import open_store
from cluster.stream import ShardCrops, read_index, validation_slices
from cluster.training.driver import InSweep, train
from cluster.training.identify import RunSpec
from cluster.training.stop import Stop
from metasr.arithmetic import arithmetic
from metasr.context import LocalContext, Request
from metasr.events import Event
from metasr.identity import RunIdentity
from metasr.training.loop import TrainingData, fit
from tests.cluster.patients import OPTIONS, make_volumes, run_prepare
from tests.cluster.tracked import MlflowServer, closed_port
from tests.cluster.training import TINY, places

WARM_UP_STEPS = 5
ROOT = Path(__file__).parents[2]


@dataclass
class Turn:
    """What a training on Ray reported.

    Attributes:
        step_s: Seconds of each step that counts.
        waiting: The part of it that waited for data.
        stall_s: Seconds that training waited for each checkpoint.
    """

    step_s: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)
    stall_s: list[float] = field(default_factory=list)

    def see(self, event: Event) -> Mapping[str, float]:
        """Note an event; with `train.log_every_steps` 1, one of steps is one step."""
        if event.kind == "steps" and event.step > WARM_UP_STEPS:
            self.step_s.append(1 / event.values["steps_per_s"])
            self.waiting.append(event.values["waiting_share"])
        elif event.kind == "kept":
            self.stall_s.append(event.values["seconds"])
        return {}


class Connected(LocalContext):
    """A worker that torch.distributed alone connects with the others; it notes when each step has ended."""

    def __init__(self, rank: int, num_workers: int) -> None:
        super().__init__(Path(), rank=rank, num_workers=num_workers)
        self.step_s: list[float] = []

    def prepare(self, module: nn.Module, *, share_buffers: bool) -> nn.Module:
        """Wrap the module in DistributedDataParallel."""
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=share_buffers)

    def average(self, values: Tensor) -> Tensor:
        """Return the mean over the workers."""
        distributed.all_reduce(values)
        return values / self.num_workers

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return the values of every worker."""
        found = [torch.empty_like(values) for _ in range(self.num_workers)]
        distributed.all_gather(found, values)
        return found

    def log(self, event: Event) -> None:
        """Note the time of a step, as `Turn` does."""
        if event.kind == "steps" and event.step > WARM_UP_STEPS:
            self.step_s.append(1 / event.values["steps_per_s"])

    def keep(self, *_: object) -> None:
        """Keep nothing."""

    def requested(self) -> Request:
        """Return that nothing is requested."""
        return Request.NONE


def main() -> None:
    """Measure and print a table; or, with `--worker`, be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each [3]")
    parser.add_argument("--steps", type=int, default=40, help="steps of a turn [40]")
    parser.add_argument("--workers", type=int, default=2, help="workers of a training, one core each [2]")
    parser.add_argument("--tiny", action="store_true", help="a small network, whose steps take milliseconds")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--settings", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Let both take turns, and print the table."""
    run_prepare(make_volumes(folder / "patients"), open_store(str(folder / "data")), OPTIONS)
    settings: dict[str, Any] = {
        **(TINY if options.tiny else {"data.patch_px": 32, "train.scale_max": 2.0, "loss.perceptual": 0}),
        "data.url": str(folder / "data"),
        "loss.adversarial": 0,  # all steps are of one kind
        "train.batch_size": 8,
        "train.steps": options.steps,
        "train.log_every_steps": 1,
        "train.checkpoint_every_steps": max(options.steps // 2, 1),
    }
    print(f"{datetime.now(UTC):%Y-%m-%d}, {arithmetic(torch.device('cpu'))}, {options.workers} workers", flush=True)
    ratios, turns, plain_ms = [], list[Turn](), list[float]()
    server = MlflowServer(folder)
    try:
        with connected(cpus=options.workers):
            for number in range(options.rounds):
                plain = statistics.median(of_plain(settings, options.workers))
                turns.append(of_ray(settings, folder / str(number), server.uri, options.workers))
                ratios.append(statistics.median(turns[-1].step_s) / plain)
                plain_ms.append(1e3 * plain)
                print(
                    f"  round {number}: {plain_ms[-1]:.1f} ms plain, {ratios[-1]:.3f} times that on Ray", flush=True
                )
    finally:
        server.kill()
    on_ray = [1e3 * seconds for turn in turns for seconds in turn.step_s]
    stalls = [1e3 * seconds for turn in turns for seconds in turn.stall_s]
    waiting = [share for turn in turns for share in turn.waiting]
    print("| | median |\n|---|---|")
    print(f"| a step under plain torch.distributed | {statistics.median(plain_ms):.1f} ms |")
    print(f"| a step on Ray Train, with MLflow told of each | {statistics.median(on_ray):.1f} ms |")
    print(f"| ratio | {statistics.median(ratios):.3f} |")
    print(f"| training waits for a checkpoint, copy and file | {statistics.median(stalls):.1f} ms |")
    print(f"| waiting for data, of a step | {statistics.mean(waiting):.2%} |")


def of_ray(settings: Mapping[str, Any], home: Path, uri: str, num_workers: int) -> Turn:
    """Train as `metasr train` does; return what it reported."""
    home.mkdir()
    own = {
        **places(home),
        "tracking.uri": uri,
        "tracking.experiment": home.name,
        "resources.num_workers": num_workers,
    }
    values = {key: str(value) if isinstance(value, Path) else value for key, value in (dict(settings) | own).items()}
    turn = Turn()
    spec = RunSpec(resolve(JobConfig, [Layer("benchmark", values)]), "around-the-step")
    train(spec, lambda line: None, sweep=InSweep(f"around-{home.name}", turn.see, Stop(lambda line: None)))
    return turn


def of_plain(settings: Mapping[str, Any], num_workers: int) -> list[float]:
    """Train with processes of torch.distributed; return the seconds of the first one's steps."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(closed_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.benchmarks.around_the_step", f"--workers={num_workers}"]
    command.append(f"--settings={json.dumps(settings)}")
    processes = [
        subprocess.Popen([*command, f"--worker={rank}"], cwd=ROOT, env=os.environ | place, stdout=subprocess.PIPE)
        for rank in range(num_workers)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        sys.exit("a process of torch.distributed failed")
    seconds: list[float] = json.loads(outputs[0])
    return seconds


def work(options: argparse.Namespace) -> None:
    """Train as one of these processes, and print the seconds of its steps."""
    torch.set_num_threads(1)
    config = resolve(JobConfig, [Layer("benchmark", options.settings)]).config
    store = open_store(config.data.url)
    index = read_index(store)
    distributed.init_process_group("gloo", rank=options.worker, world_size=options.workers)
    context = Connected(options.worker, options.workers)
    slices = validation_slices(store, index, config.eval.validation_slices)
    data = TrainingData(ShardCrops(store, index), index.mean, index.std, slices)
    fit(config, data, RunIdentity("benchmark", "", config.data.url, index.digest()), context)
    distributed.destroy_process_group()
    print(json.dumps(context.step_s))


if __name__ == "__main__":
    main()

"""Measure what a killed worker costs: seconds from SIGKILL to the next step, and where they go.

`.venv/bin/python -m tests.benchmarks.restart_time` trains a small network on a Ray of its own, with one worker and
with two, kills a worker a few times and prints the medians. The log of Ray Train's controller says when it noticed
and how far the new group was; events reach the driver up to half a second late.
"""

import argparse
import json
import logging
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import ray

from cluster.config import JobConfig
from cluster.recipes import Layer, resolve
from cluster.store import open_store
from cluster.training.driver import InSweep, train
from cluster.training.identify import RunSpec
from cluster.training.stop import Stop
from metasr.events import Event
from tests.chaos.killer import send, train_workers
from tests.cluster.patients import OPTIONS, make_volumes, run_prepare
from tests.cluster.training import TINY, places

STEPS_BETWEEN = 100
MILESTONES = {
    "Ray notices": "Attempting to start training worker group",
    "new processes": "worker actors created in",
    "imports, group": "Started training worker group",
}
COLUMNS = (*MILESTONES, "data", "weights, first step", "together")


class Killing:
    """Kills the last worker some steps after each start of a group, and ends training after the last kill.

    Attributes:
        killed, ready, stepped: Unix times of each kill, of data being ready after it, and of the next step.
    """

    def __init__(self, times: int) -> None:
        self.stop = Stop(lambda line: None)
        self.killed: list[float] = []
        self.ready: list[float] = []
        self.stepped: list[float] = []
        self._times, self._kill_at = times, STEPS_BETWEEN

    def see(self, event: Event) -> Mapping[str, float]:
        """Note an event."""
        is_waiting = len(self.stepped) < len(self.killed)
        if event.kind == "group" and is_waiting:
            self.ready.append(time.time())
        elif event.kind == "steps" and is_waiting and len(self.ready) == len(self.killed):
            self.stepped.append(time.time())
            self._kill_at = event.step + STEPS_BETWEEN
        elif event.kind == "steps" and not is_waiting and event.step >= self._kill_at:
            if len(self.killed) == self._times:
                self.stop.request("the benchmark")
            else:
                self.killed.append(time.time())
                send(signal.SIGKILL, train_workers(os.getpid())[-1:])
        return {}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers [1 2]")
    parser.add_argument("--kills", type=int, default=3, help="how often a worker is killed [3]")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    load = os.getloadavg()[0]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load before {load:.1f}; seconds, medians")
    print(f"| workers | {' | '.join(COLUMNS)} | at most |\n|---{'|---' * (len(COLUMNS) + 1)}|")
    with tempfile.TemporaryDirectory() as folder:
        run_prepare(make_volumes(Path(folder) / "patients"), open_store(f"{folder}/data"), OPTIONS)
        for workers in options.workers:
            rows = list(of_training(Path(folder), workers, options.kills))
            medians = [statistics.median(values) for values in zip(*rows, strict=True)]
            cells = " | ".join(f"{value:.1f}" for value in [*medians, max(row[-1] for row in rows)])
            print(f"| {workers} | {cells} |", flush=True)


def of_training(folder: Path, num_workers: int, kills: int) -> Iterator[list[float]]:
    """Train, kill, and return for each kill the seconds of each column."""
    home = folder / f"workers-{num_workers}"
    home.mkdir()
    settings = {
        **TINY,
        **places(home),
        "data.url": folder / "data",
        "resources.num_workers": num_workers,
        "loss.adversarial": 0,
        "train.steps": 100_000,
        "train.log_every_steps": 1,
        "train.checkpoint_every_steps": STEPS_BETWEEN // 4,
    }
    values = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    killing = Killing(kills)
    here = ray.init(address="local", num_cpus=max(2, num_workers), log_to_driver=False, logging_level=logging.ERROR)
    try:
        sweep = InSweep("restart-time", killing.see, killing.stop)
        spec = RunSpec(resolve(JobConfig, [Layer("benchmark", values)]), "restart-time")
        train(spec, lambda line: None, sweep=sweep)
    finally:
        ray.shutdown()
    logged = sorted(controller_log(Path(here.address_info["session_dir"])))
    for killed, ready, stepped in zip(killing.killed, killing.ready, killing.stepped, strict=True):
        times = [killed, *(first_logged(text, logged, killed) for text in MILESTONES.values()), ready, stepped]
        yield [*(after - before for before, after in pairwise(times)), stepped - killed]


def controller_log(session: Path) -> Iterator[tuple[float, str]]:
    """Yield the Unix time and the text of each line that Ray Train's controller logged."""
    for path in session.glob("logs/train/ray-train-sys-controller-*.log"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            logged_at = datetime.strptime(record["asctime"], "%Y-%m-%d %H:%M:%S,%f").astimezone()  # in local time
            yield logged_at.timestamp(), record["message"]


def first_logged(text: str, logged: list[tuple[float, str]], after: float) -> float:
    """Return the time of the first line with a text after a moment."""
    return next(when for when, message in logged if when > after and text in message)


if __name__ == "__main__":
    main()

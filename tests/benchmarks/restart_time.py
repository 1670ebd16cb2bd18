"""Measure what killed workers cost: seconds from SIGKILL to the next step, and the time of a whole training.

`.venv/bin/python -m tests.benchmarks.restart_time` trains a small network on a Ray of its own, with one worker and
with two, kills a worker a few times and prints the medians. The log of Ray Train's controller says when it noticed
and how far the new group was; events reach the driver up to half a second late.

With `--every 300 120 60` it trains the same once more without kills and with one every so many seconds, at moments
that follow from the seed, and prints how much longer that took, and whether the same bits came out. `--minutes` is
about how long the training without kills takes, which should be twice the longest interval. OMP_NUM_THREADS=1.
"""

import argparse
import itertools
import json
import logging
import os
import random
import signal
import statistics
import tempfile
import threading
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
from tests.cluster.training import TINY, checkpoints_of, newest_digest, places

STEPS_BETWEEN = 100
TRIAL_STEPS = 200
CHECKPOINTS = 60  # of a whole training: with 10 minutes, one every 10 s
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


class Striking:
    """Kills a worker in every interval of time, at a moment that follows from the seed, until it is told to end.

    Attributes:
        kills: Workers killed so far.
        reached: The newest step.
        again: Steps done once more.
    """

    def __init__(self, every_s: float, seed: int) -> None:
        self.stop = Stop(lambda line: None)
        self.kills = self.reached = self.again = 0
        self._every_s, self._draw = every_s, random.Random(seed)
        self._over, self._thread = threading.Event(), threading.Thread(target=self._strike, daemon=True)

    def see(self, event: Event) -> Mapping[str, float]:
        """Note how far training is; the first step begins the first interval."""
        if event.kind == "resumed":
            self.again += self.reached - event.step
        elif event.kind == "steps":
            self.reached = event.step
            if self._every_s and not self._thread.ident:
                self._thread.start()
        return {}

    def end(self) -> None:
        """Kill no more."""
        self._over.set()

    def _strike(self) -> None:
        began = time.monotonic()
        for number in itertools.count():
            due = began + self._every_s * (number + self._draw.random())
            place = self._draw.random()
            if self._over.wait(max(0.0, due - time.monotonic())):
                return
            workers = train_workers(os.getpid())
            while not workers and not self._over.wait(1):
                workers = train_workers(os.getpid())  # it is restarting since the last kill
            send(signal.SIGKILL, workers[int(place * len(workers)) :][:1])
            self.kills += bool(workers)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers [1 2]")
    parser.add_argument("--kills", type=int, default=3, help="how often a worker is killed [3]")
    parser.add_argument("--every", type=float, nargs="+", default=[], help="seconds from kill to kill, of a training")
    parser.add_argument("--minutes", type=float, default=10, help="of the training without kills, about [10]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of those kills [0]")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    load = os.getloadavg()[0]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load before {load:.1f}; seconds", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        run_prepare(make_volumes(Path(folder) / "patients"), open_store(f"{folder}/data"), OPTIONS)
        for workers in options.workers:
            if options.every:
                of_whole_trainings(Path(folder), workers, options)
            else:
                of_restarts(Path(folder), workers, options.kills)


def of_restarts(folder: Path, workers: int, kills: int) -> None:
    """Print the table of restarts: medians, and the longest."""
    print(f"| workers | {' | '.join(COLUMNS)} | at most |\n|---{'|---' * (len(COLUMNS) + 1)}|")
    rows = list(of_training(folder, workers, kills))
    medians = [statistics.median(values) for values in zip(*rows, strict=True)]
    cells = " | ".join(f"{value:.1f}" for value in [*medians, max(row[-1] for row in rows)])
    print(f"| {workers} | {cells} |", flush=True)


def of_whole_trainings(folder: Path, workers: int, options: argparse.Namespace) -> None:
    """Print the table of whole trainings: the first without kills."""
    data = folder / "data"
    trial = spec_of(folder / f"{workers}-trial", data, workers, TRIAL_STEPS, TRIAL_STEPS)
    trial_s, _, _ = whole_training(folder / f"{workers}-trial", trial, Striking(0, 0))
    steps = CHECKPOINTS * max(1, round(TRIAL_STEPS * 60 * options.minutes / trial_s / CHECKPOINTS))
    every = steps // CHECKPOINTS
    print(f"{workers} workers, {steps} steps, a checkpoint every {every}, seed {options.seed}\n")
    print("| a kill every | kills | first step to end, s | times | steps again | SHA-256 |\n" + "|---" * 6 + "|")
    without_s, expected = 0.0, ""
    for every_s in (0.0, *options.every):
        striking = Striking(every_s, options.seed)
        home = folder / f"{workers}-{every_s:g}"
        taken_s, digest, step = whole_training(home, spec_of(home, data, workers, steps, every), striking)
        assert step == steps
        without_s, expected = without_s or taken_s, expected or digest
        same = digest[:12] if digest == expected else f"OTHER: {digest[:12]}"
        often = f"{every_s:g} s" if every_s else "never"
        row = [often, striking.kills, f"{taken_s:.0f}", f"{taken_s / without_s:.2f}", striking.again, same]
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def whole_training(home: Path, spec: RunSpec, striking: Striking) -> tuple[float, str, int]:
    """Train to the end while workers are killed; return the seconds from the first step on, digest and step."""
    began: list[float] = []

    def see(event: Event) -> Mapping[str, float]:
        if event.kind == "steps" and not began:
            began.append(time.monotonic())
        return striking.see(event)

    ray.init(
        address="local",
        num_cpus=max(2, spec.config.resources.num_workers),
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        train(spec, lambda line: None, sweep=InSweep("restart-time", see, striking.stop))
    finally:
        striking.end()
        ray.shutdown()
    taken_s = time.monotonic() - began[0]
    step, digest = newest_digest(checkpoints_of(home / "runs"))
    return taken_s, digest, step


def spec_of(home: Path, data: Path, workers: int, steps: int, every: int) -> RunSpec:
    """Return a training of a small network with a home of its own."""
    home.mkdir()
    settings = {
        **TINY,
        **places(home),
        "data.url": data,
        "resources.num_workers": workers,
        "loss.adversarial": 0,
        "train.steps": steps,
        "train.log_every_steps": 1,
        "train.checkpoint_every_steps": every,
    }
    values = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    return RunSpec(resolve(JobConfig, [Layer("benchmark", values)]), "restart-time")


def of_training(folder: Path, num_workers: int, kills: int) -> Iterator[list[float]]:
    """Train, kill, and return for each kill the seconds of each column."""
    spec = spec_of(folder / f"workers-{num_workers}", folder / "data", num_workers, 100_000, STEPS_BETWEEN // 4)
    killing = Killing(kills)
    here = ray.init(address="local", num_cpus=max(2, num_workers), log_to_driver=False, logging_level=logging.ERROR)
    try:
        train(spec, lambda line: None, sweep=InSweep("restart-time", killing.see, killing.stop))
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

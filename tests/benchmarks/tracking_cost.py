"""Measure what MLflow costs a training: with MLflow up, slow and down.

`.venv/bin/python -m tests.benchmarks.tracking_cost` prints two tables, in minutes. First the time of a step: a small
network is trained on Ray as `metasr train` does, by one worker, and logs every step to MLflow; the three take turns.
Then the time of a call of `RunLog.metrics` in the driver, with ten values, and with a picture of 100 KB every tenth
time.
"""

import argparse
import logging
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from cluster.config import JobConfig, TrackingConfig
from cluster.outbox.run_log import RunLog
from cluster.recipes import Layer, resolve
from cluster.runtime.connection import connected
from cluster.store import open_store
from cluster.training.driver import InSweep, train
from cluster.training.identify import RunSpec
from cluster.training.stop import Stop
from metasr.evaluation.pictures import png_bytes
from metasr.events import Event
from tests.cluster.fault_proxy import FaultProxy, Slow
from tests.cluster.patients import OPTIONS, make_volumes, run_prepare
from tests.cluster.tracked import MlflowServer, closed_port
from tests.cluster.training import TINY, places

WARM_UP_STEPS = 20
SLOW_REQUEST_BYTES_PER_S, SLOW_ANSWER_BYTES_PER_S = 20_000, 2_000  # a thousand points of a curve take 4 s to send
NUM_CALLS = 1000
PAUSE_S = 0.01
VALUES = {f"loss_{number}": 0.5 for number in range(10)}


@dataclass
class Turn:
    """The events of a training: seconds of each step, and the time of the last event."""

    step_s: list[float] = field(default_factory=list)
    last_told: float = 0.0

    def see(self, event: Event) -> Mapping[str, float]:
        """Note an event; with `train.log_every_steps` 1, one of steps is one step."""
        if event.kind == "steps" and event.step > WARM_UP_STEPS:
            self.step_s.append(1 / event.values["steps_per_s"])
        self.last_told = time.monotonic()
        return {}


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="trainings with MLflow up, slow and down [2]")
    parser.add_argument("--steps", type=int, default=400, help="steps of each [400]")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, medians of {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder, tracking_servers(Path(folder)) as uris:
        of_steps(uris, Path(folder), options.rounds, options.steps)
        of_calls(uris, Path(folder))


@contextmanager
def tracking_servers(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the URIs of an MLflow that is up, of the same one through a slow line, and of one that is down."""
    server = MlflowServer(folder)
    try:
        with FaultProxy(server.uri, slowed) as proxy:
            yield {"up": server.uri, "slow": proxy.url, "down": f"http://127.0.0.1:{closed_port()}"}
    finally:
        server.kill()


def slowed(number: int, method: str, path: str) -> Slow:
    """Slow down the request where it has a body, else the response."""
    if method == "POST":
        return Slow(SLOW_REQUEST_BYTES_PER_S, in_request=True)
    return Slow(SLOW_ANSWER_BYTES_PER_S)


def of_steps(uris: Mapping[str, str], folder: Path, rounds: int, steps: int) -> None:
    """Train by turns, and print the time of a step for each state of MLflow."""
    run_prepare(make_volumes(folder / "patients"), open_store(str(folder / "data")), OPTIONS)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in uris}
    with connected(cpus=1):
        for number in range(rounds):
            for name, uri in uris.items():
                found[name].append(of_training(uri, folder, f"{name}-{number}", steps))
                print(f"  round {number}, {name}: {cells(found[name][-1])}", flush=True)
    print("| MLflow is | a step, median ms | p99 ms | longest ms | all steps s | last step to end s | not sent |")
    print("|---|---|---|---|---|---|---|")
    for name, turns in found.items():
        print(f"| {name} | {cells([statistics.median(values) for values in zip(*turns, strict=True)])} |")


def of_training(uri: str, folder: Path, name: str, steps: int) -> tuple[float, ...]:
    """Train, with MLflow at `uri`; return its row of the table of steps."""
    home = folder / name
    home.mkdir()
    settings = {
        **TINY,
        **places(home),
        "data.url": folder / "data",
        "tracking.uri": uri,
        "tracking.experiment": name,
        "resources.num_workers": 1,
        "loss.adversarial": 0,  # all steps are of one kind
        "train.steps": steps,
        "train.log_every_steps": 1,
        "train.checkpoint_every_steps": 100,
    }
    values = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    turn = Turn()
    stop = Stop(lambda line: None)
    trained = train(
        RunSpec(resolve(JobConfig, [Layer("benchmark", values)]), "tracking-cost"),
        lambda line: None,
        sweep=InSweep(f"tracking-cost-{name}", turn.see, stop),
    )
    assert trained.step == steps
    assert len(turn.step_s) == steps - WARM_UP_STEPS
    end_s = time.monotonic() - turn.last_told
    cuts = statistics.quantiles(turn.step_s, n=100)
    times_ms = (1000 * value for value in (cuts[49], cuts[98], max(turn.step_s)))
    return (*times_ms, sum(turn.step_s), end_s, float(trained.sent.num_waiting))


def cells(values: tuple[float, ...] | list[float]) -> str:
    """Return numbers as cells of a row."""
    return " | ".join(f"{value:.0f}" if value >= 100 else f"{value:.1f}" for value in values)


def of_calls(uris: Mapping[str, str], folder: Path) -> None:
    """Print the time of a call in the driver, at the pace of a fast run, while the records are being sent."""
    picture = {"val": png_bytes(Image.frombytes("L", (320, 320), random.Random(0).randbytes(320 * 320)))}
    print("| MLflow is | a call, median ms | p99 ms | longest ms | records not sent yet |\n|---|---|---|---|---|")
    for name, uri in uris.items():
        log = RunLog(TrackingConfig(uri=uri, spool=str(folder / "calls")), name, {}, {})
        taken_ms = []
        for step in range(NUM_CALLS):
            begin = time.perf_counter()
            log.metrics(step, VALUES, picture if step % 10 == 0 else None)
            taken_ms.append(1000 * (time.perf_counter() - begin))
            time.sleep(PAUSE_S)
        remaining = log.remaining
        log.close()
        cuts = statistics.quantiles(taken_ms, n=100)
        print(f"| {name} | {cuts[49]:.3f} | {cuts[98]:.3f} | {max(taken_ms):.3f} | {remaining} |", flush=True)


if __name__ == "__main__":
    main()

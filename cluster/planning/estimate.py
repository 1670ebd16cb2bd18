"""What a training will take, from a few steps of it that are really done on the workers asked for.

The steps are those of a run of its own in the storage, which is removed afterwards. MLflow hears nothing of it.
"""

import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cluster.checkpoints import RunCheckpoints
from cluster.config import JobConfig, expand
from cluster.planning.forecast import Estimate, ShortRun, forecast, phases_of
from cluster.preflight import require
from cluster.store import Store, open_store
from cluster.store.lease import LEASE, Lease
from cluster.training.group import train_on_ray
from cluster.training.identify import Prepared, RunSpec, identify, settled
from cluster.training.stop import Stop
from cluster.watch import RunReport
from metasr.errors import TrainingError
from metasr.events import Event

WARM_UP_STEPS = 5


def estimate(spec: RunSpec, tell: Callable[[str], None], *, steps: int = 20) -> Estimate:
    """Train a few steps of each phase, and return what the whole training will take.

    Args:
        spec: That training.
        tell: Called with lines of progress.
        steps: To measure in each phase, at least 2.

    Raises:
        ConfigError: The settings or the machines cannot be used.
        TrainingError: Training failed, or was stopped.
    """
    spec = settled(spec, tell=tell)
    config, identity = spec.config, identify(spec)
    data = require(config, tell)
    began, observer = time.monotonic(), _Recorder()
    run_name = f"estimate-{uuid.uuid4().hex[:12]}"
    short = _short(config, steps)
    short_spec = replace(spec, resolved=replace(spec.resolved, config=short))
    run = Prepared(short_spec, replace(identity, run_name=run_name), data)
    tell(f"training {short.train.steps} steps as {run_name}, which is removed afterwards")
    with removed(short, run_name) as storage, Lease.acquire(storage, run_name, tell) as lease:
        stop = Stop(tell)
        train_on_ray(run, lease, observer, stop)
        wall_s = time.monotonic() - began
    if stop.signal:
        raise TrainingError("the estimate was stopped", f"by {stop.name}", "Run the same command again")
    first_step_s = observer.finish("")["first_step"]["seconds"]
    measured = ShortRun(tuple(observer.events), WARM_UP_STEPS, steps, first_step_s, wall_s)
    return forecast(config, data.store, data.index, measured)


class _Recorder(RunReport):
    """A report that keeps the events."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def see(self, event: Event) -> None:
        """Note an event, and keep it."""
        super().see(event)
        self.events.append(event)


def _short(config: JobConfig, steps: int) -> JobConfig:
    """Return the settings of a run with every phase, each with steps to warm up, and with a checkpoint at its end."""
    phases, length = phases_of(config), WARM_UP_STEPS + steps
    total = length * len(phases)
    train = {
        "steps": total,
        "pixel_only_steps": {"pixel": length, "full": 0}[phases[0].name],
        "checkpoint_every_steps": length,
        "log_every_steps": 1,
    }
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=train),
            "resources": config.resources.model_copy(update={"min_workers": 0, "max_failures": 0}),
        }
    )


@contextmanager
def removed(config: JobConfig, run_name: str) -> Iterator[Store]:
    """Open the storage of a run, and remove all that the run left there and in the spool of this machine."""
    storage = open_store(config.storage.url)
    try:
        yield storage
    finally:
        keys = (*RunCheckpoints(storage, run_name).keys(), f"{run_name}/{LEASE}")
        storage.remove_all(run_name, keys)
        shutil.rmtree(Path(expand(config.storage.spool)) / run_name, ignore_errors=True)

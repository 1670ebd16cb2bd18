"""The runs that there are: what their storage says, completed by what MLflow says."""

from dataclasses import dataclass
from datetime import datetime

from cluster.catalogue.stored import StoredRun, stored_runs
from cluster.catalogue.tracked import TrackedRun, tracked_runs
from cluster.config import StorageConfig, TrackingConfig
from cluster.store import open_store
from metasr.errors import StoreError


@dataclass(frozen=True)
class ListedRun:
    """A run.

    Attributes:
        name: Its name.
        recipe: Name of its recipe, the first part of its own.
        state: running, finished, stopped, failed, damaged.
        step: Of the newest checkpoint; None where its storage is another.
        num_steps: Steps in all; None if unknown.
        gain_db: PSNR gain over bicubic: at the best validation, or as MLflow has it; None if unknown.
        where: URL of its storage; empty where MLflow alone knows it.
        checkpoint_time: When the newest checkpoint was written; None if unknown.
        version: Of the registered model that it has become; empty if none is known.
        forked_from: Checkpoint of another run that it branched off from, as RUN@STEP; empty for none.
        mlflow_run_id: Its id in MLflow; empty if unknown.
        problem: Why it cannot be read; empty if it can.
    """

    name: str
    recipe: str
    state: str
    step: int | None
    num_steps: int | None
    gain_db: float | None
    where: str
    checkpoint_time: datetime | None = None
    version: str = ""
    forked_from: str = ""
    mlflow_run_id: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Listing:
    """The runs, those at work first, then by name; and why some may be missing.

    Attributes:
        runs: Each once.
        problems: What could not be asked, and why.
    """

    runs: tuple[ListedRun, ...]
    problems: tuple[str, ...]


def list_runs(storage: StorageConfig, tracking: TrackingConfig) -> Listing:
    """Return all runs in a storage and in an experiment of MLflow; one of the two may be away.

    Args:
        storage: Where their checkpoints are.
        tracking: Where MLflow is.
    """
    stored, tracked, problems = list[StoredRun](), list[TrackedRun](), list[str]()
    try:
        stored = stored_runs(storage.url)
    except StoreError as error:
        problems.append(str(error))
    try:
        tracked = tracked_runs(tracking)
    except StoreError as error:
        problems.append(str(error))
    return Listing(merged(stored, tracked, open_store(storage.url).url), tuple(problems))


def merged(stored: list[StoredRun], tracked: list[TrackedRun], where: str) -> tuple[ListedRun, ...]:
    """Return each run once, by its name.

    Args:
        stored: In the storage.
        tracked: In MLflow.
        where: URL of the storage.
    """
    told = {run.name: run for run in tracked}
    runs = [_stored(run, told.pop(run.name, None), where) for run in stored]
    runs += [_tracked(run) for run in told.values()]
    return tuple(sorted(runs, key=lambda run: (run.state != "running", run.name)))


def _stored(run: StoredRun, told: TrackedRun | None, where: str) -> ListedRun:
    has_failed = told is not None and told.state == "failed" and run.state == "stopped"
    gain = run.gain_db if run.gain_db is not None or told is None else told.gain_db
    return ListedRun(
        run.name,
        _recipe(run.name),
        "failed" if has_failed else run.state,
        run.step,
        run.num_steps if run.num_steps is not None or told is None else told.num_steps,
        gain,
        where,
        run.checkpoint_time,
        told.version if told else "",
        run.forked_from,
        told.run_id if told else "",
        run.problem,
    )


def _tracked(run: TrackedRun) -> ListedRun:
    """Return a run of which MLflow alone knows: whether it is at work, its own storage would say."""
    return ListedRun(
        run.name,
        _recipe(run.name),
        run.state,
        None,
        run.num_steps,
        run.gain_db,
        "",
        version=run.version,
        mlflow_run_id=run.run_id,
    )


def _recipe(name: str) -> str:
    return name.rpartition("-")[0]

"""The runs and versions that MLflow knows, in as few requests as there are pages."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.config import TrackingConfig, expand
from cluster.tracking import VERSION_TAG, connect, explained
from metasr.errors import StoreError

EVALUATED, VALIDATED = "evaluation/gain_psnr_db", "val_psnr_gain"
STATES = {"RUNNING": "running", "FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped"}
PAGE = 200


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow.

    Attributes:
        run_id: Its id there.
        name: Its name.
        state: running, finished, failed or stopped.
        num_steps: Steps in all; None for what is no training, such as a sweep.
        gain_db: PSNR gain over bicubic: as evaluated, else at the newest validation; None if unknown.
        version: Of the model that it was registered as; empty for none.
        began: When it was started.
    """

    run_id: str
    name: str
    state: str
    num_steps: int | None
    gain_db: float | None
    version: str
    began: datetime


def require_there(config: TrackingConfig) -> None:
    """Raise StoreError where the database of MLflow does not exist: to look at it would make it.

    Raises:
        StoreError: It does not.
    """
    uri = expand(config.uri)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise StoreError(f"MLflow at {uri}", "there is no database yet", "The first training makes it")


def tracked_runs(config: TrackingConfig) -> list[TrackedRun]:
    """Return the trainings of an experiment.

    Raises:
        StoreError: MLflow does not answer, or refuses.
    """
    require_there(config)
    client = connect(config)
    with explained(expand(config.uri)):
        experiment = client.get_experiment_by_name(config.experiment)
        found = [] if experiment is None else _pages(client.search_runs, [experiment.experiment_id])
        runs = [_tracked(run) for run in found]
    return [run for run in runs if run.num_steps is not None]


def _pages(search: Any, experiments: list[str]) -> Iterator[Any]:
    token = None
    while True:
        page = search(experiments, max_results=PAGE, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _tracked(run: Any) -> TrackedRun:
    params = run.data.params
    is_sweep = any(name.startswith("search.") for name in params)
    steps = "" if is_sweep else params.get("train.steps", "")
    metrics = run.data.metrics
    return TrackedRun(
        run.info.run_id,
        run.info.run_name,
        STATES.get(run.info.status, run.info.status.lower()),
        int(steps) if steps.isdigit() else None,
        metrics.get(EVALUATED, metrics.get(VALIDATED)),
        run.data.tags.get(VERSION_TAG, ""),
        datetime.fromtimestamp(run.info.start_time / 1000, UTC),
    )

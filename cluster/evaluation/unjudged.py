"""The page of a run without an evaluation: what MLflow knows of its training."""

from pathlib import Path

from cluster.command import command
from cluster.config import JobConfig
from cluster.evaluation.page import CURVES
from cluster.tracking import Run, connect, id_of_run
from metasr.report.run_page import RunReport, write_run_report


def write_unjudged(path: Path, name: str, config: JobConfig) -> bool:
    """Write the learning curves of a run; return False where MLflow has no run of this name.

    Args:
        path: Of the page.
        name: Of the run.
        config: Where MLflow and the checkpoints are.

    Raises:
        StoreError: MLflow cannot be reached.
    """
    run_id = id_of_run(connect(config.tracking), config.tracking, name)
    if not run_id:
        return False
    run = Run(config.tracking, run_id)
    found = [("Evaluate it:", command("evaluate", name, storage=config.storage, tracking=config.tracking))]
    state = run.status().lower()
    if state != "finished":
        resumed = command("train", "--resume", name, storage=config.storage, tracking=config.tracking)
        found.insert(0, ("Go on with it:", resumed))
    write_run_report(path, RunReport(name, state, run.history(CURVES), found))
    return True

"""Who learns of a run's events when one of those who listen fails."""

import json
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from cluster.outbox.run_log import RunLog
from cluster.training.observers import OUTCOME, REPORT, Observers
from metasr.events import Event

EVENTS = (
    Event("group", 0, {"num_workers": 1}),
    Event("resumed", 0),
    Event("steps", 2, {"loss_total": 0.5, "steps_per_s": 1.0}),
    Event("warning", 2, text="a shard is slow"),
    Event("steps", 4, {"loss_total": 0.25, "steps_per_s": 1.0}),
)


@pytest.fixture
def closed_terminal():
    """One whose reader has gone, such as `head`."""
    reader, writer = os.pipe()
    os.close(reader)
    terminal = os.fdopen(writer, "w")
    yield terminal
    with suppress(BrokenPipeError):
        terminal.close()


@pytest.fixture
def told_to_mlflow(config, client, tmp_path):
    """Have observers see a run; return its run in MLflow, its losses by step, and its report."""

    def see_all(tell, **options):
        with RunLog(config.model_copy(update={"spool": str(tmp_path / "spool")}), "run", {}, {}) as records:
            observers = Observers(records, 4, tell, **options)
            for event in EVENTS:
                observers.see(event)
            assert observers.finish("FINISHED", "finished") == 0
        experiment = client.get_experiment_by_name(config.experiment)
        (run,) = client.search_runs([experiment.experiment_id])
        losses = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "loss/total")}
        report = json.loads(Path(client.download_artifacts(run.info.run_id, REPORT, tmp_path)).read_text())
        return run, losses, report

    return see_all


@pytest.mark.parametrize("has_bar", [False, True], ids=["lines", "a bar"])
def test_a_terminal_that_was_closed_takes_nothing_from_mlflow(closed_terminal, told_to_mlflow, has_bar, caplog):
    options = {"terminal": closed_terminal} if has_bar else {}
    run, losses, report = told_to_mlflow(partial(print, file=closed_terminal, flush=True), **options)
    assert losses == {2: 0.5, 4: 0.25}
    assert (run.info.status, run.data.tags[OUTCOME], report["steps"]["to"]) == ("FINISHED", "finished", 4)
    assert [record.getMessage() for record in caplog.records if "terminal" in record.getMessage()] == [
        "the terminal fails, and training continues without it: [Errno 32] Broken pipe"
    ]


def test_a_sweep_that_fails_takes_nothing_from_anybody_else(told_to_mlflow, caplog):
    said = []
    _, losses, report = told_to_mlflow(said.append, see_in_sweep=lambda event: {}[event.kind])
    assert losses == {2: 0.5, 4: 0.25}
    assert report["steps"]["to"] == 4
    assert any("step 4/4" in line for line in said)
    assert sum("the sweep fails" in record.getMessage() for record in caplog.records) == 1

"""What must hold of a simulated run, whatever happened to it."""

import tempfile
from pathlib import Path

from mlflow import MlflowClient

from cluster.checkpoints import RunCheckpoints
from cluster.checkpoints.run import LEDGER
from cluster.store import open_store
from tests.simulation.data import State, expected


def check(run, seen) -> dict[str, bool]:
    """Return whether each invariant holds, by name."""
    wanted, numbers = expected(run.data, run.steps)
    store = open_store(run.storage_url)
    checkpoints = RunCheckpoints(store, run.name)
    entries, state = checkpoints.entries(), State(run.data)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.fetch(entries[0], Path(folder))
        state.load(Path(folder))
    scores = {entry.step: entry.score for entry in entries}
    epochs = run.steps // run.data.steps_an_epoch
    named = set(checkpoints.keys()) - {f"{run.name}/{LEDGER}"}
    there = {key for key in store.all_keys() if "/step-" in key}
    return {
        "the newest checkpoint is that of the last step": entries[0].step == state.step == run.steps,
        "every step counts once, with its samples in their order": state.chain == wanted.chain,
        "every sample was seen once in each epoch": bool((state.seen == epochs).all()),
        "the best checkpoint of the run is kept": _best(run, numbers) in scores.items(),
        "the store holds what the ledger names, and nothing else": named == there,
        "the run is finished in its ledger": checkpoints.finished() == {"step": str(run.steps)},
        "each driver's fence is higher than the one before": seen.fences == sorted(set(seen.fences)),
        "who asks for the run while it is driven is refused": seen.rivals == seen.rivals_refused,
        "who was frozen finds its lease lost": all(seen.woken_lost),
        "who was frozen changes nothing, and its workers stop": all(seen.woken_refused),
        "MLflow has each step, once, with the right number": _curve(run) == numbers,
        "MLflow has one run, and it is finished": _statuses(run) == ["FINISHED"],
        "no record waits at the end": seen.waiting_at_end == 0,
    }


def _best(run, numbers):
    """Return step and score of the best checkpoint."""
    steps = [step for step in numbers if step % run.checkpoint_every == 0 or step == run.steps]
    best = max(steps, key=lambda step: (numbers[step], step))
    return best, numbers[best]


def _runs(run):
    client = MlflowClient(tracking_uri=run.tracking.uri)
    experiment = client.get_experiment_by_name(run.tracking.experiment)
    return client, client.search_runs([experiment.experiment_id])


def _statuses(run):
    return [one.info.status for one in _runs(run)[1]]


def _curve(run):
    """Return the loss of each step: None where a step that was done again had another."""
    client, runs = _runs(run)
    curve = {}
    for point in client.get_metric_history(runs[0].info.run_id, "loss/total"):
        curve[point.step] = point.value if curve.get(point.step, point.value) == point.value else None
    return curve

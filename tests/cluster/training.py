"""Small trainings, as a person runs them: a process of its own, which can be killed and started again."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from mlflow import MlflowClient

from cluster.checkpoints import RunCheckpoints
from cluster.compare.states import state_digest
from cluster.config import JobConfig, TrackingConfig
from cluster.recipes import Layer, resolve
from cluster.registry import Registry
from cluster.store import open_store
from cluster.stream import ShardCrops, read_index, validation_slices
from metasr.context import LocalContext
from metasr.identity import RunIdentity
from metasr.inference.bundle import load_bundle
from metasr.training.loop import TrainingData, fit
from tests.cluster.tracked import empty_database
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
TINY = {
    "model.num_features": 8,
    "model.num_blocks": 1,
    "data.patch_px": 32,
    "train.scale_max": 2.0,
    "train.batch_size": 4,
    "train.log_every_steps": 10,
    "train.keep_checkpoints": 2,
    "loss.perceptual": 0,
    "eval.scales": [1.5, 2.0],
    "eval.validation_slices": 1,
}


def flags(values):
    return [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def places(home):
    return {
        "storage.url": home / "runs",
        "storage.spool": home / "spool",
        "storage.cache": home / "cache",
        "tracking.uri": f"sqlite:///{home}/mlflow.db",
        "tracking.artifacts": home / "artifacts",
        "tracking.spool": home / "records",
    }


def arguments_of(home, store_url, settings):
    recipe = home / "tiny.yaml"
    recipe.write_text("train:\n  steps: 1\n")
    return ["--recipe", recipe, *flags({"data.url": store_url, **places(home), **TINY, **settings})]


def with_database(home, settings):
    """Put an empty tracking database where a home has none, unless the settings name one."""
    if "tracking.uri" not in settings and not (home / "mlflow.db").exists():
        empty_database(home / "mlflow.db")


def start_training(home, store_url, settings, **environment):
    with_database(home, settings)
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, ROOT / "jobs" / "train.py", *arguments_of(home, store_url, settings)],
        cwd=home,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_to_end(home, store_url, settings, code=0, **environment):
    process = start_training(home, store_url, settings, **environment)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, output
    return output


def line_with(process, text):
    """Wait for a line of a process's output that has `text`, and return it."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError("".join(seen))


def lines_with(process, *texts):
    """Wait until there was a line with each of the texts, in any order, and return all lines so far."""
    seen = []
    while missing := [text for text in texts if not any(text in line for line in seen)]:
        line = process.stdout.readline()
        assert line, f"no line with {missing[0]!r}\n{''.join(seen)}"
        seen.append(line)
    return seen


def train_locally(home, store_url, settings):
    """Train the same without Ray, one process and no interruption; return the folder of its last checkpoint."""
    config = resolve(JobConfig, [Layer("test", {**TINY, **settings})]).config
    store = open_store(store_url)
    index = read_index(store)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        held_out = validation_slices(store, index, config.eval.validation_slices)
        state = fit(
            config,
            TrainingData(ShardCrops(store, index), index.mean, index.std, held_out),
            RunIdentity("local", "", store_url, index.digest()),
            LocalContext(home / "local"),
        )
    finally:
        torch.set_num_threads(threads)
    return home / "local" / f"step-{state.step}"


def checkpoints_of(storage):
    """Return the checkpoints of the one run in a folder of runs."""
    (ledger,) = storage.glob("*/checkpoints.json")
    return RunCheckpoints(open_store(str(storage)), ledger.parent.name)


def newest_digest(checkpoints):
    """Return the step of the newest checkpoint, and one SHA-256 of all that training has made by then."""
    newest = checkpoints.entries()[0]
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.fetch(newest, Path(folder))
        return newest.step, state_digest(Path(folder))


def only_run(home, uri=""):
    client = MlflowClient(uri or f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert len(runs) == 1
    return client, runs[0]


def registered(home):
    """The newest registered bundle."""
    tracking = TrackingConfig(uri=f"sqlite:///{home}/mlflow.db", artifacts=str(home / "artifacts"))
    with tempfile.TemporaryDirectory() as download:
        return load_bundle(Registry(tracking).locate("challenger", Path(download)).folder, torch.device("cpu"))


def changed(config, section, **values):
    """Return the config with other values in a section."""
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})

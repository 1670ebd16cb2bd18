"""Runs in a storage as training leaves them there, without a step of training."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from cluster.checkpoints import RunCheckpoints
from cluster.config import JobConfig, portable
from cluster.recipes import Layer, resolve
from cluster.store import open_store
from cluster.training.identify import RunSpec, identify
from metasr.inference.bundle import save_bundle
from metasr.training.state import TrainingState
from tests.cluster.training import TINY, places


def store_run(home, store_url, settings=(), *, recipe="tiny", steps=(2, 4), score=0.25, initial="", finished=None):
    """Put checkpoints of a run into the storage of a home; return the run's name.

    Args:
        home: Folder with everything.
        store_url: Its data.
        settings: Other than those of TINY, by dotted name.
        recipe: Name of its recipe.
        steps: Of its checkpoints.
        score: Of each checkpoint.
        initial: SHA-256 of the bundle that it started from.
        finished: What its ledger notes at the end.
    """
    own = {name: str(value) for name, value in places(home).items()}
    values = {**TINY, "train.steps": 8, "data.url": store_url, **own, **dict(settings)}
    resolved = resolve(JobConfig, [Layer("test", values)])
    identity = identify(RunSpec(resolved, recipe))
    if initial:
        identity = replace(identity, run_name=_named(resolved, recipe, identity, initial), initial_bundle=initial)
    config = portable(resolved.config)
    checkpoints = RunCheckpoints(open_store(config.storage.url), identity.run_name).claim(1)
    state = TrainingState.initial(config, torch.device("cpu"), mean=0.5, std=0.2)
    for step in steps:
        state.step = step
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            metrics = {"val_psnr_gain": score}
            save_bundle(folder / "bundle", state.generator, config, identity, step=step, metrics=metrics)
            state.save(folder, config, identity)
            checkpoints.publish(folder, step, score, keep=3)
    if finished is not None:
        checkpoints.finish(finished)
    return identity.run_name


def _named(resolved, recipe, identity, initial):
    from cluster.training.naming import run_name

    return run_name(resolved.config, recipe, identity.data_digest, initial)

"""A run that branches off from another: it begins with a whole checkpoint of that one, under its own settings."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cluster.checkpoints import RunCheckpoints, SavedCheckpoint
from cluster.config import JobConfig
from cluster.store import Store
from metasr.config import ModelConfig
from metasr.errors import ConfigError
from metasr.manifest import unseal

BUNDLE = "bundle"


class Fork(NamedTuple):
    """Where a run branches off. Networks, optimisers, step and log are those that the other had there.

    Attributes:
        run_name: Name of the other run.
        step: Of the checkpoint.
    """

    run_name: str
    step: int

    def __str__(self) -> str:
        return f"{self.run_name}@{self.step}"

    @classmethod
    def parse(cls, text: str) -> "Fork":
        """Return what RUN@STEP says.

        Raises:
            ConfigError: It says nothing.
        """
        found = re.fullmatch(r"(?P<run>[^@/]+)@(?P<step>\d+)", text)
        if found is None:
            raise ConfigError(
                f"cannot branch off from {text}", "it is not RUN@STEP", "Write it as brats-0123456789@500"
            )
        return cls(found["run"], int(found["step"]))

    def require_steps(self, steps: int) -> None:
        """Raise ConfigError where a run that ends after this many steps would train nothing."""
        if self.step >= steps:
            why = f"train.steps is {steps}: nothing would be trained"
            raise ConfigError(f"cannot branch off from {self}", why, "Raise train.steps, where the branch ends")


def find(storage: Store, fork: Fork) -> SavedCheckpoint:
    """Return the checkpoint that a run branches off from.

    Raises:
        ConfigError: There is no such checkpoint.
        StoreError: The store is away or refuses.
    """
    entries = RunCheckpoints(storage, fork.run_name).entries()
    for kept in entries:
        if kept.step == fork.step:
            return kept
    steps = ", ".join(str(kept.step) for kept in entries)
    why = f"it has checkpoints of steps {steps}" if entries else f"{storage.url} has no checkpoint of it"
    raise ConfigError(f"cannot branch off from {fork}", why, "Name a run of this storage and a step that it kept")


def branch_off(storage: Store, fork: Fork, checkpoints: RunCheckpoints, config: JobConfig) -> None:
    """Give a run the checkpoint that it branches off from; one that has checkpoints of its own is left as it is.

    The copy has no score and no bundle: what the other run came to is never taken for this one's best. The average of
    its generator goes on where both runs keep one (`optim.ema_decay`); otherwise it begins here, or ends.

    Args:
        storage: Of both runs.
        fork: The other run, and a step of which it has a checkpoint.
        checkpoints: Of this run, claimed.
        config: Settings of this run.

    Raises:
        ConfigError: There is no such checkpoint, or it is of another network.
        CheckpointError: It is damaged.
        StoreError: The store is away or refuses.
    """
    if checkpoints.entries():
        return
    kept = find(storage, fork)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        RunCheckpoints(storage, fork.run_name).fetch(kept, folder)
        require_same_network(unseal(folder, "checkpoint")["config"]["model"], config, f"branch off from {fork}")
        shutil.rmtree(folder / BUNDLE, ignore_errors=True)
        checkpoints.publish(folder, kept.step, None, keep=config.train.keep_checkpoints)


def require_same_network(model: Mapping[str, Any], config: JobConfig, what: str) -> None:
    """Raise ConfigError where weights are those of another network than the one to train.

    Args:
        model: Settings of the network that they are of.
        config: Of the training.
        what: What cannot be done then.
    """
    theirs = ModelConfig.model_validate(model)
    for name, ours in config.model:
        if getattr(theirs, name) != ours:
            raise ConfigError(
                f"cannot {what}",
                f"its model.{name} is {getattr(theirs, name)}, not {ours}",
                "Train the same network, or start from random weights",
            )

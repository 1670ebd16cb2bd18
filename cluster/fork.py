"""A run that branches off from another: it begins with a whole checkpoint of that one, under its own settings."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from cluster.checkpoints import Kept, RunCheckpoints
from cluster.store import Store
from metasr.errors import ConfigError

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


def find(storage: Store, fork: Fork) -> Kept:
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


def branch_off(storage: Store, fork: Fork, checkpoints: RunCheckpoints, keep: int) -> None:
    """Give a run the checkpoint that it branches off from; one that has checkpoints of its own is left as it is.

    The copy has no score and no bundle: what the other run came to is never taken for this one's best.

    Args:
        storage: Of both runs.
        fork: The other run, and a step of which it has a checkpoint.
        checkpoints: Of this run, claimed.
        keep: How many checkpoints stay.

    Raises:
        ConfigError: There is no such checkpoint.
        CheckpointError: It is damaged.
        StoreError: The store is away or refuses.
    """
    if checkpoints.entries():
        return
    kept = find(storage, fork)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        RunCheckpoints(storage, fork.run_name).fetch(kept, folder)
        shutil.rmtree(folder / BUNDLE, ignore_errors=True)
        checkpoints.publish(folder, kept.step, None, keep=keep)

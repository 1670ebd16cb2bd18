"""The runs in a storage, as their ledgers, leases and newest checkpoints describe them. Nothing is changed."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from cluster.checkpoints import RunCheckpoints, SavedCheckpoint
from cluster.checkpoints.begun import describe
from cluster.checkpoints.ledger import REGISTERED, best_of
from cluster.checkpoints.run import LEDGER
from cluster.store import DamagedError, NotThereError, Store, UnavailableError, open_store
from cluster.store.lease import is_driven
from metasr.errors import CheckpointError, FormatError, StoreError
from metasr.manifest import MANIFEST

PARALLEL = 16
GAIN = "val_psnr_gain"
BUNDLE = f"bundle/{MANIFEST}"


@dataclass(frozen=True)
class StoredRun:
    """A run in a storage.

    Attributes:
        name: Its name.
        state: finished; running: a driver is at work on it; stopped; damaged.
        step: Of the newest checkpoint, 0 without one.
        num_steps: Steps in all; None if no checkpoint says.
        gain_db: PSNR gain over bicubic of the best checkpoint, mean over its validation's scales; None if unknown.
        checkpoint_time: When the newest checkpoint was written.
        registered_as: The model that it was registered as, at its end; empty for none.
        forked_from: Checkpoint of another run that it branched off from, as RUN@STEP; empty for none.
        problem: Why it cannot be read; empty if it can.
    """

    name: str
    state: str
    step: int = 0
    num_steps: int | None = None
    gain_db: float | None = None
    checkpoint_time: datetime | None = None
    registered_as: str = ""
    forked_from: str = ""
    problem: str = ""


def stored_runs(storage_url: str) -> list[StoredRun]:
    """Return the runs in a storage, by name.

    Raises:
        StoreError: The store is away or refuses.
    """
    store = open_store(storage_url)
    with ThreadPoolExecutor(PARALLEL) as threads:
        found = list(threads.map(lambda name: _look_at(store, name), store.names()))
    return [run for run in found if run is not None]


def _look_at(store: Store, name: str) -> StoredRun | None:
    """Return the run of a name; None if that is no run."""
    if not store.exists(f"{name}/{LEDGER}"):
        return None
    checkpoints = RunCheckpoints(store, name)
    try:
        entries, done = checkpoints.entries(), checkpoints.finished()
        newest = entries[0] if entries else None
        begun = describe(store, name, newest) if newest else None
        is_running = not done and bool(is_driven(store, name, lambda line: None))
        return StoredRun(
            name,
            "finished" if done else "running" if is_running else "stopped",
            step=int(done["step"]) if done else newest.step if newest else 0,
            num_steps=begun.settings.get("train", {}).get("steps") if begun else None,
            gain_db=_gain(store, name, best_of(entries)),
            checkpoint_time=store.written(f"{name}/{newest.folder}/{MANIFEST}") if newest else None,
            registered_as=done.get(REGISTERED, "") if done else "",
            forked_from=begun.forked_from if begun else "",
        )
    except UnavailableError:
        raise
    except (CheckpointError, FormatError, StoreError) as error:
        return StoredRun(name, "damaged", problem=str(error))


def _gain(store: Store, name: str, best: SavedCheckpoint | None) -> float | None:
    """Return what the bundle of the best checkpoint says of its validation."""
    if best is None or BUNDLE not in best.files:
        return None
    known = best.files[BUNDLE]
    try:
        content = store.get(f"{name}/{best.folder}/{BUNDLE}", sha256=known.sha256, num_bytes=known.num_bytes)
        return float(json.loads(content)["about"]["metrics"][GAIN])
    except (DamagedError, NotThereError, ValueError, LookupError, TypeError):
        return None

"""A run that has begun, as its newest checkpoint describes it: with that, it goes on without its settings."""

import difflib
import json
from dataclasses import dataclass
from typing import Any

from cluster.checkpoints.ledger import SavedCheckpoint
from cluster.checkpoints.run import LEDGER, RunCheckpoints
from cluster.store import DamagedError, NotThereError, Store, open_store
from metasr.errors import CheckpointError, ConfigError
from metasr.formats import require_format
from metasr.manifest import MANIFEST


@dataclass(frozen=True)
class Begun:
    """What a checkpoint says of its run.

    Attributes:
        run_name: Its name.
        storage_url: Where it was found.
        step: Of the checkpoint.
        settings: Its settings, by section.
        data_digest: SHA-256 of the data's index.
        initial_bundle: SHA-256 of the bundle whose weights it started from; empty for none.
        forked_from: Checkpoint of another run that it branched off from, as RUN@STEP; empty for none.
    """

    run_name: str
    storage_url: str
    step: int
    settings: dict[str, Any]
    data_digest: str
    initial_bundle: str = ""
    forked_from: str = ""

    @property
    def recipe(self) -> str:
        """Name of its recipe, the first part of its own."""
        return self.run_name.rpartition("-")[0]


def find_begun(reference: str, storage_url: str) -> Begun:
    """Return what a run is made from.

    Args:
        reference: URL or folder of a run, or its name in `storage_url`.
        storage_url: Storage of runs that are given by name.

    Raises:
        ConfigError: There is no such run, or it has no checkpoint.
        CheckpointError: None of its checkpoints can be read.
        StoreError: The store is away or refuses.
    """
    parent, slash, name = reference.rstrip("/").rpartition("/")
    store = open_store(parent + slash if slash else storage_url)
    entries = RunCheckpoints(store, name).entries()
    if not entries:
        raise _missing(store, name)
    for kept in entries:
        if begun := describe(store, name, kept):
            return begun
    raise CheckpointError(f"run {name} in {store.url}", "none of its checkpoints can be read", "Restore a copy")


def describe(store: Store, run_name: str, kept: SavedCheckpoint) -> Begun | None:
    """Return what a checkpoint says of its run, by its manifest alone; None if that is damaged.

    Raises:
        FormatError: A later version of the program wrote it.
        StoreError: The store is away or refuses.
    """
    known = kept.files.get(MANIFEST)
    if known is None:
        return None
    key = f"{run_name}/{kept.folder}/{MANIFEST}"
    try:
        content = json.loads(store.get(key, sha256=known.sha256, num_bytes=known.num_bytes))
        require_format(content, f"the checkpoint of step {kept.step} of run {run_name}")
        about = content["about"]
        return Begun(
            run_name,
            store.url,
            kept.step,
            dict(about["config"]),
            about["data_digest"],
            about.get("initial_bundle", ""),
            about.get("forked_from", ""),
        )
    except (DamagedError, NotThereError, ValueError, LookupError, TypeError):
        return None


def _missing(store: Store, name: str) -> ConfigError:
    if store.exists(f"{name}/{LEDGER}"):
        why, fix = "it has no checkpoint yet", "Give it the settings that it began with: the same command goes on"
        return ConfigError(f"run {name}", why, fix)
    close = [one for one in difflib.get_close_matches(name, store.names()) if store.exists(f"{one}/{LEDGER}")]
    hint = f"Did you mean {close[0]}?" if close else "`metasr runs` lists them; --storage.url says where they are"
    return ConfigError(f"run {name}", f"there is no such run in {store.url}", hint)

"""The page of a sweep that is in the store, as it is now: also of one that has not ended."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from cluster.config import JobConfig
from cluster.store import open_store
from cluster.sweep.ledger import FOLDER, LEDGER, read_ledger
from cluster.sweep.record import SweepRecord


def stored_sweep(config: JobConfig, name: str) -> SweepRecord | None:
    """Return the record of a sweep by its name; None if the storage has none.

    Raises:
        MetaSRError: The store cannot be reached, or the ledger is damaged.
    """
    stored, _ = read_ledger(open_store(config.storage.url), f"{FOLDER}/{name}/{LEDGER}")
    return stored.record if stored else None


def write_sweep_page(path: Path, config: JobConfig, record: SweepRecord, tell: Callable[[str], None]) -> None:
    """Write the page of a sweep to a file, with pictures of its best trial if there is one."""
    from cluster.sweep.outcome import best_pictures
    from cluster.sweep.page import write_page

    pictures = best_pictures(config, record.best, tell) if record.best else {}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(write_page(Path(folder), record, pictures), path)

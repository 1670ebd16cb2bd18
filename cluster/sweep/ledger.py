"""The ledger of a sweep: its record in the store, kept by one driver at a time."""

from contextlib import suppress

from pydantic import ValidationError

from cluster.checkpoints import SupersededError
from cluster.store import AlreadyThereError, ChangedError, NotThereError, Store, Version
from cluster.sweep.record import SweepRecord, Trial
from metasr.config import Section
from metasr.errors import StoreError

LEDGER = "trials.json"


class Kept(Section):
    """What `trials.json` says. No content of it ever comes again."""

    revision: int
    """Changes so far."""
    fence: int
    """Of the driver that may change it."""
    record: SweepRecord


class Ledger:
    """Remembers trials, in the store before anybody acts on it. It changes by compare-and-set alone.

    Args:
        store: Where runs keep their checkpoints.
        folder: Of the sweep, in the store.
        fence: `Lease.fence` of this driver: who had a lower one can change it no more.
        fresh: The sweep, if there is nothing of it yet.

    Attributes:
        record: What is in the store.
    """

    def __init__(self, store: Store, folder: str, fence: int, fresh: SweepRecord) -> None:
        self._store, self._key, self._fence = store, f"{folder}/{LEDGER}", fence
        self.record = fresh
        self._change(None)

    def put(self, trial: Trial) -> None:
        """Remember a trial, in place of the one of its number.

        Raises:
            SupersededError: Another driver has taken the sweep over.
            StoreError: The store is away or refuses.
        """
        self._change(trial)

    def _change(self, trial: Trial | None) -> None:
        while True:
            kept, version = read_ledger(self._store, self._key)
            if kept is not None and kept.fence > self._fence:
                raise SupersededError("this sweep has stopped here", "another driver has taken it over")
            record = kept.record if kept else self.record
            if trial is not None:
                others = (known for known in record.trials if known.number != trial.number)
                trials = sorted((*others, trial), key=lambda one: one.number)
                record = record.model_copy(update={"trials": tuple(trials)})
            new = Kept(revision=kept.revision + 1 if kept else 1, fence=self._fence, record=record)
            with suppress(AlreadyThereError, ChangedError):  # by another, or by us and the answer was lost
                self._write(new, version)
                self.record = record
                return

    def _write(self, kept: Kept, version: Version | None) -> None:
        content = (kept.model_dump_json(indent=1) + "\n").encode()
        if version is None:
            self._store.put_new(self._key, content)
        else:
            self._store.replace(self._key, content, version)


def read_ledger(store: Store, key: str) -> tuple[Kept | None, Version | None]:
    """Return what a ledger says; nothing where there is none.

    Raises:
        StoreError: It is damaged.
    """
    try:
        content, version = store.get_with_version(key)
        return Kept.model_validate_json(content), version
    except NotThereError:
        return None, None
    except ValidationError:
        raise StoreError(
            f"the trials {key!r} in {store.url}",
            "they are damaged, or were written by another version",
            "Restore the file from a copy, or delete it: trials that are trained are not trained again",
        ) from None

"""The ledger of a sweep: all its trials in the store, written by one driver at a time."""

from contextlib import suppress

from cluster.checkpoints import SupersededError
from cluster.store import ChangedError, NotThereError, Store, Version
from cluster.sweep.record import SweepRecord, Trial, from_document, to_document
from metasr.config import Section

FOLDER, LEDGER = "sweeps", "trials.json"
"""Where sweeps are in the store, and the name of the ledger in the folder of each."""


class StoredTrials(Section):
    """The content of `trials.json`. The revision makes each content unique."""

    revision: int
    """Changes so far."""
    fence: int
    """Of the driver that may change it."""
    record: SweepRecord


class TrialLedger:
    """Stores trials by compare-and-set, each before anything acts on it.

    Args:
        store: Where runs keep their checkpoints.
        folder: Of the sweep, in the store.
        fence: `Lease.fence` of this driver: drivers with a lower one can no more write.
        new_record: Of the sweep, if the store has none yet.

    Attributes:
        record: What is in the store.
    """

    def __init__(self, store: Store, folder: str, fence: int, new_record: SweepRecord) -> None:
        self._store, self._key, self._fence = store, f"{folder}/{LEDGER}", fence
        self.record = new_record
        self._change(None)

    def put(self, trial: Trial) -> None:
        """Store a trial, in place of the one with its number.

        Raises:
            SupersededError: Another driver has taken the sweep over.
            StoreError: The store is away or refuses.
        """
        self._change(trial)

    def _change(self, trial: Trial | None) -> None:
        while True:
            stored, version = read_ledger(self._store, self._key)
            if stored is not None and stored.fence > self._fence:
                raise SupersededError("this sweep has stopped here", "another driver has taken it over")
            record = stored.record if stored else self.record
            if trial is not None:
                others = (other for other in record.trials if other.number != trial.number)
                trials = sorted((*others, trial), key=lambda one: one.number)
                record = record.model_copy(update={"trials": tuple(trials)})
            new = StoredTrials(revision=stored.revision + 1 if stored else 1, fence=self._fence, record=record)
            with suppress(ChangedError):  # by another, or by us and the answer was lost
                self._store.swap(self._key, to_document(new).encode(), version)
                self.record = record
                return


def read_ledger(store: Store, key: str) -> tuple[StoredTrials | None, Version | None]:
    """Return the content of a ledger and its version; None where there is no ledger.

    Raises:
        FormatError: A later version of the program wrote it.
        StoreError: It is damaged.
    """
    try:
        content, version = store.get_with_version(key)
        return from_document(StoredTrials, content, f"{key} in {store.url}"), version
    except NotThereError:
        return None, None

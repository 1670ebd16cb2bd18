"""A run's checkpoints in a store: published whole, found again, verified, with the one before as the fall-back."""

import logging
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from cluster.checkpoints.ledger import (
    Claim,
    Ledger,
    SavedCheckpoint,
    SupersededError,
    best_of,
    comparable,
    files_of,
    superseded,
)
from cluster.store import (
    ChangedError,
    DamagedError,
    NotThereError,
    Store,
    StoreWait,
    UnavailableError,
    Version,
    wait_for_store,
)
from metasr.errors import CheckpointError, StoreError
from metasr.formats import require_known_format
from metasr.manifest import MANIFEST

log = logging.getLogger(__name__)

LEDGER = "checkpoints.json"
PARALLEL_FILES = 4


class RunCheckpoints:
    """The checkpoints of a run: `<run>/checkpoints.json`, the ledger, and `<run>/step-<n>-<claim>/<files>`.

    The ledger alone says what there is, and changes only by compare-and-set. Every file in the store is named in it,
    also those that a killed process left half-written: the next `publish` removes them.

    Args:
        store: Where.
        run_name: Of the run.
        fence: The claim to write under, see `claim`; None to read only.
    """

    def __init__(self, store: Store, run_name: str, fence: Claim | None = None) -> None:
        self._store, self._run, self._fence = store, run_name, fence

    def claim(self, driver_fence: int, tell: Callable[[str], None] = log.warning) -> "RunCheckpoints":
        """Return these checkpoints for writing; whoever claimed them before can change them no more.

        While the store is away it waits.

        Args:
            driver_fence: `Lease.fence` of the driver. Each group of workers claims anew.
            tell: Told of waiting.

        Raises:
            SupersededError: A newer driver has claimed them.
        """
        claim = partial(self._change, lambda ledger: ledger.claimed_by(driver_fence))
        ledger = wait_for_store(self._store, claim, tell)
        return RunCheckpoints(self._store, self._run, ledger.claim)

    def entries(self) -> tuple[SavedCheckpoint, ...]:
        """Return the checkpoints there are, the newest first."""
        return self._read()[0].kept

    def keys(self) -> tuple[str, ...]:
        """Return the keys of all that there may be of the run: files of checkpoints, whole or not, and the ledger."""
        ledger, _ = self._read()
        files = (self._key(one, name) for one in (*ledger.kept, *ledger.loose) for name in one.files)
        return (*files, self._ledger_key)

    def best(self) -> SavedCheckpoint | None:
        """Return the checkpoint with the highest score."""
        return best_of(self.entries())

    def finished(self) -> dict[str, str] | None:
        """Return what `finish` noted; None if the run has not ended."""
        return self._read()[0].finished

    def finish(self, values: Mapping[str, str]) -> None:
        """Note that the run has ended, and what came of it.

        Raises:
            SupersededError: Another has claimed the run.
        """
        self._change(lambda ledger: self._mine(ledger).model_copy(update={"finished": dict(values)}))

    def publish(self, folder: Path, step: int, score: float | None, *, keep: int) -> SavedCheckpoint:
        """Put a checkpoint into the store, whole or not at all; then delete those that are not kept any more.

        To publish the same checkpoint again, after an error or a kill, is safe. One of the same step that an earlier
        claim published is replaced.

        Args:
            folder: Its files, complete, in any subfolders.
            step: Updates done.
            score: How good it is, higher is better; None if nobody looked.
            keep: How many of the newest stay, besides the best.

        Raises:
            CheckpointError: It has no manifest, or is not as it was sealed.
            SupersededError: Another has claimed the run; nothing that it keeps was changed.
            StoreError: The store is away or refuses.
        """
        files = files_of(folder)
        if MANIFEST not in files:
            raise CheckpointError(f"checkpoint {folder}", f"it has no {MANIFEST}", "Seal it first")
        place = f"step-{step:08}-{self._fence[1] if self._fence else 0}"
        new = SavedCheckpoint(step=step, score=comparable(score), folder=place, files=files)
        ledger = self._change(lambda ledger: self._mine(ledger).announce(new))
        if new not in ledger.kept:
            self._put_files(new, folder)
        ledger = self._change(lambda ledger: self._mine(ledger).keep(new, keep))
        self._delete(ledger.loose)
        return new

    def fetch(self, kept: SavedCheckpoint, folder: Path) -> None:
        """Download a checkpoint into an empty folder, every file verified by the ledger's SHA-256.

        Raises:
            CheckpointError: A file is missing or damaged.
            StoreError: The store is away or refuses, which says nothing about the checkpoint.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(PARALLEL_FILES) as threads:
            list(threads.map(lambda name: self._fetch_file(kept, name, folder / name), kept.files))

    def newest_good(
        self,
        load: Callable[[Path], None],
        tell: Callable[[str], None] = log.warning,
        bad: Callable[[str], None] = lambda text: None,
    ) -> SavedCheckpoint | None:
        """Load the newest checkpoint that is good, and return it; None if there is none at all.

        While the store is away it waits: what cannot be read now may be the newest good one.

        Args:
            load: Reads a checkpoint from a folder, which is removed afterwards. CheckpointError means: take another.
            tell: Told which checkpoints are bad, and of waiting.
            bad: Told of each bad checkpoint, as `step 300 (why)`.

        Raises:
            CheckpointError: There are checkpoints, and all are bad.
            StoreError: The store refuses.
        """
        entries = wait_for_store(self._store, self.entries, tell)
        problems = []
        for kept in entries:
            try:
                self._load(kept, load, tell)
                return kept
            except CheckpointError as error:
                problems.append(str(error))
                bad(f"step {kept.step} ({error.why})")
                tell(f"the checkpoint of step {kept.step} is bad, trying the one before: {error}")
        if not entries:
            return None
        raise CheckpointError(
            f"no checkpoint of run {self._run} in {self._store.url} is good",
            "; ".join(problems),
            "Restore one from a copy, or delete the run's folder to start from the beginning",
        )

    def fetch_step(
        self, step: int, load: Callable[[Path], None], tell: Callable[[str], None] = log.warning
    ) -> SavedCheckpoint:
        """Load the checkpoint of a step, the one that the first worker found good, and return it.

        Raises:
            CheckpointError: There is none, or it is bad.
            StoreError: The store refuses.
        """
        for kept in wait_for_store(self._store, self.entries, tell):
            if kept.step == step:
                self._load(kept, load, tell)
                return kept
        raise CheckpointError(
            f"run {self._run} in {self._store.url}", f"it has no checkpoint of step {step}", "Start the run again"
        )

    def store_wait(self, tell: Callable[[str], None], meanwhile: str) -> StoreWait:
        """Return what does actions again while the store is away."""
        return StoreWait(self._store, tell, meanwhile)

    def _load(self, kept: SavedCheckpoint, load: Callable[[Path], None], tell: Callable[[str], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="metasr-checkpoint-") as folder:
            wait_for_store(self._store, lambda: self.fetch(kept, Path(folder)), tell)
            load(Path(folder))

    def _fetch_file(self, kept: SavedCheckpoint, name: str, path: Path) -> None:
        sha256, num_bytes = kept.files[name]
        try:
            content = self._store.get(self._key(kept, name), sha256=sha256, num_bytes=num_bytes)
        except (DamagedError, NotThereError) as error:
            self._store.require()  # a store that is not there at all says nothing about one checkpoint
            raise CheckpointError(f"checkpoint of step {kept.step}", f"its file {name}: {error.why}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def _put_files(self, new: SavedCheckpoint, folder: Path) -> None:
        """Put the files of a checkpoint into the store; where it refuses, as a full disk does, none stay."""
        try:
            for name, file in new.files.items():
                self._store.put(self._key(new, name), folder / name, sha256=file.sha256)
        except UnavailableError:
            raise  # it goes up when the store is back
        except StoreError:
            with suppress(StoreError, SupersededError):
                self._delete((new,))
            raise

    def _delete(self, loose: tuple[SavedCheckpoint, ...]) -> None:
        """Delete what the ledger calls loose, then its mention."""
        if not loose:
            return
        for one in loose:
            for name in one.files:
                self._store.delete(self._key(one, name))
        self._change(lambda ledger: self._mine(ledger).forget(loose))

    def _mine(self, ledger: Ledger) -> Ledger:
        if self._fence is None:
            raise ValueError("only checkpoints that were claimed can be changed")
        if ledger.claim != self._fence:
            raise superseded(f"the run was claimed again: {ledger.claim}, after {self._fence}")
        return ledger

    def _change(self, change: Callable[[Ledger], Ledger]) -> Ledger:
        """Put what `change` makes of the ledger in its place, and return it."""
        while True:
            ledger, version = self._read()
            changed = change(ledger).model_copy(update={"revision": ledger.revision + 1})
            content = (changed.model_dump_json(indent=1) + "\n").encode()
            with suppress(ChangedError):  # by another, in the meantime
                self._store.swap(self._ledger_key, content, version)
                return changed

    def _read(self) -> tuple[Ledger, Version | None]:
        what = f"the list of checkpoints {self._ledger_key!r} in {self._store.url}"
        try:
            content, version = self._store.get_with_version(self._ledger_key)
            require_known_format(content, what)
            return Ledger.model_validate_json(content), version
        except NotThereError:
            if self._fence is not None:
                raise  # it was there when it was claimed: the disk is not mounted, or somebody deleted the run
            return Ledger(), None
        except (DamagedError, ValidationError):
            raise CheckpointError(
                what,
                "it is damaged",
                "Restore it from a copy, or delete the run's folder to start from the beginning",
            ) from None

    @property
    def _ledger_key(self) -> str:
        return f"{self._run}/{LEDGER}"

    def _key(self, kept: SavedCheckpoint, name: str) -> str:
        return f"{self._run}/{kept.folder}/{name}"

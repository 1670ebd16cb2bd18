"""Snapshots on the local disk, which wait there for the store."""

import json
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.store.folder import sync
from metasr.errors import CheckpointError
from metasr.formats import FORMAT, require_known_format
from metasr.manifest import unseal

_ABOUT = "about.json"


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint in the spool, complete.

    Attributes:
        folder: Of the snapshot.
        step: Updates done.
        score: How good it is, higher is better; None if nobody looked.
        adopted: Whether an earlier process wrote it.
    """

    folder: Path
    step: int
    score: float | None
    adopted: bool = False

    @property
    def checkpoint(self) -> Path:
        """The folder of the checkpoint itself."""
        return self.folder / "checkpoint"


class Spool:
    """A folder `step-<n>-<random>/` for each snapshot: it appears when it is complete and safe on the disk.

    Args:
        folder: Of one run; made when it is first needed, for its owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, save: Callable[[Path], None], step: int, score: float | None) -> Snapshot:
        """Return the snapshot that `save` writes into an empty folder; nothing is left of one that fails.

        Raises:
            OSError: The disk is full or refuses.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"step-{step:08}-{uuid.uuid4().hex[:8]}"
        part = Snapshot(self.folder / f".{name}.part", step, score)
        try:
            part.checkpoint.mkdir(parents=True)
            save(part.checkpoint)
            (part.folder / _ABOUT).write_text(json.dumps({"format": FORMAT, "step": step, "score": score}))
            for path in (*part.folder.rglob("*"), part.folder):
                sync(path)
            whole = part.folder.rename(self.folder / name)
        except BaseException:
            shutil.rmtree(part.folder, ignore_errors=True)
            raise
        sync(self.folder)
        return Snapshot(whole, step, score)

    def adopt(self, tell: Callable[[str], None]) -> list[Snapshot]:
        """Return the snapshots that a killed process left, by step; those that are torn or damaged are removed."""
        adopted = []
        try:
            folders = sorted(self.folder.iterdir())
        except FileNotFoundError:
            return []
        for folder in folders:
            try:
                adopted.append(_read(folder))
            except (CheckpointError, OSError) as error:
                if folder.exists():  # and was not removed by another process meanwhile
                    tell(f"removing a snapshot that cannot be used: {error}")
                    shutil.rmtree(folder, ignore_errors=True)
        return adopted

    def holds(self, snapshot: Snapshot) -> bool:
        """Return whether a snapshot is still there, as it was written."""
        try:
            _read(snapshot.folder)
        except (CheckpointError, OSError):
            return False
        return True

    def remove(self, snapshot: Snapshot) -> None:
        """Remove a snapshot."""
        # The new name first, so that a process killed in between leaves a torn one, not half a good one.
        part = snapshot.folder.with_name(f".{snapshot.folder.name}.part")
        with suppress(FileNotFoundError):  # removed by another: all the better
            snapshot.folder.rename(part)
        shutil.rmtree(part, ignore_errors=True)


def _read(folder: Path) -> Snapshot:
    try:
        if folder.name.startswith("."):
            raise ValueError
        content = (folder / _ABOUT).read_text()
        require_known_format(content, f"snapshot {folder}")
        about = json.loads(content)
        score = None if about["score"] is None else float(about["score"])
        snapshot = Snapshot(folder, int(about["step"]), score, adopted=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"snapshot {folder}", "it was not completed") from error
    unseal(snapshot.checkpoint, "checkpoint")
    if (bundle := snapshot.checkpoint / "bundle").exists():  # not where nobody looked how good it is
        unseal(bundle, "bundle")
    return snapshot

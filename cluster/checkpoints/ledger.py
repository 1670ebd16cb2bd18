"""The ledger: which checkpoints a run has in its store, and who may change that."""

import hashlib
import os
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

from metasr.config import Section
from metasr.errors import CheckpointError, TrainingError
from metasr.formats import FORMAT
from metasr.manifest import MANIFEST, sealed_files

Claim = tuple[int, int]
"""Fence of the driver, and the number of its worker group: it grows with every claim, whoever makes it."""
UNCLAIMED: Claim = (0, 0)
REGISTERED = "registered"
"""Key in a finished run's ledger for the model that the run was registered as."""


class SupersededError(TrainingError):
    """Another driver or another group of workers has taken the run over. What it keeps stays as it is."""


class File(NamedTuple):
    """What a file must be."""

    sha256: str
    num_bytes: int


class SavedCheckpoint(Section):
    """A checkpoint in the store."""

    step: int
    """Updates done."""
    score: float | None
    """How good it is, higher is better; None if nobody looked, or it was no number."""
    folder: str
    """Where its files are, below the run. No two claims share one: a worker that wakes up late overwrites nothing."""
    files: dict[str, File]
    """Its files, by their path below `folder`."""

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.num_bytes for file in self.files.values())


class Ledger(Section):
    """What is known of a run's checkpoints. Every change makes a new one."""

    format: Literal[1] = FORMAT
    revision: int = 0
    """Changes so far: no content of the ledger ever comes again."""
    claim: Claim = UNCLAIMED
    """Who may change it."""
    kept: tuple[SavedCheckpoint, ...] = ()
    """Checkpoints that can be used, the newest first."""
    loose: tuple[SavedCheckpoint, ...] = ()
    """Others of which there may be files: on their way in, or out. They are named so that none is forgotten."""
    finished: dict[str, str] | None = None
    """What came of the run; None until it has ended."""

    def claimed_by(self, driver_fence: int) -> "Ledger":
        """Give the ledger to a new group of workers of a driver."""
        if driver_fence < self.claim[0]:
            raise superseded("a newer driver has taken the run over")
        return self.model_copy(update={"claim": (driver_fence, self.claim[1] + 1)})

    def announce(self, new: SavedCheckpoint) -> "Ledger":
        """Note that files of a checkpoint are about to be written."""
        return self.model_copy(update={"loose": (*_without(self.loose, new), new)})

    def keep(self, new: SavedCheckpoint, num_newest: int) -> "Ledger":
        """Note that a checkpoint is complete, and let go of those that are neither new nor the best.

        Checkpoints of later steps are let go too: the run did not go on from them.
        """
        candidates = (new, *(kept for kept in self.kept if kept.step < new.step))
        best = best_of(candidates)
        kept = tuple(one for rank, one in enumerate(candidates) if rank < num_newest or one is best)
        folders = {one.folder for one in kept}
        loose = (one for one in (*self.loose, *self.kept) if one.folder not in folders)
        return self.model_copy(update={"kept": kept, "loose": tuple(loose)})

    def forget(self, loose: Sequence[SavedCheckpoint]) -> "Ledger":
        """Note that files of checkpoints are gone."""
        folders = {one.folder for one in loose}
        return self.model_copy(update={"loose": tuple(one for one in self.loose if one.folder not in folders)})


class Scored(Protocol):
    """What may have a score."""

    @property
    def score(self) -> float | None:
        """How good it is, higher is better."""


S = TypeVar("S", bound=Scored)


def best_of(things: Sequence[S]) -> S | None:
    """Return the one with the highest score, of equals the first; None if none has a score."""
    scored = [(thing.score, thing) for thing in things if thing.score is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def comparable(score: float | None) -> float | None:
    """Return a score that can be compared: None instead of a NaN or an infinite one."""
    return score if score is not None and isfinite(score) else None


def files_of(folder: Path) -> dict[str, File]:
    """Return the files in a sealed folder and its sealed subfolders in the order to store them in: manifests last.

    Their SHA-256 is that of the manifests, which was computed when they were sealed.

    Raises:
        CheckpointError: A file is missing, or has another length than its manifest says.
    """
    paths = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    paths.sort(key=lambda path: (path.name == MANIFEST, path))
    sealed = {
        path.parent / name: File(*known)
        for path in paths
        if path.name == MANIFEST
        for name, known in sealed_files(path.parent).items()
    }
    try:
        if changed := [path for path, file in sealed.items() if path.stat().st_size != file.num_bytes]:
            raise CheckpointError(f"checkpoint {folder}", f"{changed[0].name} is not as it was sealed", "Use another")
        return {path.relative_to(folder).as_posix(): sealed.get(path) or _fingerprint(path) for path in paths}
    except FileNotFoundError as error:
        reason = f"its file {error.filename} is missing"
        raise CheckpointError(f"checkpoint {folder}", reason, "Use another") from error


def superseded(why: str) -> SupersededError:
    """Return the error of one who comes too late."""
    return SupersededError("this worker cannot keep a checkpoint", why, "Stop it: the other one goes on with the run")


def _without(checkpoints: tuple[SavedCheckpoint, ...], one: SavedCheckpoint) -> tuple[SavedCheckpoint, ...]:
    return tuple(kept for kept in checkpoints if kept.folder != one.folder)


def _fingerprint(path: Path) -> File:
    with path.open("rb") as file:
        return File(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)

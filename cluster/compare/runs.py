"""Compare two runs, causes before effects: whether they are equal bit for bit, and if not, why.

Training is exact: the same settings on the same data give the same bits, whatever the number of workers and faults.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cluster.checkpoints import RunCheckpoints, SavedCheckpoint
from cluster.compare.states import Check, Mismatch, compare_states, state_digest
from cluster.config import JobConfig
from cluster.store import open_store
from metasr.config import ExperimentConfig
from metasr.errors import CheckpointError
from metasr.manifest import MANIFEST, unseal
from metasr.training.lineage import Stretch, What, changes, lineage_of, part_after, told

MACHINERY = set(JobConfig.model_fields) - set(ExperimentConfig.model_fields)
"""Sections of the settings that do not influence the weights."""


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    Attributes:
        where: Its URL or folder.
        newest_step: Step of its newest checkpoint.
        digest: `state_digest` of the compared checkpoint.
    """

    where: str
    newest_step: int
    digest: str


@dataclass(frozen=True)
class Verification:
    """The result of comparing two runs.

    Attributes:
        a, b: The runs.
        step: Step of the compared checkpoints: the newest that both runs have.
        causes: Checks of what determines the weights.
        effects: Checks of what training produced, see `compare_states`.
        suspects: Possible reasons for a difference that no cause explains.
    """

    a: Side
    b: Side
    step: int
    causes: tuple[Check, ...]
    effects: tuple[Check, ...]
    suspects: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether both runs are equal bit for bit."""
        return self.a.digest == self.b.digest

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        causes = [cause for cause in self.causes if not cause.equal]
        if self.identical:
            bits = f"identical: every bit of {_names(self.effects)} at step {self.step}"
            return f"{bits}, although these differ: {_names(causes)}" if causes else bits
        parted = f"they diverge at or before step {self._parted}"
        for cause in causes:
            if cause.since < self._parted:
                return f"{parted}, because of the {cause.name}: {'; '.join(map(str, cause.differences))}"
        return (
            f"{parted}, although these are equal until then: {_names(self.causes)}. Check {'; '.join(self.suspects)}"
        )

    @property
    def _parted(self) -> int:
        """The first step at which they are known to differ."""
        log = self.effects[0]
        logged = log.differences[0].about.get("step") if log.differences else None
        return self.step if logged is None else logged


def verify_run(a: str, b: str, storage_url: str) -> Verification:
    """Compare two runs at the newest step for which both still have a checkpoint.

    Args:
        a: URL or folder of a run, folder of a checkpoint, or name of a run in `storage_url`.
        b: The other run.
        storage_url: Storage of runs that are given by name.

    Raises:
        CheckpointError: There is no such run, no common step, or a checkpoint is damaged.
        StoreError: A store cannot be reached or denies access.
    """
    one, other = _find(a, storage_url), _find(b, storage_url)
    step = _common_step(one, other)
    with tempfile.TemporaryDirectory(prefix="metasr-verify-") as folder:
        ours, theirs = _bring(one, step, Path(folder) / "a"), _bring(other, step, Path(folder) / "b")
        return Verification(
            ours.side,
            theirs.side,
            step,
            _causes(ours.about, theirs.about),
            compare_states(ours.folder, theirs.folder),
            tuple(_suspects(ours.about)),
        )


class _Source(NamedTuple):
    """A run: its location, and for each step a function that returns its checkpoint, fetched into a new folder."""

    where: str
    checkpoints: Mapping[int, Callable[[Path], Path]]


class _Fetched(NamedTuple):
    """A verified checkpoint on this machine, and its manifest."""

    side: Side
    folder: Path
    about: Mapping[str, Any]


def _find(reference: str, storage_url: str) -> _Source:
    folder = Path(os.path.expanduser(reference))
    with _named(reference):
        if (folder / MANIFEST).is_file():
            return _Source(str(folder), {_step_of(unseal(folder, "checkpoint")): lambda _: folder})
    parent, slash, name = reference.rstrip("/").rpartition("/")
    store = open_store(parent + slash if slash else storage_url)
    run = RunCheckpoints(store, name)
    where = f"{store.url}/{name}"
    with _named(where):
        kept = run.entries()
        if not kept:
            store.require()
            raise CheckpointError(
                f"run {name}",
                "it has no checkpoint",
                "Give the URL or folder of a run, the folder of a checkpoint, or the name of a run in --storage.url",
            )
    return _Source(where, {one.step: partial(_fetch, run, one) for one in kept})


def _fetch(run: RunCheckpoints, kept: SavedCheckpoint, folder: Path) -> Path:
    run.fetch(kept, folder)
    return folder


def _common_step(a: _Source, b: _Source) -> int:
    common = a.checkpoints.keys() & b.checkpoints.keys()
    if not common:
        have = [f"{one.where} has step {', '.join(map(str, sorted(one.checkpoints)))}" for one in (a, b)]
        raise CheckpointError(
            "the runs have no checkpoint of the same step",
            "; ".join(have),
            "Train both to the same step, with the same settings",
        )
    return max(common)


def _bring(source: _Source, step: int, folder: Path) -> _Fetched:
    with _named(source.where):
        folder = source.checkpoints[step](folder)
        about = unseal(folder, "checkpoint")
        if _step_of(about) != step or not isinstance(about.get("config"), dict):
            raise CheckpointError("its checkpoint", f"its {MANIFEST} is not that of step {step}", "Use another")
        return _Fetched(Side(source.where, max(source.checkpoints), state_digest(folder)), folder, about)


def _step_of(about: Mapping[str, Any]) -> int:
    step = about.get("step")
    if not isinstance(step, int):
        raise CheckpointError("its checkpoint", f"its {MANIFEST} names no step", "Use another")
    return step


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Name the run in errors."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"cannot compare {where}", f"{error.what}: {error.why}", error.fix) from error
    except OSError as error:
        raise CheckpointError(f"cannot compare {where}", error.strerror or str(error), "Check its files") from error


def _causes(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Check, ...]:
    settings = tuple(
        difference
        for difference in _settings(a["config"], b["config"])
        if difference.name.partition(".")[0] not in MACHINERY and difference.name != "data.url"
    )
    lineages = lineage_of(a), lineage_of(b)
    return (
        _computed("code version", "code_version", *lineages),
        Check("settings", not settings, settings),
        _fact("data", "data_digest", a, b),
        _fact("start", "forked_from" if a.get("forked_from") or b.get("forked_from") else "initial_bundle", a, b),
        _computed("arithmetic", "arithmetic", *lineages),
    )


def _computed(name: str, what: What, a: Sequence[Stretch], b: Sequence[Stretch]) -> Check:
    """Compare which code or arithmetic computed the steps; it may have changed during a run."""
    since = part_after(a, b, what)
    if since is None:
        return Check(name, True, value=told(a, what))
    return Check(name, False, (Mismatch(what, {"A": told(a, what), "B": told(b, what)}),), since=since)


def _fact(name: str, key: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Check:
    """Compare one entry of two manifests; only the entry for initial weights may be empty."""
    ours, theirs = (about.get(key) or "random weights" for about in (a, b))
    if ours == theirs:
        return Check(name, True, value=str(ours))
    return Check(name, False, (Mismatch(key, {"A": ours, "B": theirs}),))


def _settings(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> Iterator[Mismatch]:
    for name in sorted(a.keys() | b.keys()):
        ours, theirs = a.get(name), b.get(name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _settings(ours, theirs, f"{prefix}{name}.")
        elif ours != theirs:
            yield Mismatch(f"{prefix}{name}", {"A": ours, "B": theirs})


def _suspects(about: Mapping[str, Any]) -> Iterator[str]:
    config = about["config"]
    if config.get("train", {}).get("reduction") == "fast":
        yield "resources.num_workers: with train.reduction fast, the weights depend on the number of workers"
    lineage = lineage_of(about)
    if any(stretch.code_version.endswith("+changes") for stretch in lineage):
        yield "the code, which had uncommitted changes"
    if changed := changes(lineage):
        yield f"the changes during the runs, recorded as equal in both ({changed})"
    if config.get("loss", {}).get("perceptual"):
        yield "the file of the VGG network, of which only the path is recorded"
    yield "the machines and the memory of the other workers: a checkpoint records the arithmetic of the first worker"
    yield "the checkpoints themselves, which may have been edited"


def _names(checks: Sequence[Check]) -> str:
    *some, last = [check.name for check in checks]
    return f"{', '.join(some)} and {last}" if some else last

"""Prepares a data set: tasks read subjects in parallel, one process writes the shards in the order of the plan."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

from cluster.config import PrepareConfig
from cluster.prepare.cut import Cut, Spacing, Statistics, cut, widest
from cluster.prepare.journal import FinishedShard, Journal
from cluster.prepare.plan import SplitPlan, doubts, find, input_sha256, make_plan, recipe_sha256, said_options
from cluster.prepare.pseudonyms import Names, stored_names
from cluster.prepare.publish import Publication
from cluster.runtime.ordered_map import InOrder, in_order
from cluster.shards import SPLITS, Index, Sample, Shard, ShardWriter, Split
from cluster.store import Store, WaitingStore
from metasr import __version__
from metasr.data.files import shown
from metasr.data.patients import patient_of
from metasr.data.split import digest_of_names
from metasr.data.subjects import Found, Subject
from metasr.errors import DataError, MetaSRError, UnreachableError

PAUSES_S = (1.0, 5.0)  # before another try of a file that could not be reached
REPLACED = "It could not be used earlier, and other subjects were chosen instead"
Tell = Callable[[str], None]


@dataclass
class Report:
    """The result of `prepare`: the index, the subjects left out and why, and the files that were found."""

    index: Index
    refused: dict[str, str]
    found: Found

    def summary(self) -> str:
        """Return one line: how many files were used, and how many were left out for which reason."""
        return self.found.summary(self.refused)


def prepare(
    folder: Path,
    store: Store,
    options: PrepareConfig,
    tell: Tell,
    *,
    workers: int | None = 1,
    progress: Tell | None = None,
) -> Report:
    """Write the slices of a folder's volumes, or its photographs, into shards, and then the index.

    Training slices are cropped to the window with the most brain, and training photographs are cut into tiles; those
    for validation stay whole. A file that cannot be used is left out and reported. The same folder and options give
    the same bytes. After a kill, the same call continues after the last finished shard.

    Args:
        folder: A NIfTI volume per subject, or photographs; all nodes must reach it.
        store: Store for the shards.
        options: See `PrepareConfig`.
        tell: Called with warnings, and with a line for each subject that is left out.
        workers: Number of subjects read in parallel, see `in_order`.
        progress: Called with a line for each subject that is written; by default `tell`.

    Raises:
        ConfigError: Pseudonyms are requested without a key.
        UnreachableError: A file exists but cannot be reached from a node; it is not left out for that.
        DataError: Nothing can be prepared, or another preparation into the same store has finished first.
        StoreError: The store cannot be written to.
    """
    folder = folder.absolute()  # tasks have other working directories
    found = find(folder, options)
    subjects = found.subjects
    names = stored_names(options.pseudonymise, subjects=subjects)
    plan = make_plan(subjects, options, names)
    said = said_options(options, names)
    recipe = recipe_sha256(said)
    inputs = input_sha256(recipe, subjects, names)
    journal = Journal(store, inputs)  # without waiting: a store that does not work at the start is an error
    journal.check()
    waiting = WaitingStore(store, tell)
    target = _Target(waiting, Journal(waiting, inputs), Publication(waiting))
    for line in [*(found.lines() if found.is_partial else []), *doubts(plan)]:
        tell(line)
    finished = journal.read(tell, progress or tell)
    building = _Building(target, options, names, tell, progress or tell)
    building.resume(finished)
    with in_order(workers, len(subjects)) as map_in_order:
        # Validation comes first: if none of its subjects can be used, others are chosen from the training subjects.
        while not building.take(plan, "val", folder, map_in_order):
            if options.val_subjects or len(plan.train) < 2:
                raise _too_few(folder)
            plan = make_plan(plan.train, options, names)
        if not building.take(plan, "train", folder, map_in_order):
            raise _too_few(folder)
    index = building.index(said, recipe, subjects)
    index.check()
    target.publication.publish(index)
    return Report(index, building.refused, found)


def _too_few(folder: Path) -> DataError:
    reason = "too few usable subjects: training and validation need one each"
    return DataError(f"folder {folder}", reason, "See the reasons above")


@dataclass(frozen=True)
class _Target:
    """The destination of the data set: its shards, the journal of finished shards, and the index."""

    store: Store
    journal: Journal
    publication: Publication


class _Building:
    """The data set so far: its shards, the facts for the index, and the subjects left out."""

    def __init__(self, target: _Target, options: PrepareConfig, names: Names, tell: Tell, progress: Tell) -> None:
        self.refused: dict[str, str] = {}
        self._target, self._options, self._names = target, options, names
        self._tell, self._progress = tell, progress
        self._subjects: dict[Split, list[str]] = {split: [] for split in SPLITS}
        self._shards: dict[Split, list[Shard]] = {split: [] for split in SPLITS}
        self._statistics = Statistics()
        self._spacing_mm: Spacing | None = None
        self._skull_stripped: bool | None = None

    def resume(self, entries: Sequence[FinishedShard]) -> None:
        """Take over the shards that an earlier run has finished."""
        for entry in entries:
            self._shards[entry.shard.split].append(entry.shard)
            self._subjects[entry.shard.split] += entry.shard.subjects
            self._statistics, self._spacing_mm = entry.statistics, entry.spacing_mm
            self._skull_stripped = entry.skull_stripped
        if entries:
            done = sum(map(len, self._subjects.values()))
            self._tell(f"{len(entries)} shards with {done} subjects are finished: continuing after them")

    def take(self, plan: SplitPlan, split: Split, folder: Path, map_in_order: InOrder) -> bool:
        """Write the subjects of a split that can be used, and return whether there was one.

        Writes none if the finished shards hold other subjects, chosen because none of these could be used.
        """
        names = {self._names(subject.name) for subject in plan.subjects(split)}
        replaced = bool(self._subjects[split]) and names.isdisjoint(self._subjects[split])
        writer = ShardWriter(self._target.store, split, plan.shard_limit(split, self._options), self._shards[split])
        here = [subject for subject in plan.subjects(split) if self._names(subject.name) not in self._subjects[split]]
        first = len(plan.subjects(split)) - len(here)
        read = partial(_read, folder, self._options, split)
        for number, (subject, outcome) in enumerate(zip(here, map_in_order(read, here), strict=True), first + 1):
            of = f"{split}, {number} of {len(plan.subjects(split))}"
            if isinstance(outcome, Cut) and not replaced:
                self._add(writer, split, subject, outcome, of)
            else:
                reason = self.refused[subject.name] = REPLACED if isinstance(outcome, Cut) else str(outcome)
                self._tell(f"{subject.name}: left out. {reason}")
        self._target.publication.check()
        self._finish(writer.close())
        return not names.isdisjoint(self._subjects[split])

    def _add(self, writer: ShardWriter, split: Split, subject: Subject, cut: Cut, of: str) -> None:
        self._target.publication.check()
        name = self._names(subject.name)
        if split == "train":
            self._statistics += cut.statistics
        self._spacing_mm = widest(self._spacing_mm, cut.spacing_mm)
        if cut.skull_stripped is not None:
            self._skull_stripped = cut.skull_stripped and self._skull_stripped is not False
        self._subjects[split].append(name)
        self._finish(
            writer.write(name, [Sample(name, number, image, subject.contrast) for number, image in cut.images])
        )
        images = "images" if self._options.kind == "photos" else "slices"
        self._progress(f"{name}: {len(cut.images)} {images}, {of}")

    def _finish(self, shard: Shard | None) -> None:
        if shard:
            entry = FinishedShard(
                shard=shard,
                statistics=self._statistics,
                spacing_mm=self._spacing_mm,
                skull_stripped=self._skull_stripped,
            )
            self._target.journal.write(entry, number=len(self._shards[shard.split]))
            self._shards[shard.split].append(shard)

    def index(self, options: dict[str, Any], recipe_sha256: str, subjects: Sequence[Subject]) -> Index:
        """Return the index of all shards.

        Raises:
            DataError: All values of the training crops are the same.
        """
        if not self._statistics.std:
            raise DataError("the training crops", "all their values are the same", "Give images that show something")
        return Index(
            **self._about(subjects),
            tool_version=__version__,
            options=options,
            recipe_sha256=recipe_sha256,
            kind=self._options.kind,
            modality=self._options.modality,
            mean=self._statistics.mean,
            std=self._statistics.std,
            spacing_mm=self._spacing_mm,
            subjects={split: tuple(names) for split, names in self._subjects.items()},
            split_sha256={split: digest_of_names(names) for split, names in self._subjects.items()},
            shards=tuple(shard for split in SPLITS for shard in self._shards[split]),
        ).sealed()

    def _about(self, subjects: Sequence[Subject]) -> dict[str, Any]:
        """Return what the index says only where there is something to say."""
        used = {name for names in self._subjects.values() for name in names}
        stored = {name: one for one in subjects if (name := self._names(one.name)) in used}
        about: dict[str, Any] = {"contrasts": {name: one.contrast for name, one in stored.items() if one.contrast}}
        if self._options.kind == "volumes" and not self._options.pseudonymise:
            about["patients"] = {name: one.patient for name, one in stored.items() if one.patient != patient_of(name)}
        said = {key: entries for key, entries in about.items() if entries}
        return said if self._skull_stripped is None else said | {"skull_stripped": self._skull_stripped}


def _read(folder: Path, options: PrepareConfig, split: Split, subject: Subject) -> Cut | str:
    """Return the images of a subject, or why it cannot be used. Runs on any node.

    Raises:
        UnreachableError: This node cannot reach the file, which says nothing about the subject.
    """
    try:
        return _cut(subject, options, split)
    except UnreachableError as error:
        raise UnreachableError(
            f"{error.what}, which was there at the start",
            f"{platform.node()} cannot reach it ({error.why})",
            f"See that all nodes reach {folder}, or give --workers 1; the same command then continues",
        ) from error
    except (MetaSRError, MemoryError) as error:
        return shown(str(error) if isinstance(error, MetaSRError) else f"{subject.file}: it does not fit in memory")


def _cut(subject: Subject, options: PrepareConfig, split: Split) -> Cut:
    for pause_s in PAUSES_S:
        try:
            return cut(subject, options, crop=split == "train")
        except UnreachableError:
            sleep(pause_s)
    return cut(subject, options, crop=split == "train")

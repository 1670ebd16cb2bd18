"""Preparing: subjects are read by many, and written into shards by one, in the order of the plan."""

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

PAUSES_S = (1.0, 5.0)  # before a file that could not be reached is tried again
REPLACED = "It could not be used before, and others were chosen in its place"
Tell = Callable[[str], None]


@dataclass
class Report:
    """What `prepare` did: the index it wrote, the subjects that could not be used and why, and what it found."""

    index: Index
    refused: dict[str, str]
    found: Found

    def summary(self) -> str:
        """Return in one line how many files were used, and how many not for which reason."""
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
    """Write the slices of all subjects of a folder, or its photographs, into shards, and the index last.

    Training slices are cut to the crop with the most brain, training photographs into tiles; those that validate
    are whole. A file that cannot be used is reported, and the others go on. What is written follows from the folder
    and the options alone. Run again after it was killed, it goes on after the last finished shard.

    Args:
        folder: With a NIfTI volume per subject, or with photographs; all nodes must reach it.
        store: Where the shards go.
        options: See `PrepareConfig`.
        tell: Called with a line for each subject that is left out, and what is to be known before the work.
        workers: Subjects in hand at a time, see `in_order`.
        progress: Called with a line for each subject that is taken; by default `tell`.

    Raises:
        ConfigError: Pseudonyms are asked for without a key.
        UnreachableError: A file cannot be reached from a node, though it is there: it is not left out for that.
        DataError: There is nothing to prepare or nothing that can be used, or another preparation into the same
            store was done first.
        StoreError: The store cannot be written to.
    """
    folder = folder.absolute()  # the processes that read have working directories of their own
    found = find(folder, options)
    subjects = found.subjects
    names = stored_names(options.pseudonymise, subjects=subjects)
    plan = make_plan(subjects, options, names)
    said = said_options(options, names)
    recipe = recipe_sha256(said)
    inputs = input_sha256(recipe, subjects, names)
    journal = Journal(store, inputs)  # which is not waited for: what does not work from the start is said at once
    journal.check()
    waiting = WaitingStore(store, tell)
    target = _Target(waiting, Journal(waiting, inputs), Publication(waiting))
    for line in [*(found.lines() if found.is_partial else []), *doubts(plan)]:
        tell(line)
    finished = journal.read(tell, progress or tell)
    building = _Building(target, options, names, tell, progress or tell)
    building.resume(finished)
    with in_order(workers, len(subjects)) as map_in_order:
        # Those who validate come first: where none of them can be used, others are chosen from those who wait.
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
    """Where the data set goes: its shards, the journal of those that are finished, and the index."""

    store: Store
    journal: Journal
    publication: Publication


class _Building:
    """The data set so far: shards and what the index will say of them, and who had to be left out."""

    def __init__(self, target: _Target, options: PrepareConfig, names: Names, tell: Tell, progress: Tell) -> None:
        self.refused: dict[str, str] = {}
        self._target, self._options, self._names = target, options, names
        self._tell, self._progress = tell, progress
        self._subjects: dict[Split, list[str]] = {split: [] for split in SPLITS}
        self._shards: dict[Split, list[Shard]] = {split: [] for split in SPLITS}
        self._statistics = Statistics()
        self._spacing_mm: Spacing | None = None

    def resume(self, entries: Sequence[FinishedShard]) -> None:
        """Take over the shards that were finished before."""
        for entry in entries:
            self._shards[entry.shard.split].append(entry.shard)
            self._subjects[entry.shard.split] += entry.shard.subjects
            self._statistics, self._spacing_mm = entry.statistics, entry.spacing_mm
        if entries:
            done = sum(map(len, self._subjects.values()))
            self._tell(f"{len(entries)} shards with {done} subjects are finished: going on after them")

    def take(self, plan: SplitPlan, split: Split, folder: Path, map_in_order: InOrder) -> bool:
        """Take the subjects of a split, as far as they can be used, and return whether any could.

        Where finished shards are those of others, who were chosen because nobody here could be used, nobody is taken.
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
        self._subjects[split].append(name)
        self._finish(
            writer.write(name, [Sample(name, number, image, subject.contrast) for number, image in cut.images])
        )
        images = "images" if self._options.kind == "photos" else "slices"
        self._progress(f"{name}: {len(cut.images)} {images}, {of}")

    def _finish(self, shard: Shard | None) -> None:
        if shard:
            entry = FinishedShard(shard=shard, statistics=self._statistics, spacing_mm=self._spacing_mm)
            self._target.journal.write(entry, number=len(self._shards[shard.split]))
            self._shards[shard.split].append(shard)

    def index(self, options: dict[str, Any], recipe_sha256: str, subjects: Sequence[Subject]) -> Index:
        """Return the index of all shards, which hold these subjects, as far as they could be used.

        Raises:
            DataError: All training crops show one value.
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

    def _about(self, subjects: Sequence[Subject]) -> dict[str, dict[str, str]]:
        """Return contrasts and patients of those who were used, where there is something to say of them."""
        used = {name for names in self._subjects.values() for name in names}
        stored = {name: one for one in subjects if (name := self._names(one.name)) in used}
        about = {"contrasts": {name: one.contrast for name, one in stored.items() if one.contrast}}
        if self._options.kind == "volumes" and not self._options.pseudonymise:
            about["patients"] = {name: one.patient for name, one in stored.items() if one.patient != patient_of(name)}
        return {key: said for key, said in about.items() if said}


def _read(folder: Path, options: PrepareConfig, split: Split, subject: Subject) -> Cut | str:
    """Return the images of a subject, or why it cannot be used. This runs on any node.

    Raises:
        UnreachableError: Its file is not to be reached from this node, which says nothing about the subject.
    """
    try:
        return _cut(subject, options, split)
    except UnreachableError as error:
        raise UnreachableError(
            f"{error.what}, which was there at the start",
            f"{platform.node()} cannot reach it ({error.why})",
            f"See that all nodes reach {folder}, or give --workers 1; the same command then goes on",
        ) from error
    except (MetaSRError, MemoryError) as error:
        return shown(str(error) if isinstance(error, MetaSRError) else f"{subject.file}: memory does not hold it")


def _cut(subject: Subject, options: PrepareConfig, split: Split) -> Cut:
    for pause_s in PAUSES_S:
        try:
            return cut(subject, options, crop=split == "train")
        except UnreachableError:
            sleep(pause_s)
    return cut(subject, options, crop=split == "train")

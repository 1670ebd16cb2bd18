"""The dry run of `prepare`: what it would do, from names and headers alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.config import PrepareConfig
from cluster.prepare.plan import SplitPlan, doubts, find, make_plan
from cluster.prepare.pseudonyms import stored_names
from cluster.shards import SPLITS, Limit, Split, sample_bytes, shard_bytes
from metasr.data.files import shown
from metasr.data.photos import photo_shape
from metasr.data.subjects import Subject
from metasr.data.volume import slices_shape
from metasr.errors import DataError, UnreachableError

BOUNDS = "These are upper bounds: slices with too little brain and unreadable files are found when voxels are read."


@dataclass(frozen=True)
class _Estimate:
    """Upper bounds for one subject."""

    images: int
    num_bytes: int


def outline(folder: Path, options: PrepareConfig) -> list[str]:
    """Return lines on what `prepare` would do: the subjects of each split, and an upper bound of their size.

    Only the header of each file is read. A subject whose header cannot be used has its own line.

    Raises:
        ConfigError: Pseudonyms are requested without a key.
        UnreachableError: A file cannot be reached.
        DataError: See `find` and `make_plan`.
    """
    found = find(folder, options)
    plan = make_plan(found.subjects, options, stored_names(options.pseudonymise, subjects=found.subjects))
    lines = [line for split in SPLITS for line in _outline(plan, split, options)]
    return [*lines, BOUNDS, *found.lines(), *doubts(plan)]


def _outline(plan: SplitPlan, split: Split, options: PrepareConfig) -> list[str]:
    subjects, estimates, refused = plan.subjects(split), [], []
    names = sorted(subject.name for subject in subjects)
    for subject in subjects:
        try:
            estimates.append(_estimate(subject, options, crop=split == "train"))
        except UnreachableError:
            raise
        except DataError as error:
            refused.append(f"{subject.name}: would be left out. {shown(str(error))}")
    files_mb = sum(subject.file.stat().st_size for subject in subjects) / 1e6
    images = sum(estimate.images for estimate in estimates)
    shards = _shards(estimates, plan.shard_limit(split, options))
    return [
        f"{split}: {len(subjects)} subjects, files of {files_mb:.1f} MB: {', '.join(names)}",
        f"{split}: at most {images} {'images' if options.kind == 'photos' else 'slices'} "
        f"in {len(shards)} shards of {sum(shards) / 1e6:.1f} MB together",
        *refused,
    ]


def _estimate(subject: Subject, options: PrepareConfig, *, crop: bool) -> _Estimate:
    if options.kind == "photos":
        rows, columns = photo_shape(subject.file)
        images = (rows // options.crop_px) * (columns // options.crop_px)
        if not crop:
            images = min(images, 1)
    else:
        slices, rows, columns = slices_shape(subject.file)
        images = -(-slices // options.slice_step)
    shape = (options.crop_px, options.crop_px) if crop else (rows, columns)
    return _Estimate(images, images * sample_bytes(shape))


def _shards(estimates: Sequence[_Estimate], limit: Limit) -> list[int]:
    """Return the size in bytes of each shard, filled as `ShardWriter` does it."""
    shards: list[int] = []
    num_bytes = num_subjects = 0
    for estimate in estimates:
        num_bytes, num_subjects = num_bytes + estimate.num_bytes, num_subjects + 1
        if limit.reached(num_bytes, num_subjects):
            shards.append(shard_bytes(num_bytes))
            num_bytes = num_subjects = 0
    return [*shards, shard_bytes(num_bytes)] if num_subjects else shards

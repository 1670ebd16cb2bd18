"""Preparing: what is taken, what is left out and why, and who validates."""

import gzip
import hashlib
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch

from cluster.config import PrepareConfig
from cluster.prepare import outline, prepare, verify
from cluster.shards import INDEX, Index, index_key
from cluster.store import FolderStore, open_store
from cluster.stream import read_index, read_samples
from metasr.config import ExperimentConfig, ModelConfig
from metasr.errors import DataError, StoreError
from metasr.identity import RunIdentity
from metasr.inference.bundle import load_bundle, save_bundle
from metasr.models import build_generator
from tests.cluster.patients import (
    OPTIONS,
    SHAPE,
    SUBJECTS,
    brain,
    make_volumes,
    run_prepare,
    training_crops,
    volume_file,
    write_volume,
)


class FailingStore(FolderStore):
    """A folder on a disk that is full after some objects."""

    def __init__(self, root, room):
        super().__init__(root)
        self.room, self.keys = room, []

    def put_new(self, key, data, *, sha256=""):
        self.put(key, data, sha256=sha256)

    def put(self, key, data, *, sha256=""):
        if len(self.keys) == self.room:
            raise StoreError(f"cannot write {key!r}", "no space left on device")
        self.keys.append(key)
        super().put(key, data, sha256=sha256)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_preparation_that_fails_leaves_no_index(volumes, tmp_path, room):
    store = FailingStore(tmp_path / "store", room)
    with pytest.raises(StoreError, match="no space left"):
        run_prepare(volumes, store)
    assert not store.exists(INDEX)
    assert len(store.keys) == room


def test_the_index_is_written_last(volumes, tmp_path):
    store = FailingStore(tmp_path / "store", room=99)
    run_prepare(volumes, store)
    written = [key for key in store.keys if not key.startswith("prepare/")]
    index = read_index(store)
    shards = [shard.name for split in ("val", "train") for shard in index.shards if shard.split == split]
    assert written == [*shards, index_key(index.digest()), INDEX]
    assert store.keys[-1] == INDEX


class OvertakenStore(FolderStore):
    """A folder in which another preparation writes its index just before ours would write an object."""

    def __init__(self, root, key, others):
        super().__init__(root)
        self.key, self.others = key, others

    def _stat(self, key):
        if key == INDEX and any(self._root.glob(f"{self.key}*")):
            FolderStore(self._root).put(INDEX, self.others)
        return super()._stat(key)

    def _put_new(self, key, data):
        if key == self.key:
            FolderStore(self._root).put(INDEX, self.others)
        return super()._put_new(key, data)


@pytest.mark.parametrize("key", ["val-000000", INDEX])
def test_of_two_preparations_into_one_store_the_second_is_told(volumes, original, tmp_path, key):
    others = (original / INDEX).read_bytes()
    store = OvertakenStore(tmp_path / "store", key, others)
    with pytest.raises(DataError, match="another preparation has written its index"):
        run_prepare(volumes, store)
    assert store.get(INDEX) == others
    assert any((tmp_path / "store").glob("train-*.tar")) == (key == INDEX)


def test_two_preparations_that_write_the_same_can_both_be_done(volumes, original, tmp_path):
    store = OvertakenStore(tmp_path / "store", INDEX, (original / INDEX).read_bytes())
    run_prepare(volumes, store, OPTIONS.model_copy(update={"shard_mb": 0.03}))


def assert_whole(store, index):
    store.put(INDEX, index.to_bytes())
    assert verify(store, lambda line: None) == index


SMALLER = OPTIONS.model_copy(update={"crop_px": 24})  # as many shards of as many samples, of other bytes


def test_the_shards_of_two_preparations_into_one_store_are_both_there_to_be_read(volumes, tmp_path, store):
    indexes = [run_prepare(volumes, store, options).index for options in (OPTIONS, SMALLER)]
    assert read_index(store) == indexes[1]
    for index in indexes:
        assert_whole(store, index)
    assert run_prepare(volumes, open_store(str(tmp_path / "alone"))).index == indexes[0]


def test_a_preparation_within_another_leaves_both_whole(volumes, store):
    within = []

    def another(line):
        if "train, 2 of" in line and not within:
            within.append(run_prepare(volumes, store, SMALLER).index)

    with pytest.raises(DataError, match=r"another preparation has written its index.*Run the same command again"):
        prepare(volumes, store, OPTIONS, lambda line: None, progress=another)
    assert verify(store, lambda line: None) == within[0]
    index = prepare(volumes, store, OPTIONS, lambda line: None, progress=another).index
    assert read_index(store) == index
    for either in (*within, index):
        assert_whole(store, either)


def test_other_options_replace_what_a_store_holds(volumes, tmp_path):
    store = open_store(str(tmp_path))
    run_prepare(volumes, store)
    index = run_prepare(volumes, store, OPTIONS.model_copy(update={"slice_step": 3})).index
    assert read_index(store) == index
    assert len(list(read_samples(store, index, "train"))) == 9


BROKEN = {
    "no NIfTI": lambda path: path.write_text("a text file"),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "not finite": lambda path: write_volume(path, np.where(brain(0) > 0, np.nan, 0).astype(np.float32)),
    "constant": lambda path: write_volume(path, np.ones(SHAPE, np.int16)),
    "no brain": lambda path: write_volume(path, brain(0) * (np.indices(SHAPE).sum(0) < 26)),
    "complex": lambda path: write_volume(path, brain(0).astype(np.complex64)),
    "beyond all scanners": lambda path: write_volume(
        path, brain(0) * np.where(np.indices(SHAPE)[0] % 2, 1e305, -1e305)
    ),
    "four dimensions": lambda path: write_volume(path, np.stack([brain(0)] * 2, axis=-1)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_volume_that_cannot_be_used_is_named_and_the_others_go_on(tmp_path, kind):
    folder = make_volumes(tmp_path / "volumes")
    BROKEN[kind](volume_file(folder, SUBJECTS[2]))
    told = []
    store = open_store(str(tmp_path / "store"))
    report = prepare(folder, store, OPTIONS, told.append)
    assert list(report.refused) == [SUBJECTS[2]]
    assert str(volume_file(folder, SUBJECTS[2])) in report.refused[SUBJECTS[2]]
    assert [line for line in told if "left out" in line] == [
        f"{SUBJECTS[2]}: left out. {report.refused[SUBJECTS[2]]}"
    ]
    assert report.index.subjects == {"train": (SUBJECTS[0], SUBJECTS[3]), "val": (SUBJECTS[1],)}
    assert {sample.subject for sample in read_samples(store, report.index, "train")} == {SUBJECTS[0], SUBJECTS[3]}


@pytest.mark.parametrize("broken", SUBJECTS)
def test_the_others_go_on_whichever_of_them_would_have_validated(tmp_path, broken):
    folder = make_volumes(tmp_path / "volumes")
    volume_file(folder, broken).write_text("a text file")
    options = PrepareConfig(modality="t1ce", crop_px=32)
    report = run_prepare(folder, open_store(str(tmp_path / "store")), options)
    assert list(report.refused) == [broken]
    used = [name for names in report.index.subjects.values() for name in names]
    assert sorted(used) == [name for name in SUBJECTS if name != broken]


def test_nothing_but_broken_volumes_is_an_error_that_leaves_nothing_behind(tmp_path):
    folder = make_volumes(tmp_path / "volumes")
    for subject in SUBJECTS:
        volume_file(folder, subject).write_text("a text file")
    with pytest.raises(DataError, match="too few usable subjects"):
        run_prepare(folder, open_store(str(tmp_path / "store")))
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


@pytest.mark.parametrize("where", ["s3://no-such-bucket/data", "a text file/store"])
def test_an_output_that_cannot_be_written_is_an_error_before_anybody_is_read(tmp_path, s3_url, where):
    (tmp_path / "a text file").write_text("in the way")
    for name in ("a", "b"):
        (tmp_path / f"{name}.nii").write_text("who reads this leaves it out")
    told = []
    with pytest.raises(StoreError, match="cannot write"):
        prepare(
            tmp_path, open_store(where if "://" in where else str(tmp_path / where)), PrepareConfig(), told.append
        )
    assert told == []


def test_one_subject_cannot_be_split(tmp_path):
    write_volume(volume_file(tmp_path / "volumes", SUBJECTS[0]), brain(0))
    with pytest.raises(DataError, match="at least two subjects"):
        run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "store")), PrepareConfig(modality="t1ce"))


def test_an_unknown_validation_subject_is_named_with_those_there_are(volumes, tmp_path):
    with pytest.raises(DataError, match="subject nobody: it is not in the folder") as caught:
        run_prepare(volumes, open_store(str(tmp_path)), PrepareConfig(modality="t1ce", val_subjects=("nobody",)))
    assert all(subject in str(caught.value) for subject in SUBJECTS)


def test_validating_on_everyone_leaves_nobody_to_train_on(volumes, tmp_path):
    with pytest.raises(DataError, match="training and validation need one each"):
        run_prepare(volumes, open_store(str(tmp_path)), OPTIONS.model_copy(update={"val_subjects": tuple(SUBJECTS)}))


def test_the_same_seed_makes_the_same_split_of_other_files_of_the_same_patients(volumes, tmp_path):
    options = PrepareConfig(modality="t1ce", crop_px=32, val_fraction=0.5)
    elsewhere = tmp_path / "elsewhere"
    for seed, subject in enumerate(SUBJECTS):
        write_volume(elsewhere / f"{subject}-t1c.nii", brain(seed + 10))
    one, two = (run_prepare(f, open_store(str(tmp_path / f.name)), options).index for f in (volumes, elsewhere))
    assert one.split_sha256 == two.split_sha256
    assert one.digest() != two.digest()
    other = run_prepare(volumes, open_store(str(tmp_path / "other")), options.model_copy(update={"seed": 2})).index
    assert other.split_sha256 != one.split_sha256


def test_high_and_low_grades_validate_in_proportion(tmp_path):
    grades = {f"patient-{n}": "HGG" if n < 8 else "LGG" for n in range(12)}
    for name, grade in grades.items():
        write_volume(tmp_path / "volumes" / grade / name / f"{name}_t1ce.nii", brain(0))
    for seed in range(3):
        options = PrepareConfig(modality="t1ce", crop_px=32, slice_step=100, val_fraction=0.25, seed=seed)
        index = run_prepare(tmp_path / "volumes", open_store(str(tmp_path / f"store-{seed}")), options).index
        assert sorted(grades[name] for name in index.subjects["val"]) == ["HGG", "HGG", "LGG"]


def test_contrasts_of_one_patient_are_refused_before_anything_is_written(tmp_path):
    for subject in SUBJECTS:
        for contrast in ("flair", "t1", "t1ce", "t2", "seg"):
            write_volume(tmp_path / "volumes" / subject / f"{subject}_{contrast}.nii", brain(0))
    with pytest.raises(DataError, match=r"found: flair, t1, t1ce, t2\. Choose one, such as --modality t1ce"):
        run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "store")), PrepareConfig(crop_px=32))
    assert not (tmp_path / "store").exists()


def test_validating_on_one_visit_of_a_patient_who_trains_is_refused(tmp_path):
    for visit in ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"):
        write_volume(tmp_path / "volumes" / f"{visit}-t1c.nii", brain(0))
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(DataError, match="BraTS-GLI-00001: it is in training and in validation"):
        run_prepare(
            tmp_path / "volumes",
            store,
            PrepareConfig(modality="t1c", crop_px=32, val_subjects=("BraTS-GLI-00001-001",)),
        )
    assert not store.exists(INDEX)


def test_training_crops_of_one_value_are_refused(tmp_path):
    mask = (brain(0) > 0) * np.float32(0.5)  # of whole numbers it would be a mask
    mask[4:36, 4:40] = 0.5
    mask[..., :2] = mask[..., -2:] = 0
    for name in ("a", "b"):
        write_volume(tmp_path / "volumes" / f"{name}.nii", mask)
    with pytest.raises(DataError, match="training crops: all their values are the same"):
        run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "store")), PrepareConfig(crop_px=32))


def test_visits_of_one_patient_are_not_divided_between_the_splits(tmp_path):
    """BraTS names a patient's visits BraTS-GLI-<patient>-<visit>."""
    patients = [f"BraTS-GLI-{number:05d}" for number in range(6)]
    for patient in patients:
        for visit in ("000", "001"):
            write_volume(tmp_path / "volumes" / f"{patient}-{visit}-t1c.nii.gz", brain(0))
    options = PrepareConfig(modality="t1c", crop_px=32, slice_step=100, val_fraction=0.5)
    index = run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "store")), options).index
    train, val = ({name.rpartition("-")[0] for name in index.subjects[split]} for split in ("train", "val"))
    assert train | val == set(patients)
    assert not train & val


@pytest.mark.parametrize(("step", "count"), [(1, 8), (3, 3), (100, 1)])
def test_every_nth_slice_is_taken(volumes, tmp_path, step, count):
    report = run_prepare(volumes, open_store(str(tmp_path)), OPTIONS.model_copy(update={"slice_step": step}))
    assert report.index.shards[1].num_samples == count


def test_the_index_keeps_how_it_was_prepared(original):
    index = Index.model_validate_json((original / INDEX).read_bytes())
    assert PrepareConfig.model_validate(index.options) == OPTIONS.model_copy(update={"shard_mb": 0.03})
    assert index.to_bytes() == (original / INDEX).read_bytes()
    assert index.sha256 == index.digest()


def test_an_index_from_before_there_were_photographs_is_read_and_keeps_its_identity(original):
    index = json.loads((original / INDEX).read_text())
    for name in ("kind", "modality", "split_sha256", "sha256"):
        del index[name]
    old = (json.dumps(index, indent=1, sort_keys=True) + "\n").encode()
    read = Index.model_validate_json(old)
    read.check()
    assert read.kind == "volumes"
    assert read.digest() == hashlib.sha256(old).hexdigest()


def test_the_index_says_what_it_is_made_of_and_who_is_in_which_split(original):
    index = json.loads((original / INDEX).read_text())
    assert (index["kind"], index["modality"]) == ("volumes", "t1ce")
    for split, names in (("train", [SUBJECTS[0], *SUBJECTS[2:]]), ("val", [SUBJECTS[1]])):
        lines = "".join(f"{name}\n" for name in sorted(names))
        assert index["split_sha256"][split] == hashlib.sha256(lines.encode()).hexdigest()


def test_the_generator_in_a_bundle_has_the_mean_and_deviation_of_the_crops(volumes, tmp_path):
    store = open_store(str(tmp_path / "store"))
    run_prepare(volumes, store)
    index = read_index(store)
    config = ExperimentConfig(model=ModelConfig(num_features=4, num_blocks=1))
    generator = build_generator(config.model, mean=index.mean, std=index.std)
    identity = RunIdentity("run", "code", store.url, index.digest())
    save_bundle(tmp_path / "bundle", generator, config, identity, step=1, metrics={})
    loaded = load_bundle(tmp_path / "bundle", torch.device("cpu")).generator
    crops = training_crops(store, index).numpy().astype(np.float64)
    assert float(loaded.mean) == pytest.approx(crops.mean(), rel=1e-6)
    assert float(loaded.std) == pytest.approx(crops.std(), rel=1e-6)


def test_the_outline_says_what_preparing_then_does(volumes, tmp_path):
    lines = outline(volumes, OPTIONS)
    index = run_prepare(volumes, open_store(str(tmp_path / "store")), OPTIONS).index
    for split, line in zip(("train", "val"), lines[:4:2], strict=True):
        assert line.startswith(f"{split}: {len(index.subjects[split])} subjects, files of ")
        assert line.partition("MB: ")[2].split(", ") == sorted(index.subjects[split])


def estimates(folder, options):
    """Return `{split: (images, shards, MB)}` as the outline says them."""
    found = (
        re.match(r"(\w+): at most (\d+) \w+ in (\d+) shards of ([0-9.]+) MB", line)
        for line in outline(folder, options)
    )
    return {match[1]: (int(match[2]), int(match[3]), float(match[4])) for match in found if match}


@pytest.mark.parametrize("shard_mb", [64, 0.03])
@pytest.mark.parametrize("step", [1, 5])
def test_where_every_slice_has_brain_the_outline_estimates_exactly_what_preparing_gives(tmp_path, step, shard_mb):
    rng = np.random.default_rng(0)
    for number in range(9):  # a volume that lies on its side: 14 of its 50 rows are slices
        data = rng.integers(1, 400, (200, 14, 150 + number)).astype(np.int16)
        write_volume(tmp_path / "volumes" / f"{number}.nii.gz", data, np.eye(4)[[0, 2, 1, 3]])
    options = PrepareConfig(crop_px=120, min_brain=0, slice_step=step, shard_mb=shard_mb)
    index = run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "store")), options).index
    for split, (images, shards, megabytes) in estimates(tmp_path / "volumes", options).items():
        written = [shard for shard in index.shards if shard.split == split]
        assert (images, shards) == (sum(shard.num_samples for shard in written), len(written))
        assert megabytes == pytest.approx(sum(shard.num_bytes for shard in written) / 1e6, abs=0.051)


def test_the_outline_is_an_upper_bound_and_reads_no_voxels(volumes, tmp_path):
    index = run_prepare(volumes, open_store(str(tmp_path / "store")), OPTIONS).index
    folder = shutil.copytree(volumes, tmp_path / "volumes")
    headers = {subject: gzip.decompress(volume_file(folder, subject).read_bytes())[:352] for subject in SUBJECTS}
    for subject in SUBJECTS:
        volume_file(folder, subject).write_bytes(gzip.compress(headers[subject]))
    found = estimates(folder, OPTIONS)
    assert found == estimates(volumes, OPTIONS)
    for split in ("train", "val"):
        written = [shard for shard in index.shards if shard.split == split]
        assert found[split][0] > sum(shard.num_samples for shard in written)
        assert found[split][1] == len(written)


def test_the_outline_names_whose_header_is_refused_and_counts_the_others(volumes, tmp_path):
    folder = shutil.copytree(volumes, tmp_path / "volumes")
    volume_file(folder, SUBJECTS[0]).write_text("a text file")
    (line,) = [line for line in outline(folder, OPTIONS) if "would be left out" in line]
    assert line.startswith(
        f"{SUBJECTS[0]}: would be left out. {volume_file(folder, SUBJECTS[0])}: not a readable NIfTI"
    )
    whole = estimates(volumes, OPTIONS)["train"][0]
    assert estimates(folder, OPTIONS)["train"][0] * 3 == whole * 2

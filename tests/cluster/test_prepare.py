"""Preparing: what is taken, what is left out and why, and who validates."""

import hashlib
import os

import numpy as np
import pytest

from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.shards import INDEX, Index
from cluster.store import FolderStore, open_store
from cluster.stream import read_samples
from metasr.errors import DataError, StoreError
from tests.cluster.patients import (
    OPTIONS,
    SHAPE,
    SUBJECTS,
    brain,
    make_volumes,
    run_prepare,
    volume_file,
    write_volume,
)


class FailingStore(FolderStore):
    """A folder on a disk that is full after some objects."""

    def __init__(self, root, room):
        super().__init__(root)
        self.room, self.keys = room, []

    def put(self, key, data):
        if len(self.keys) == self.room:
            raise StoreError(f"cannot write {key!r}", "no space left on device")
        self.keys.append(key)
        super().put(key, data)


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
    assert store.keys == ["train-000000.tar", "val-000000.tar", INDEX]


BROKEN = {
    "no NIfTI": lambda path: path.write_text("a text file"),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "not finite": lambda path: write_volume(path, np.where(brain(0) > 0, np.nan, 0).astype(np.float32)),
    "constant": lambda path: write_volume(path, np.ones(SHAPE, np.int16)),
    "no brain": lambda path: write_volume(path, brain(0) * (np.indices(SHAPE).sum(0) < 26)),
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
    assert not (tmp_path / "store").exists()


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
    assert index.digest() == hashlib.sha256((original / INDEX).read_bytes()).hexdigest()

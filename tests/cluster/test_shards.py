"""Volumes into shards and back: nibabel, numpy and plain webdataset are the independent references."""

import hashlib
import io
import json
import shutil
import tarfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import webdataset

from cluster.config import JobConfig, PrepareConfig
from cluster.recipes import Layer, resolve
from cluster.shards import INDEX
from cluster.store import open_store
from cluster.stream import held_out_slices, read_index, read_samples
from cluster.training.identify import RunSpec, identify
from metasr.errors import DataError
from tests.cluster.patients import (
    OPTIONS,
    SUBJECTS,
    brain,
    make_volumes,
    read_all,
    run_prepare,
    shard_file,
    training_crops,
    volume_file,
    write_volume,
)

CANARY = "Jane-Doe-1970"


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is in the shards


def expected_slices(path):
    """Return `{slice: image}` of a volume, front at the top and the patient's left on the left, brain in [0, 1]."""
    image = nib.as_closest_canonical(nib.load(path))
    data = image.get_fdata()
    unit = data / np.percentile(data[data > 0], 99.9)
    slices = {k: np.flipud(unit[:, :, k].T).astype(np.float16) for k in range(data.shape[2])}
    return {k: image for k, image in slices.items() if (image > 0).mean() >= 0.1}


def read_with_webdataset(shards):
    """Return `{(subject, slice): image}` from local tars with nothing of ours, in their order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves closing its files to Python
        found = list(webdataset.WebDataset([str(path) for path in shards], shardshuffle=False, empty_check=False))
    samples = {}
    for sample in found:
        assert {name for name in sample if not name.startswith("__")} == {"npy", "json"}
        meta = json.loads(sample["json"])
        samples[meta["subject"], meta["slice"]] = np.load(io.BytesIO(sample["npy"]), allow_pickle=False)
    return samples


def assert_is_fullest_window(crop, whole, side):
    windows = np.lib.stride_tricks.sliding_window_view(whole, (side, side))
    fullness = (windows > 0).sum(axis=(2, 3))
    same = (windows == crop).all(axis=(2, 3))
    assert crop.shape == (side, side)
    assert fullness[same].max() == fullness.max()


def test_plain_webdataset_reads_what_nibabel_sees(volumes, store, tmp_path):
    report = run_prepare(volumes, store)
    index = json.loads(store.get("index.json"))
    local = tmp_path / "local"
    local.mkdir()
    for shard in index["shards"]:
        (local / shard["name"]).write_bytes(store.get(shard["name"]))
    for split, subjects in (("train", [SUBJECTS[0], *SUBJECTS[2:]]), ("val", [SUBJECTS[1]])):
        samples = read_with_webdataset([local / s["name"] for s in index["shards"] if s["split"] == split])
        expected = {(s, k): image for s in subjects for k, image in expected_slices(volume_file(volumes, s)).items()}
        assert list(samples) == sorted(expected)
        assert index["subjects"][split] == subjects
        for key, image in samples.items():
            assert image.dtype == np.float16
            if split == "val":
                np.testing.assert_array_equal(image, expected[key])
            else:
                assert_is_fullest_window(image, expected[key], 32)
    assert report.index == read_index(store)
    assert report.refused == {}


def test_the_index_names_every_shard_with_its_bytes_and_samples(original):
    index = json.loads((original / "index.json").read_text())
    files = [path.name for path in original.iterdir() if path.is_file()]
    assert sorted(files) == sorted([INDEX, *(s["name"] for s in index["shards"])])
    for shard in index["shards"]:
        data = (original / shard["name"]).read_bytes()
        samples = read_with_webdataset([original / shard["name"]])
        assert shard["num_bytes"] == len(data)
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()
        assert shard["num_samples"] == len(samples)
        assert shard["subjects"] == list(dict.fromkeys(subject for subject, _ in samples))


@pytest.mark.parametrize("name", ["short", "été", "s" * 120])
def test_the_index_says_where_in_a_shard_the_values_of_each_image_lie(tmp_path, name):
    for seed, subject in enumerate((name, "val")):
        write_volume(tmp_path / "volumes" / f"{subject}.nii.gz", brain(seed))
    options = PrepareConfig(crop_px=32, val_subjects=("val",))
    index = run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "store")), options).index
    for shard in index.shards:
        data = (tmp_path / "store" / shard.name).read_bytes()
        images = read_with_webdataset([tmp_path / "store" / shard.name]).values()
        extents = zip(images, shard.array_offsets, shard.array_bytes, strict=True)
        assert all(image.tobytes() == data[offset : offset + size] for image, offset, size in extents)


def test_the_index_has_the_range_of_pixel_sizes_and_what_identifies_the_recipe(tmp_path, volumes):
    for name, size in (("a", (0.5, 0.75, 3)), ("b", (1, 1.25, 9)), ("c", (1, 1, 1))):
        write_volume(tmp_path / "volumes" / f"{name}.nii", brain(0), np.diag([*size, 1]))
    options = PrepareConfig(crop_px=32)
    index = run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "store")), options).index
    assert index.spacing_mm == (0.5, 1.25)
    same = run_prepare(volumes, open_store(str(tmp_path / "same")), options).index
    other = run_prepare(volumes, open_store(str(tmp_path / "other")), options.model_copy(update={"seed": 1})).index
    assert index.recipe_sha256 == same.recipe_sha256 != other.recipe_sha256


def test_preparing_again_another_day_gives_the_same_bytes(volumes, tmp_path, monkeypatch):
    run_prepare(volumes, open_store(str(tmp_path / "today")))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 86_400)
    run_prepare(shutil.copytree(volumes, tmp_path / "elsewhere"), open_store(str(tmp_path / "tomorrow")))
    assert contents(tmp_path / "today") == contents(tmp_path / "tomorrow")


def number_of_subjects(index, split):
    return [len(shard.subjects) for shard in index.shards if shard.split == split]


def test_a_shard_ends_with_the_subject_that_fills_it_or_makes_four(tmp_path):
    for seed in range(14):
        write_volume(tmp_path / "volumes" / f"{seed:02}.nii", brain(seed))
    options = PrepareConfig(crop_px=32, val_subjects=("00", "01"), slice_step=2)
    index = run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "many")), options).index
    assert number_of_subjects(index, "train") == [3, 3, 3, 3]
    assert number_of_subjects(index, "val") == [1, 1]
    small = options.model_copy(update={"shard_mb": 0.02})  # four crops of a subject take 16 KB
    index = run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "small")), small).index
    assert number_of_subjects(index, "train") == [2] * 6
    assert [shard.name for shard in index.shards if shard.split == "train"] == [
        f"train-{n:06d}-{shard.sha256[:12]}.tar"
        for n, shard in enumerate(shard for shard in index.shards if shard.split == "train")
    ]


def test_mean_and_deviation_are_those_of_all_training_crops(original):
    index = json.loads((original / "index.json").read_text())
    shards = [original / shard["name"] for shard in index["shards"] if shard["split"] == "train"]
    crops = np.stack(list(read_with_webdataset(shards).values())).astype(np.float64)
    assert index["mean"] == pytest.approx(crops.mean(), rel=1e-9)
    assert index["std"] == pytest.approx(crops.std(), rel=1e-9)


def test_one_hot_voxel_does_not_end_the_preparation(tmp_path):
    folder = make_volumes(tmp_path / "volumes")
    data = brain(0).astype(np.float32)
    data[20, 22, 6] = 1e9
    write_volume(volume_file(folder, SUBJECTS[0]), data)
    report = run_prepare(folder, open_store(str(tmp_path / "store")))
    assert np.isfinite(training_crops(open_store(str(tmp_path / "store")), report.index).numpy()).all()


def test_neither_paths_nor_header_texts_reach_the_store(tmp_path):
    folder = make_volumes(tmp_path / f"ward-of-{CANARY}")
    for subject in SUBJECTS:
        image = nib.load(volume_file(folder, subject))
        data = np.asarray(image.dataobj)
        image = nib.Nifti1Image(data, image.affine)
        image.header["descrip"] = image.header["intent_name"] = image.header["db_name"] = CANARY[:10].encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY.encode()))
        nib.save(image, volume_file(folder, subject))
    run_prepare(folder, open_store(str(tmp_path / "store")))
    for data in contents(tmp_path / "store").values():
        for secret in (CANARY[:10], str(tmp_path), str(Path.home()), ".nii", "ward-of"):
            assert secret.encode() not in data


@pytest.mark.parametrize("name", ["sub 01", "été", "sub-01_run.2", "__sub__", "BraTS", "s" * 120])
def test_subjects_keep_their_names(tmp_path, name):
    write_volume(tmp_path / "volumes" / f"{name}.nii.gz", brain(0))
    write_volume(tmp_path / "volumes" / "val.nii.gz", brain(1))
    store = open_store(str(tmp_path / "store"))
    report = run_prepare(tmp_path / "volumes", store, PrepareConfig(crop_px=32, val_subjects=("val",)))
    assert report.index.subjects["train"] == (name,)
    assert [(s.subject, s.slice) for s in read_samples(store, report.index, "train")] == [
        (name, k) for k in range(2, 10)
    ]


def test_subjects_whose_names_differ_in_a_dot_have_keys_of_their_own(tmp_path):
    for seed, name in enumerate(("a.b", "a_b", "c")):
        write_volume(tmp_path / "volumes" / f"{name}.nii.gz", brain(seed))
    options = PrepareConfig(crop_px=32, val_subjects=("c",), slice_step=100)
    run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "store")), options)
    names = []
    for number in range(2):
        with tarfile.open(shard_file(tmp_path / "store", f"train-{number:06d}")) as tar:
            names += tar.getnames()
    assert len(names) == len(set(names)) == 4
    assert len(read_all(open_store(str(tmp_path / "store")))[0]) == 2


# Reading


def test_training_crops_are_read_in_the_order_of_the_index(original):
    store = open_store(str(original))
    index = read_index(store)
    crops = training_crops(store, index)
    samples = list(read_samples(store, index, "train"))
    assert crops.shape == (len(samples), 1, 32, 32)
    assert [(s.subject, s.slice) for s in samples] == sorted((s.subject, s.slice) for s in samples)
    np.testing.assert_array_equal(crops[:, 0].numpy(), np.stack([sample.image for sample in samples]))


def test_who_began_with_a_data_set_reads_it_whatever_is_prepared_into_the_store_since(volumes, store):
    began_with = run_prepare(volumes, store).index
    crops = training_crops(store, began_with)
    newer = run_prepare(volumes, store, OPTIONS.model_copy(update={"crop_px": 34})).index
    assert read_index(store) == newer
    assert read_index(store, began_with.digest()) == began_with
    assert torch.equal(training_crops(store, read_index(store, began_with.digest())), crops)


def test_a_trial_of_a_sweep_is_made_from_the_data_that_the_sweep_began_with(volumes, tmp_path):
    store = open_store(str(tmp_path))
    began_with = run_prepare(volumes, store).index.digest()
    settings = {"data.url": store.url, "loss.perceptual": 0, "storage.url": str(tmp_path / "runs")}
    spec = RunSpec(resolve(JobConfig, [Layer("test", settings)]), "recipe")
    before = identify(spec)
    run_prepare(volumes, store, OPTIONS.model_copy(update={"crop_px": 34}))
    assert identify(spec).run_name != before.run_name
    assert identify(replace(spec, data_digest=began_with)) == before


def test_another_data_set_than_the_one_that_is_wanted_is_refused(original):
    store = open_store(str(original))
    assert read_index(store, read_index(store).digest())
    with pytest.raises(DataError, match="another data set than the run began with"):
        read_index(store, "0" * 64)


@pytest.mark.parametrize("per_subject", [0, 1, 3, 100])
def test_held_out_slices_are_whole_and_evenly_spread(original, volumes, per_subject):
    store = open_store(str(original))
    slices = held_out_slices(store, read_index(store), per_subject)
    expected = expected_slices(volume_file(volumes, SUBJECTS[1]))
    numbers = sorted(expected)
    chosen = {1: [numbers[len(numbers) // 2]], 3: [numbers[i] for i in (1, 4, 6)]}.get(per_subject, numbers)
    assert len(numbers) == 8
    assert [(s.subject, s.number) for s in slices] == [(SUBJECTS[1], number) for number in chosen]
    for held_out in slices:
        np.testing.assert_array_equal(held_out.image[0, 0].numpy(), expected[held_out.number].astype(np.float32))

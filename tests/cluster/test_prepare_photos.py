"""Preparing photographs: Pillow and numpy are the independent references."""

import os

import numpy as np
import pytest
from PIL import Image

from cluster.config import PrepareConfig
from cluster.prepare import outline
from cluster.store import open_store
from cluster.stream import held_out_slices, read_samples
from tests.cluster.patients import run_prepare

PHOTOS = PrepareConfig(kind="photos", crop_px=32, val_subjects=("b/1",))


@pytest.fixture
def photos(tmp_path):
    """A folder with three photographs of 70 x 100 pixels: `a`, `b/1` and `b/2`."""
    for seed, name in enumerate(("a.png", "b/1.png", "b/2.bmp")):
        save_photo(tmp_path / "photos" / name, np.random.default_rng(seed).integers(0, 256, (70, 100, 3), np.uint8))
    return tmp_path / "photos"


def save_photo(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def luminance(path):
    return np.asarray(Image.open(path), np.float64) @ [0.299, 0.587, 0.114] / 255


def test_photographs_train_in_tiles_and_validate_whole(photos, tmp_path):
    store = open_store(str(tmp_path / "store"))
    index = run_prepare(photos, store, PHOTOS).index
    assert (index.kind, index.modality) == ("photos", "")
    assert index.subjects == {"train": ("a", "b/2"), "val": ("b/1",)}
    samples = list(read_samples(store, index, "train"))
    assert [(sample.subject, sample.slice) for sample in samples] == [(s, n) for s in ("a", "b/2") for n in range(6)]
    for place, name in ((0, "a.png"), (6, "b/2.bmp")):
        grid = np.block([[samples[place + 3 * row + column].image for column in range(3)] for row in range(2)])
        np.testing.assert_allclose(grid, luminance(photos / name)[3:67, 2:98], atol=5e-4)
    pixels = np.stack([sample.image for sample in samples]).astype(np.float64)
    assert (index.mean, index.std) == pytest.approx((pixels.mean(), pixels.std()), rel=1e-9)
    (whole,) = held_out_slices(store, index, 0)
    np.testing.assert_allclose(whole.image[0, 0].numpy(), luminance(photos / "b" / "1.png"), atol=5e-4)


def test_every_photograph_is_a_patient_of_its_own_whatever_its_name(tmp_path):
    names = [f"P7_visit{number}" for number in range(4)]
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)
        save_photo(tmp_path / "photos" / f"{name}.png", pixels)
    store, options = open_store(str(tmp_path / "store")), PrepareConfig(kind="photos", crop_px=32, val_fraction=0.5)
    index = run_prepare(tmp_path / "photos", store, options).index
    assert [len(index.subjects[split]) for split in ("train", "val")] == [2, 2]
    assert {one.patient for one in held_out_slices(store, index, 1)} == set(index.subjects["val"])


def test_photographs_split_by_seed_and_are_the_same_bytes_again(photos, tmp_path):
    options = PHOTOS.model_copy(update={"val_subjects": ()})
    for name in ("one", "two"):
        run_prepare(photos, open_store(str(tmp_path / name)), options)
    files = sorted(path.name for path in (tmp_path / "one").iterdir() if path.is_file())
    places = [file.rpartition("-")[0] or file for file in files]
    assert places == ["index.json", "train-000000", "train-000001", "val-000000"]
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_the_outline_counts_the_tiles_of_photographs_from_their_headers(photos, tmp_path):
    index = run_prepare(photos, open_store(str(tmp_path / "store")), PHOTOS).index
    for path in (photos / "a.png", photos / "b" / "1.png"):
        os.truncate(path, 100)  # of the pixels nothing is left
    lines = outline(photos, PHOTOS)
    for split in ("train", "val"):
        written = [shard for shard in index.shards if shard.split == split]
        images = sum(shard.num_samples for shard in written)
        assert any(line.startswith(f"{split}: at most {images} images in {len(written)} shards") for line in lines)


BAD_PHOTOS = {
    "no image": (lambda path: path.write_text("a text file"), "not a readable photograph"),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size // 2), "not a readable photograph"),
    "too small": (lambda path: save_photo(path, np.eye(31, 90, dtype=np.uint8)), "its 90 x 31 pixels hold no tile"),
    "one colour": (lambda path: save_photo(path, np.full((40, 40), 7, np.uint8)), "all its pixels are the same"),
}


@pytest.mark.parametrize("kind", BAD_PHOTOS)
def test_a_photograph_that_cannot_be_used_is_named_and_the_others_go_on(photos, tmp_path, kind):
    spoil, reason = BAD_PHOTOS[kind]
    spoil(photos / "a.png")
    report = run_prepare(photos, open_store(str(tmp_path / "store")), PHOTOS)
    assert list(report.refused) == ["a"]
    assert str(photos / "a.png") in report.refused["a"]
    assert reason in report.refused["a"]
    assert report.index.subjects["train"] == ("b/2",)


@pytest.mark.parametrize("setting", [{"modality": "t1ce"}, {"min_brain": 0.2}, {"slice_step": 2}])
def test_settings_of_volumes_are_not_taken_for_photographs(setting):
    PrepareConfig(**setting)
    with pytest.raises(ValueError, match=f"{next(iter(setting))} is for volumes"):
        PrepareConfig(kind="photos", **setting)

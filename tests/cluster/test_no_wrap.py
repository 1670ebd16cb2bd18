"""From file to training crop no intensity wraps: what was brighter in the file is brighter in the crop, whatever type
the file has. (Table 1 of the paper was measured on images that had wrapped modulo 256.)"""

import struct
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cluster.config import PrepareConfig
from cluster.prepare import MAX_UNIT
from cluster.store import open_store
from metasr.data.intensity import find_background
from tests.cluster.patients import brain, run_prepare, training_crops, write_volume

SIDE = 32
SLOPE_OFFSET = 112  # of scl_slope and scl_inter in a NIfTI-1 header
EXTREMES = [0, 1, 127, 128, 255, 256, 257, 32767, 32768, 65534, 65535, -1, -128, -129, -32768]
MORE = range(40)
FLOAT16_STEP = 2.0**-11  # relative


def in_range(dtype):
    if dtype.startswith("float"):
        return st.sampled_from([float(value) for value in EXTREMES] + [0.5, -0.25, 70000.0, 1e6])
    limits = np.iinfo(dtype)
    return st.sampled_from([v for v in EXTREMES if limits.min <= v <= limits.max]) | st.integers(
        limits.min, limits.max
    )


def contents(*dtypes):
    """The values of an array, of one of the types, and a seed that puts them in their places.

    Few whole numbers would be those of a label map: more of them lie beside those that are drawn.
    """
    values = st.sampled_from(dtypes).flatmap(
        lambda dtype: st.lists(in_range(dtype), min_size=2, max_size=30, unique=True).map(
            lambda values: np.unique(np.array([*values, *MORE], dtype))
        )
    )
    return st.tuples(values, st.integers(0, 1000))


def fill(shape, content):
    """Return an array in which every value occurs."""
    values, seed = content
    random = np.random.default_rng(seed)
    data = random.choice(values, shape)
    data.flat[random.permutation(data.size)[: len(values)]] = values
    return data


def assert_rises_with(crop, true):
    """`crop` is a rising straight line of `true`, to the resolution of float16."""
    order = np.argsort(true, kind="stable")
    crop, true = crop[order], true[order]
    assert (np.diff(crop) >= 0).all()
    line = crop[0] + (true - true[0]) / (true[-1] - true[0]) * (crop[-1] - crop[0])
    np.testing.assert_allclose(crop, line, rtol=0, atol=4 * FLOAT16_STEP * np.abs(crop).max())


@settings(max_examples=30, deadline=None)
@given(
    content=contents("uint8", "int8", "int16", "uint16", "float32", "float64"),
    slope=st.sampled_from([1.0, 0.5, 3.0, 1 / 32767, 1000.0, -2.0]),
    intercept=st.sampled_from([0.0, -1024.0, 0.25, 32768.0]),
)
def test_volumes_keep_their_order_from_file_to_crop(content, slope, intercept):
    data = fill((SIDE, SIDE, 3), content)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "volumes", "a.nii")
        write_volume(file, data, np.eye(4))
        content = bytearray(file.read_bytes())
        content[SLOPE_OFFSET : SLOPE_OFFSET + 8] = struct.pack("<ff", slope, intercept)
        file.write_bytes(content)
        write_volume(file.with_name("val.nii"), brain(0))
        store = open_store(str(Path(folder, "store")))
        options = PrepareConfig(crop_px=SIDE, min_brain=0, val_subjects=("val",))
        crops = training_crops(store, run_prepare(file.parent, store, options).index)
    true = data.astype(np.float64) * np.float64(np.float32(slope)) + np.float64(np.float32(intercept))
    # Slices run from feet to head, rows from front to back: the voxels of the file are those of the crops.
    crop = crops[:, 0].numpy().astype(np.float64).transpose(2, 1, 0)[:, ::-1]
    background = find_background(true)
    assert (crop[true == background] == 0).all()
    is_brain = (true != background) & (np.abs(crop) < MAX_UNIT)
    if len(np.unique(true[is_brain])) > 1:
        assert_rises_with(crop[is_brain], true[is_brain])
    assert (crop[true == true.max()] >= crop[is_brain].max()).all() or true.max() == background


@settings(max_examples=15, deadline=None)
@given(content=contents("uint8", "uint16"), ending=st.sampled_from(["png", "tif"]))
def test_gray_photographs_are_what_their_file_says(content, ending):
    data = fill((SIDE, 2 * SIDE), content)
    crop = crop_of(data, ending)
    np.testing.assert_allclose(crop, data / np.iinfo(data.dtype).max, rtol=FLOAT16_STEP, atol=1e-7)
    assert_rises_with(crop.ravel(), data.astype(np.float64).ravel())


@settings(max_examples=10, deadline=None)
@given(content=contents("uint8"), ending=st.sampled_from(["png", "tif", "bmp"]))
def test_colour_photographs_are_the_weighted_sum_of_their_channels(content, ending):
    data = fill((SIDE, SIDE, 3), content)
    expected = data.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(crop_of(data, ending), expected, rtol=FLOAT16_STEP, atol=1e-7)


def crop_of(data, ending):
    """Prepare a photograph with another one, and return its tiles side by side."""
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        photos.mkdir()
        Image.fromarray(data).save(photos / f"a.{ending}")
        Image.fromarray(np.eye(SIDE, dtype=np.uint8) * 255).save(photos / "val.png")
        store = open_store(str(Path(folder, "store")))
        options = PrepareConfig(kind="photos", crop_px=SIDE, val_subjects=("val",))
        crops = training_crops(store, run_prepare(photos, store, options).index)
    return np.hstack(crops[:, 0].numpy()).astype(np.float64)

"""Intensity scaling: brains between 0 and 1, whatever constant surrounds them, and back again."""

import nibabel as nib
import numpy as np
import pytest

from metasr.data.intensity import IntensityScale
from metasr.data.volume import load_volume

SHAPE = (12, 13, 14)
BRAIN = (slice(3, 9), slice(3, 10), slice(3, 11))


def head(low, high, background):
    """Return a volume with brain values in [low, high] in a box, and a constant around it."""
    data = np.full(SHAPE, background, dtype=np.float64)
    data[BRAIN] = np.random.default_rng(0).uniform(low, high, data[BRAIN].shape)
    return data


def assert_keeps_values_apart(data, scale):
    """Different intensities stay different and in order, and come back."""
    unit = scale.to_unit(data)
    brain = data != data[0, 0, 0]
    order = np.argsort(data[brain])
    assert (np.diff(unit[brain][order]) >= 0).all()
    assert np.ptp(unit[brain]) > 0
    assert np.allclose(scale.from_unit(unit)[brain], data[brain], atol=1e-5 * np.ptp(data))


def test_a_raw_volume_keeps_its_background_at_zero():
    data = head(100, 900, 0)
    scale = IntensityScale.fit(data)
    assert (scale.background, scale.low) == (0, 0)
    unit = scale.to_unit(data)
    assert unit.dtype == np.float32
    assert (unit[data == 0] == 0).all()
    assert unit[data > 0].min() > 0
    assert np.allclose(unit, data / np.percentile(data[BRAIN], 99.9), atol=1e-6)


@pytest.mark.parametrize(("low", "high", "background"), [(100, 900, 0), (-1, 4, -1.3), (20, 90, -1000), (-2, 3, 0)])
def test_the_99_9th_percentile_of_the_brain_becomes_one(low, high, background):
    data = head(low, high, background)
    scale = IntensityScale.fit(data)
    unit = scale.to_unit(data)[data != background]
    assert np.percentile(unit, 99.9) == pytest.approx(1, abs=1e-5)


def test_a_few_hot_voxels_do_not_set_the_scale():
    data = np.zeros((40, 40, 40))
    data[5:35, 5:35, 5:35] = np.random.default_rng(0).uniform(10, 100, (30, 30, 30))
    data[6, 6, 6:10] = 1e6
    scale = IntensityScale.fit(data)
    assert 95 < scale.high < 101
    assert scale.to_unit(data).max() > 9000


def test_the_negative_background_of_a_z_scored_volume_becomes_zero():
    data = head(-1, 4, -1.3)
    scale = IntensityScale.fit(data)
    assert (scale.background, scale.low) == (-1.3, -1.3)
    assert (scale.to_unit(data)[data == -1.3] == 0).all()
    assert scale.to_unit(data)[BRAIN].min() > 0


def test_a_background_far_below_the_brain_does_not_squeeze_it():
    data = head(20, 90, -1000)
    scale = IntensityScale.fit(data)
    unit = scale.to_unit(data)
    assert scale.background == -1000
    assert (unit[data == -1000] == 0).all()
    assert unit[BRAIN].std() > 0.2
    assert np.percentile(unit[BRAIN], 0.1) == pytest.approx(0, abs=1e-5)


def test_a_background_in_the_middle_of_the_brains_range_becomes_zero():
    data = head(-2, 3, 0)
    scale = IntensityScale.fit(data)
    assert scale.background == 0
    assert (scale.to_unit(data)[data == 0] == 0).all()
    assert_keeps_values_apart(data, scale)


@pytest.mark.parametrize("background", [600, 2000, 65535])
def test_a_background_above_the_brain_does_not_hide_it(background):
    data = head(0, 500, background)
    scale = IntensityScale.fit(data)
    assert scale is not None
    assert_keeps_values_apart(data, scale)


def test_a_volume_without_a_constant_around_it_uses_its_own_range():
    data = np.random.default_rng(0).normal(300, 50, SHAPE)
    scale = IntensityScale.fit(data)
    assert scale.background is None
    assert (scale.low, scale.high) == pytest.approx(tuple(np.percentile(data, [0.1, 99.9])))
    assert np.allclose(scale.from_unit(scale.to_unit(data)), data, atol=1e-3)


@pytest.mark.parametrize("value", [0.0, 7.5, -1000.0])
def test_a_volume_of_one_value_has_no_scale(value):
    assert IntensityScale.fit(np.full(SHAPE, value)) is None


@pytest.mark.parametrize(("background", "value"), [(0, 40), (0, -40), (-1000, 3)])
def test_one_voxel_in_the_background_is_told_from_it(background, value):
    data = np.full(SHAPE, float(background))
    data[5, 6, 7] = value
    scale = IntensityScale.fit(data)
    assert scale is not None
    unit = scale.to_unit(data)
    assert unit[5, 6, 7] != unit[0, 0, 0]
    assert scale.from_unit(unit)[5, 6, 7] == pytest.approx(value)


def test_a_mask_of_zeros_and_ones_is_not_a_volume_of_one_value():
    data = np.zeros(SHAPE)
    data[BRAIN] = 1
    scale = IntensityScale.fit(data)
    assert scale is not None
    unit = scale.to_unit(data)
    assert (unit[data == 1] != unit[0, 0, 0]).all()
    assert np.allclose(scale.from_unit(unit)[BRAIN], 1)


@pytest.mark.parametrize(("low", "high", "background"), [(100, 900, 0), (-1, 4, -1.3), (-2, 3, 0), (1e-9, 5e-9, 0)])
def test_from_unit_undoes_to_unit(low, high, background):
    data = head(low, high, background)
    scale = IntensityScale.fit(data)
    back = scale.from_unit(scale.to_unit(data))
    assert back.dtype == np.float64
    brain = data != background
    assert np.allclose(back[brain], data[brain], rtol=0, atol=1e-5 * np.ptp(data))


def test_nothing_is_clipped():
    data = head(100, 900, 0)
    scale = IntensityScale.fit(data)
    beyond = np.array([-50.0, 5000.0])
    assert np.allclose(scale.from_unit(scale.to_unit(beyond)), beyond, atol=1e-3)


def test_the_input_is_left_as_it_was():
    data = head(20, 90, -1000)
    before = data.copy()
    IntensityScale.fit(data).to_unit(data)
    assert np.array_equal(data, before)


def test_slices_of_a_volume_map_as_the_volume_does():
    data = head(100, 900, 0)
    scale = IntensityScale.fit(data)
    whole = scale.to_unit(data)
    assert all(np.array_equal(scale.to_unit(data[k]), whole[k]) for k in range(SHAPE[0]))


@pytest.mark.parametrize("background", ["min", "zero"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_full_range_integers_do_not_wrap_on_the_way_from_file_to_unit(tmp_path, dtype, background):
    limits = np.iinfo(dtype)
    data = np.full((10, 20, 40), limits.min if background == "min" else 0, dtype)
    data[1:-1, 1:-1, 1:-1] = np.linspace(limits.min, limits.max, 8 * 18 * 38).reshape(8, 18, 38).round().astype(dtype)
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "range.nii.gz")
    read = load_volume(tmp_path / "range.nii.gz").data
    scale = IntensityScale.fit(read)
    unit = scale.to_unit(read)
    rising = unit[1:-1, 1:-1, 1:-1].ravel()
    changes = np.diff(data[1:-1, 1:-1, 1:-1].ravel().astype(np.int64))
    assert (np.diff(rising)[changes > 0] > 0).all()
    assert np.array_equal(np.rint(scale.from_unit(unit)).astype(np.int64), data)

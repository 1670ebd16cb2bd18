"""Which slices, and which window of them."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from metasr.data.slices import (
    brain_slices,
    central_crop,
    exact_sizes,
    informational_crop,
    informational_window,
    slice_lengths,
)


def speckled(shape, seed, density):
    """Return an image whose non-zero pixels are all different, so that a window says where it came from."""
    random = np.random.default_rng(seed)
    values = np.arange(1, math.prod(shape) + 1, dtype=np.float32).reshape(shape)
    return np.where(random.random(shape) < density, values, np.float32(0))


def test_brain_slices_are_those_with_enough_brain():
    axial = np.zeros((5, 4, 5), np.float32)
    axial[1, 0, :2] = 0.5
    axial[2] = -0.5
    axial[3, 0, :1] = 0.5
    axial[4, 1:3] = 0.5
    assert brain_slices(axial, 0.1).tolist() == [1, 2, 4]
    assert brain_slices(axial, 0.5).tolist() == [2, 4]
    assert brain_slices(axial, 1.0).tolist() == [2]
    assert brain_slices(axial, 0.0).tolist() == [0, 1, 2, 3, 4]
    assert brain_slices(axial[:1], 0.1).tolist() == []


@pytest.mark.parametrize("density", [0.02, 0.2, 0.7])
@pytest.mark.parametrize("shape", [(9, 14), (5, 11), (12, 5), (5, 5), (30, 8)])
def test_the_crop_is_a_window_with_the_most_brain(shape, density):
    for seed in range(10):
        image = speckled(shape, seed, density)
        windows = sliding_window_view(image, (5, 5)).reshape(-1, 5, 5)
        most = np.count_nonzero(windows, axis=(1, 2)).max()
        crop = informational_crop(image, 5)
        assert np.count_nonzero(crop) == most
        assert (windows == crop).all(axis=(1, 2)).any()


def test_negative_pixels_are_brain_too():
    image = np.zeros((9, 9), np.float32)
    image[0, 0] = 3
    image[6:, 6:] = -1
    assert np.count_nonzero(informational_crop(image, 4) == -1) == 9


@pytest.mark.parametrize(("row", "column"), [(5, 5), (4, 7), (7, 4)])
def test_a_small_brain_comes_to_lie_in_the_middle_of_the_crop(row, column):
    image = np.zeros((14, 14), np.float32)
    image[row : row + 2, column : column + 2] = 1
    expected = np.zeros((6, 6), np.float32)
    expected[2:4, 2:4] = 1
    assert np.array_equal(informational_crop(image, 6), expected)


def test_two_equal_brains_give_a_window_with_one_of_them():
    image = np.zeros((4, 24), np.float32)
    image[1:3, 1:3] = 1
    image[1:3, 21:23] = 1
    assert np.count_nonzero(informational_crop(image, 4)) == 4


def test_an_empty_and_a_full_image_are_cropped_in_the_middle():
    full = np.arange(1, 101, dtype=np.float32).reshape(10, 10)
    assert np.array_equal(informational_crop(full, 4), full[3:7, 3:7])
    assert np.array_equal(informational_crop(np.zeros((10, 10), np.float32), 4), np.zeros((4, 4)))


@pytest.mark.parametrize("shape", [(3, 4), (3, 9), (9, 4), (6, 6), (1, 1)])
def test_smaller_images_are_padded_with_background_on_both_sides(shape):
    image = np.arange(1, math.prod(shape) + 1, dtype=np.float32).reshape(shape)
    crop = informational_crop(image, 6)
    assert crop.shape == (6, 6)
    rows, columns = np.nonzero(crop)
    for where, length in ((rows, shape[0]), (columns, shape[1])):
        inside = min(length, 6)
        assert np.ptp(where) == inside - 1
        assert where.min() == (6 - inside) // 2
    assert np.isin(crop[crop > 0], image).all()
    assert np.count_nonzero(crop) == min(shape[0], 6) * min(shape[1], 6)


@pytest.mark.parametrize(("shape", "side"), [((9, 12), 4), ((3, 12), 5), ((3, 4), 5)])
def test_the_window_is_where_the_crop_comes_from(shape, side):
    image = speckled(shape, 3, 0.4)
    rows, columns = informational_window(image, side)
    window = image[rows, columns]
    assert window.shape == (min(side, shape[0]), min(side, shape[1]))
    crop = informational_crop(image, side)
    top, left = (side - window.shape[0]) // 2, (side - window.shape[1]) // 2
    assert np.array_equal(crop[top : top + window.shape[0], left : left + window.shape[1]], window)


def test_the_crop_keeps_the_type():
    assert informational_crop(speckled((9, 9), 0, 0.5), 4).dtype == np.float32


@pytest.mark.parametrize("tenths", range(11, 161))
def test_a_slice_is_evaluated_at_exactly_every_tenth(tenths):
    hr, lr = slice_lengths(240, tenths / 10)
    assert Fraction(hr, lr) == Fraction(tenths, 10)
    assert 240 - tenths < hr <= 240


@given(length=st.integers(16, 600), scale=st.floats(1, 16))
def test_other_scales_are_met_to_half_a_pixel_on_nearly_the_whole_slice(length, scale):
    hr, lr = slice_lengths(length, scale)
    assert lr >= 1
    assert hr <= length
    assert abs(hr - lr * scale) <= 0.5 + 1e-9
    is_small_fraction = any(abs(scale * q - round(scale * q)) < 1e-6 for q in range(1, 11))
    assert is_small_fraction or hr > length - scale - 1


@pytest.mark.parametrize("scale", [1, 1.25, 4.0])
def test_scales_that_are_small_fractions_are_exact(scale):
    hr, lr = slice_lengths(58, scale)
    assert hr == lr * scale


@given(length=st.integers(1, 600), tenths=st.integers(11, 160))
def test_exact_sizes_are_the_largest_with_exactly_the_scale(length, tenths):
    scale = Fraction(tenths, 10)
    if length < scale.numerator:
        with pytest.raises(ValueError, match="cannot hold scale"):
            exact_sizes(length, scale)
        return
    hr, lr = exact_sizes(length, scale)
    assert Fraction(hr, lr) == scale
    assert length - scale.numerator < hr <= length


def test_the_patch_of_the_paper_at_2_7():
    assert exact_sizes(96, Fraction(27, 10)) == (81, 30)


@pytest.mark.parametrize("scale", [1.1, 1.5, 2.7, 4, math.sqrt(2), math.e, math.pi, 5, 6, 8])
def test_every_scale_of_the_protocol_uses_most_of_a_brats_slice(scale):
    hr, lr = slice_lengths(240, scale)
    assert hr / lr == pytest.approx(scale, rel=0.005)
    assert hr > 210


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3), (9, 8), (1, 1)])
def test_the_central_crop_leaves_equal_borders(height, width):
    image = np.arange(72, dtype=np.float32).reshape(9, 8)
    crop = central_crop(image, height, width)
    assert crop.shape == (height, width)
    top, left = (9 - height) // 2, (8 - width) // 2
    assert crop[0, 0] == image[top, left]
    assert crop[-1, -1] == image[top + height - 1, left + width - 1]

import math

import numpy as np
import pytest
import scipy.fft
import torch
from PIL import Image

from metasr.data.degrade import resize_bicubic, truncate_kspace

SIZES = [
    ((81, 54), (30, 20)),  # x2.7 down
    ((33, 66), (10, 60)),  # x3.3 and x1.1 down
    ((47, 31), (13, 30)),  # ratios without a short period
    ((96, 64), (24, 16)),  # x4 down
    ((10, 20), (27, 22)),  # x2.7 and x1.1 up
    ((13, 17), (52, 41)),  # x4 and an odd ratio up
    ((40, 12), (15, 31)),  # down and up
]


def random_array(size, seed=0):
    return np.random.default_rng(seed).random(size)


def keys_kernel(x, a=-0.5):
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    if x < 2:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return 0.0


def keys_matrix(old, new):
    """Weights `[new, old]` of one axis: the kernel widened when shrinking, what lies outside the image left out."""
    scale = old / new
    width = max(scale, 1.0)
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * scale - 0.5
        for j in range(math.floor(centre - 2 * width), math.ceil(centre + 2 * width) + 1):
            if 0 <= j < old:
                matrix[i, j] = keys_kernel((j - centre) / width)
    return matrix / matrix.sum(axis=1, keepdims=True)


def resize(array, size):
    return resize_bicubic(torch.from_numpy(array).float()[None, None], size)[0, 0].numpy()


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resize_is_keys_kernel_on_half_pixel_centres(old, new):
    array = random_array(old)
    expected = keys_matrix(old[0], new[0]) @ array @ keys_matrix(old[1], new[1]).T
    np.testing.assert_allclose(resize(array, new), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_resize_is_what_pillow_computes(old, new):
    array = random_array(old).astype(np.float32)
    expected = np.asarray(Image.fromarray(array).resize(new[::-1], Image.Resampling.BICUBIC))
    np.testing.assert_allclose(resize(array, new), expected, rtol=0, atol=1e-5)


def test_resize_to_the_same_size_changes_nothing():
    array = random_array((9, 14)).astype(np.float32)
    np.testing.assert_allclose(resize(array, (9, 14)), array, rtol=0, atol=1e-7)


def test_overshoot_is_neither_clipped_nor_wrapped():
    step = np.zeros((16, 16))
    step[:, 8:] = 1
    enlarged = resize(step, (16, 48))
    assert enlarged.min() < -0.01
    assert enlarged.max() > 1.01


@pytest.mark.parametrize("size", [(7, 9), (30, 45)])
def test_intensities_of_any_range_scale_along(size):
    array = random_array((20, 30))
    np.testing.assert_allclose(resize(array * 3000 - 700, size), resize(array, size) * 3000 - 700, atol=0.01)


@pytest.mark.parametrize("size", [(11, 13), (50, 61)])
def test_constant_images_stay_constant(size):
    np.testing.assert_allclose(resize(np.full((23, 29), 0.7), size), 0.7, rtol=0, atol=1e-6)


def test_shrinking_removes_what_the_small_grid_cannot_hold():
    checkerboard = np.indices((64, 64)).sum(axis=0) % 2
    inner = resize(checkerboard.astype(float), (20, 20))[3:-3, 3:-3]
    assert np.abs(inner - 0.5).max() < 0.05


def test_images_and_channels_are_resized_on_their_own():
    images = torch.from_numpy(random_array((2, 3, 12, 15))).float()
    together = resize_bicubic(images, (7, 22))
    assert together.shape == (2, 3, 7, 22)
    for n in range(2):
        for c in range(3):
            alone = resize_bicubic(images[n : n + 1, c : c + 1], (7, 22))[0, 0]
            torch.testing.assert_close(together[n, c], alone, rtol=0, atol=1e-6)


# k-space truncation

SHRINKING = [(old, new) for old, new in SIZES if old[0] >= new[0] and old[1] >= new[1]]


def truncate(array, size):
    return truncate_kspace(torch.from_numpy(array).float()[None, None], size)[0, 0].numpy()


@pytest.mark.parametrize(("old", "new"), SHRINKING)
def test_truncation_is_the_low_part_of_scipys_cosine_transform(old, new):
    array = random_array(old)
    coefficients = scipy.fft.dctn(array, norm="ortho")[: new[0], : new[1]]
    expected = scipy.fft.idctn(coefficients, norm="ortho") * math.sqrt(new[0] * new[1] / (old[0] * old[1]))
    np.testing.assert_allclose(truncate(array, new), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("new", [(31, 31), (45, 25), (21, 61)])
def test_truncation_is_a_cut_of_the_fourier_transform_where_borders_are_dark(new):
    """A smooth head, its spectrum cut and read at the centres of the new pixels."""
    old = (93, 125)
    y, x = np.meshgrid(*((np.arange(n) - n / 2) / n for n in old), indexing="ij")
    head = np.exp(-((y / 0.12) ** 2) - (x / 0.1) ** 2) * (1 + 0.3 * np.cos(40 * x + 25 * y))
    expected = head
    for axis, (n, m) in enumerate(zip(old, new, strict=True)):
        k = np.arange(-(m // 2), m // 2 + 1)
        spectrum = np.tensordot(np.exp(-2j * np.pi / n * np.outer(k, np.arange(n))), expected, (1, axis)) / n
        centres = (np.arange(m) + 0.5) * n / m - 0.5
        expected = np.moveaxis(np.tensordot(np.exp(2j * np.pi / n * np.outer(centres, k)), spectrum, (1, 0)), 0, axis)
    np.testing.assert_allclose(truncate(head, new), expected.real, rtol=0, atol=2e-3)


def test_truncation_keeps_the_mean_and_every_frequency_that_fits():
    array = random_array((60, 44))
    assert truncate(array, (23, 17)).mean() == pytest.approx(array.mean(), abs=1e-6)
    wave = np.cos(np.pi * 5 * (np.arange(60) + 0.5) / 60)[:, None] * np.ones(44)
    kept = np.cos(np.pi * 5 * (np.arange(22) + 0.5) / 22)[:, None] * np.ones(16)
    np.testing.assert_allclose(truncate(wave, (22, 16)), kept, atol=1e-5)
    gone = np.cos(np.pi * 25 * (np.arange(60) + 0.5) / 60)[:, None] * np.ones(44)
    np.testing.assert_allclose(truncate(gone, (22, 16)), 0, atol=1e-5)


def test_truncation_rings_at_an_edge_and_bicubic_hardly():
    edge = torch.zeros(1, 1, 64, 64)
    edge[..., 30:] = 1
    overshoot = [degrade(edge, (16, 16)).max().item() - 1 for degrade in (truncate_kspace, resize_bicubic)]
    assert overshoot[0] > 0.08
    assert overshoot[1] < 0.08


def test_the_same_size_is_the_same_image():
    array = random_array((21, 34))
    np.testing.assert_allclose(truncate(array, (21, 34)), array, atol=1e-5)

"""The kinds of degradation as the settings name them: thick slices, 8 bits, and noise on any of them."""

import math
from typing import get_args

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metasr.config import DataConfig
from metasr.data.degrade import Degradation, resize_bicubic, truncate_kspace

KINDS = get_args(DataConfig.model_fields["degradation"].annotation)
SHRINKING = [
    ((81, 54), (30, 20)),  # x2.7
    ((33, 66), (10, 60)),  # x3.3 and x1.1
    ((47, 31), (13, 30)),  # ratios without a short period
    ((40, 25), (40, 10)),  # one axis alone
    ((21, 34), (5, 1)),
]


def random_images(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random(shape, dtype=np.float32))


def degrade(kind, array, size):
    image = torch.from_numpy(np.asarray(array, dtype=np.float64))[None, None]
    return Degradation(kind)(image, size)[0, 0].numpy()


def test_the_settings_know_every_kind():
    assert set(KINDS) == set(get_args(Degradation.__dataclass_fields__["kind"].type))


@pytest.mark.parametrize(("kind", "function"), [("bicubic", resize_bicubic), ("kspace", truncate_kspace)])
def test_a_kind_without_noise_is_its_function(kind, function):
    images = random_images(2, 1, 27, 20)
    assert torch.equal(Degradation(kind)(images, (10, 15)), function(images, (10, 15)))
    assert torch.equal(Degradation(kind)(images, (10, 15), seeds=[7, 8]), function(images, (10, 15)))


@st.composite
def shrinkings(draw):
    old = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    new = tuple(draw(st.integers(1, n)) for n in old)
    return (draw(st.integers(1, 3)), draw(st.sampled_from([1, 3])), *old), new


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
@given(shrinking=shrinkings())
@settings(max_examples=25, deadline=None)
def test_any_shape_comes_out_finite_and_in_the_size_asked_for(kind, noise, shrinking):
    shape, size = shrinking
    images = random_images(*shape)
    before = images.clone()
    lr = Degradation(kind, noise)(images, size)
    assert lr.shape == (*shape[:2], *size)
    assert lr.dtype == torch.float32
    assert lr.isfinite().all()
    assert torch.equal(images, before)


@pytest.mark.parametrize("kind", KINDS)
@given(shrinking=shrinkings(), level=st.integers(0, 255))
@settings(max_examples=25, deadline=None)
def test_constant_images_stay_constant(kind, shrinking, level):
    shape, size = shrinking
    lr = Degradation(kind)(torch.full(shape, level / 255), size)
    torch.testing.assert_close(lr, torch.full_like(lr, level / 255), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["thick_slices", "bilinear8"])
@given(shrinking=shrinkings())
@settings(max_examples=25, deadline=None)
def test_what_averages_stays_between_the_darkest_and_the_brightest(kind, shrinking):
    shape, size = shrinking
    images = (random_images(*shape) * 255).round() / 255
    lr = Degradation(kind)(images, size)
    assert lr.min() >= images.min() - 1e-6
    assert lr.max() <= images.max() + 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_images_and_channels_are_degraded_on_their_own(kind):
    images = random_images(2, 3, 24, 15)
    together = Degradation(kind)(images, (11, 15))
    for n in range(2):
        for c in range(3):
            alone = Degradation(kind)(images[n : n + 1, c : c + 1], (11, 15))[0, 0]
            torch.testing.assert_close(together[n, c], alone, rtol=0, atol=1e-6)


# thick slices


def slice_profiles(old, new):
    """Weights `[new, old]` of one axis, a pixel at a time."""
    if old == new:
        return np.eye(old)
    thickness = old / new
    sigma = thickness / (2 * math.sqrt(2 * math.log(2)))
    weights = np.zeros((new, old))
    for i in range(new):
        for j in range(old):
            weights[i, j] = math.exp(-0.5 * (((j + 0.5) - (i + 0.5) * thickness) / sigma) ** 2)
        weights[i] /= weights[i].sum()
    return weights


@pytest.mark.parametrize(("old", "new"), SHRINKING)
def test_thick_slices_average_over_gaussian_profiles(old, new):
    array = random_images(*old).double().numpy()
    expected = slice_profiles(old[0], new[0]) @ array @ slice_profiles(old[1], new[1]).T
    np.testing.assert_allclose(degrade("thick_slices", array, new), expected, rtol=0, atol=1e-12)
    single = Degradation("thick_slices")(torch.from_numpy(array).float()[None, None], new)[0, 0]
    np.testing.assert_allclose(single, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ratio", [3, 5])
def test_thick_slices_are_every_rth_pixel_of_scipys_gaussian_filter(ratio):
    """At odd ratios the centres of the LR pixels are those of HR pixels."""
    array = random_images(ratio * 14, 9).double().numpy()
    filtered = scipy.ndimage.gaussian_filter1d(array, sigma=ratio / 2.354820045, axis=0, truncate=6)
    inner = slice(3, -3)  # scipy mirrors at the borders
    lr = degrade("thick_slices", array, (14, 9))
    np.testing.assert_allclose(lr[inner], filtered[ratio // 2 :: ratio][inner], rtol=0, atol=1e-6)


@pytest.mark.parametrize("thickness", [2.5, 4.0, 8.0])
def test_slices_are_as_thick_at_half_maximum_as_they_are_apart(thickness):
    """Responses of one LR pixel to single bright HR pixels, interpolated at half of the highest."""
    old = 80
    new = round(old / thickness)
    responses = degrade("thick_slices", np.eye(old), (new, old))[new // 2]
    peak = scipy.ndimage.zoom(responses, 64, order=3, grid_mode=True, mode="nearest")
    width = (peak > peak.max() / 2).sum() / 64
    assert width == pytest.approx(thickness, rel=0.02)


def test_thick_slices_keep_the_mean_of_a_head_in_the_dark():
    y, x = np.meshgrid(np.linspace(-1, 1, 90), np.linspace(-1, 1, 77), indexing="ij")
    head = np.exp(-12 * (y**2 + x**2)) * (1 + 0.2 * np.cos(9 * x))
    for size in [(30, 20), (81, 77), (27, 33)]:
        assert degrade("thick_slices", head, size).mean() == pytest.approx(head.mean(), rel=2e-3)


def test_thick_slices_do_not_ring():
    edge = np.zeros((64, 64))
    edge[:, 30:] = 1
    lr = degrade("thick_slices", edge, (16, 16))
    assert (np.diff(lr, axis=1) >= -1e-12).all()


# bilinear in 8 bits


@pytest.mark.parametrize(("old", "new"), SHRINKING)
def test_bilinear8_interpolates_between_rounded_levels_and_rounds(old, new):
    array = random_images(*old).double().numpy() * 1.4 - 0.2
    expected = np.round(np.clip(array, 0, 1) * 255)
    for axis in (0, 1):
        centres = (np.arange(new[axis]) + 0.5) * old[axis] / new[axis] - 0.5
        expected = np.apply_along_axis(
            lambda line, at=centres: np.interp(at, np.arange(len(line)), line), axis, expected
        )
    levels = degrade("bilinear8", array, new) * 255
    clear = np.abs(expected % 1 - 0.5) > 1e-6  # halves may go either way
    assert clear.mean() > 0.5
    np.testing.assert_allclose(levels[clear], np.round(expected)[clear], rtol=0, atol=1e-9)
    assert np.abs(levels - expected).max() < 0.5 + 1e-6


def test_bilinear8_clips_and_never_wraps():
    bright = np.full((12, 12), 1.3)
    bright[:6] = -0.3
    lr = degrade("bilinear8", bright, (6, 6))
    np.testing.assert_array_equal(lr[:3], 0)
    np.testing.assert_array_equal(lr[3:], 1)


def test_bilinear8_gives_whole_levels():
    levels = degrade("bilinear8", random_images(50, 50), (19, 23)) * 255
    np.testing.assert_allclose(levels, levels.round(), atol=1e-9)


# noise


@pytest.mark.parametrize("sigma", [0.02, 0.1])
@pytest.mark.parametrize("signal", [0.0, 0.05, 0.6])
def test_noise_is_rician(signal, sigma):
    lr = Degradation("bicubic", sigma)(torch.full((4, 1, 100, 100), signal), (100, 100)).flatten().numpy()
    rice = scipy.stats.rice(signal / sigma, scale=sigma)
    assert lr.mean() == pytest.approx(rice.mean(), abs=4 * rice.std() / math.sqrt(lr.size))
    assert lr.std() == pytest.approx(rice.std(), rel=0.02)
    assert scipy.stats.kstest(lr, rice.cdf).pvalue > 1e-3


def test_background_has_the_mean_of_rayleighs_distribution():
    lr = Degradation("kspace", 0.03)(torch.zeros(2, 1, 200, 200), (100, 100))
    assert lr.mean().item() == pytest.approx(0.03 * math.sqrt(math.pi / 2), rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_of_an_image_follows_from_its_seed_alone(kind):
    degradation, images = Degradation(kind, 0.05), random_images(4, 1, 20, 20)
    whole = degradation(images, (10, 8), seeds=[3, 2**62, 5, 11])
    halves = [degradation(images[:2], (10, 8), seeds=[3, 2**62]), degradation(images[2:], (10, 8), seeds=[5, 11])]
    torch.testing.assert_close(whole, torch.cat(halves), rtol=0, atol=1e-6)
    swapped = degradation(images.flip(0), (10, 8), seeds=[11, 5, 2**62, 3])
    torch.testing.assert_close(swapped.flip(0), whole, rtol=0, atol=1e-6)


def test_noise_repeats_and_differs_from_image_to_image():
    degradation, images = Degradation("bicubic", 0.05), torch.zeros(3, 3, 16, 16)
    lr = degradation(images, (8, 8))
    assert torch.equal(lr, degradation(images, (8, 8), seeds=range(3)))
    assert not torch.equal(lr, degradation(images, (8, 8), seeds=range(1, 4)))
    assert len({tuple(channel.flatten().tolist()) for image in lr for channel in image}) == 9


def test_noise_comes_on_top_of_every_kind():
    images = random_images(1, 1, 30, 30) * 0.2 + 0.7
    for kind in KINDS:
        clean, noisy = (Degradation(kind, sigma)(images, (12, 12)) for sigma in (0.0, 1e-3))
        difference = noisy - clean
        assert 5e-4 < difference.std() < 2e-3
        assert difference.abs().max() < 6e-3


def test_noise_leaves_the_global_random_numbers_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    Degradation("bicubic", 0.05)(torch.zeros(1, 1, 8, 8), (4, 4))
    assert torch.equal(torch.get_rng_state(), before)

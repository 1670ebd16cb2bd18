"""Fourier ring correlation by patch, against cases worked out by hand."""

import math

import pytest
import torch

from metasr.evaluation.ring_correlation import PATCH_PX, THRESHOLD, mismatch, ring_correlation
from metasr.scale import Scale

N = torch.arange(PATCH_PX, dtype=torch.float64)


def wave(cycles, phase=0.0, side=PATCH_PX):
    """Rows of a cosine with so many cycles in 32 columns, `[1, side, side]`."""
    columns = torch.arange(side, dtype=torch.float64)
    return torch.cos(2 * math.pi * cycles * columns / PATCH_PX + phase).expand(1, side, side)


def image(*waves, side=96):
    return (2 + sum(wave(*each, side=side) for each in waves))[None]


def test_contrast_and_brightness_change_nothing():
    patch = torch.rand(3, PATCH_PX, PATCH_PX, dtype=torch.float64)
    found = ring_correlation(patch, 5 + 0.1 * patch)
    assert found.shape == (3, PATCH_PX // 2)
    assert torch.allclose(found, torch.ones_like(found))


def test_the_negative_correlates_by_minus_one():
    patch = torch.rand(1, PATCH_PX, PATCH_PX)
    assert torch.allclose(ring_correlation(patch, -patch), torch.tensor(-1.0, dtype=torch.float64))


@pytest.mark.parametrize("phase", [0.0, 0.3, math.pi / 2, 2.0])
def test_a_shift_of_a_wave_correlates_by_the_cosine_of_its_phase_on_its_ring(phase):
    found = ring_correlation(wave(6), wave(6, phase))
    assert found[0, 5] == pytest.approx(math.cos(phase), abs=0.01)


@pytest.mark.parametrize("ratio", [0.25, 1.0, 4.0])
def test_an_error_without_relation_to_the_structure_lowers_it_by_its_energy(ratio):
    """A wave along the other axis has no coefficient in common: FRC = 1 / sqrt(1 + E / S)."""
    structure, error = wave(6), wave(6).mT * math.sqrt(ratio)
    found = ring_correlation(structure + error, structure)
    assert found[0, 5] == pytest.approx(1 / math.sqrt(1 + ratio), abs=0.01)


def test_the_threshold_is_an_error_as_strong_as_the_structure():
    assert pytest.approx(1 / math.sqrt(2)) == THRESHOLD


def test_what_lr_could_not_show_is_no_mismatch_and_what_it_showed_is():
    """LR at scale 2 has up to 8 cycles a patch: structure at 13 may be missing or other, at 8 it may not."""
    hr, scale = image((2,), (8,), (13,)), Scale(2.0, 2.0)
    assert mismatch(hr, hr, scale) == 0
    assert mismatch(image((2,), (8,), (13, math.pi)), hr, scale) == 0
    assert mismatch(image((2,), (8, math.pi), (13,)), hr, scale) == 1
    assert mismatch(image((2,), (8,), (13, math.pi)), hr, Scale(1.1, 1.1)) == 1  # up to 14
    assert mismatch(image((2,), (8, math.pi), (13,)), hr, Scale(1.0, 4.0)) == 0  # up to 4: the coarser axis


def test_it_is_the_share_of_the_patches_where_the_detail_is_other():
    """96 columns have 5 patches, every 16. In half of the last the detail is the negative: its FRC is about 0."""
    hr = image((2,), (8,))
    sr = hr.clone()
    sr[..., 80:] = image((2,), (8, math.pi))[..., 80:]
    assert mismatch(sr, hr, Scale(2.0, 2.0)) == pytest.approx(1 / 5)


def test_only_patches_with_enough_brain_count():
    hr = image((2,), (6,))
    hr[..., 20:] = 0  # 20 of 32 columns of the first patch of a row are brain, 4 of the second
    sr = -hr
    assert mismatch(sr, hr, Scale(2.0, 2.0)) == 1
    assert mismatch(hr, hr, Scale(2.0, 2.0)) == 0
    sr = hr.clone()
    sr[..., 32:] = torch.rand(1, 1, 96, 64)  # outside of every patch that counts
    assert mismatch(sr, hr, Scale(2.0, 2.0)) == 0
    assert mismatch(sr, torch.zeros_like(hr), Scale(2.0, 2.0)) is None
    assert mismatch(sr[..., :20], hr[..., :20], Scale(2.0, 2.0)) is None

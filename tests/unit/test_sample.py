from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch

from metasr.config import DataConfig, ExperimentConfig, TrainConfig
from metasr.data.degrade import Degradation, resize_bicubic
from metasr.data.sample import make_batch, plan_step
from metasr.data.slices import exact_sizes


def experiment(*, patch_px=96, lr_patch_px=0, flips=True, min_brain=0.0, contrast=0.0, **train):
    data = DataConfig(patch_px=patch_px, lr_patch_px=lr_patch_px, flips=flips, min_brain=min_brain, contrast=contrast)
    return ExperimentConfig(data=data, train=TrainConfig(**train))


def same_plan(one, other):
    return (
        (one.scale, one.hr_px, one.lr_px) == (other.scale, other.hr_px, other.lr_px)
        and np.array_equal(one.corners, other.corners)
        and np.array_equal(one.flips, other.flips)
    )


def numbered_crops(num_crops=4, channels=1, side=50):
    """Every pixel says where it comes from: 10,000 for each crop, 100 for each row, 1 for each column."""
    crop, channel, row, column = np.ogrid[:num_crops, :channels, :side, :side]
    return torch.from_numpy(crop * 10_000 + channel * 1_000_000 + row * 100 + column).float()


def test_plan_follows_from_seed_and_step_alone():
    config = experiment(seed=7)
    plans = [plan_step(config, step) for step in range(12)]
    np.random.seed(3)
    torch.manual_seed(3)
    for step in reversed(range(12)):
        assert same_plan(plan_step(config, step), plans[step])


def test_plans_do_not_depend_on_how_long_the_run_is_or_how_it_learns():
    config = experiment(steps=100)
    longer = config.model_copy(update={"train": TrainConfig(steps=5000, checkpoint_every_steps=7)})
    assert all(same_plan(plan_step(config, step), plan_step(longer, step)) for step in range(10))


def test_other_steps_and_other_seeds_give_other_plans():
    plans = [plan_step(experiment(seed=seed), step) for seed in range(3) for step in range(3)]
    assert len({plan.corners.tobytes() for plan in plans}) == 9


@pytest.mark.parametrize("patch_px", [40, 96, 128])
@pytest.mark.parametrize("tenths", range(11, 41))
def test_ratio_of_patch_sizes_is_exactly_the_scale(tenths, patch_px):
    scale = tenths / 10
    plan = plan_step(experiment(patch_px=patch_px, scale_min=scale, scale_max=scale), 0)
    assert plan.scale == Fraction(plan.hr_px, plan.lr_px) == Fraction(tenths, 10)
    assert plan.hr_px <= patch_px
    assert plan.hr_px + plan.scale.numerator > patch_px  # one more period would not fit


@pytest.mark.parametrize("tenths", range(11, 41))
def test_with_an_lr_size_patches_of_all_scales_have_about_it(tenths):
    plan = plan_step(
        experiment(patch_px=192, lr_patch_px=48, scale_min=tenths / 10, scale_max=tenths / 10, batch_size=1), 0
    )
    assert plan.scale == Fraction(plan.hr_px, plan.lr_px) == Fraction(tenths, 10)
    assert 48 - plan.scale.denominator < plan.lr_px <= 48


def test_an_lr_size_leaves_the_hr_size_its_bound():
    plan = plan_step(experiment(patch_px=96, lr_patch_px=48, scale_min=4.0, scale_max=4.0), 0)
    assert (plan.hr_px, plan.lr_px) == (96, 24)


def test_known_patch_sizes():
    assert exact_sizes(96, Fraction(27, 10)) == (81, 30)
    assert exact_sizes(96, Fraction(4)) == (96, 24)
    assert exact_sizes(96, Fraction(11, 10)) == (88, 80)


def test_a_patch_that_cannot_hold_the_scale_is_refused():
    with pytest.raises(ValueError, match="26 pixels cannot hold scale 27/10"):
        exact_sizes(26, Fraction(27, 10))


def test_scales_are_uniform_over_the_range():
    config = experiment(batch_size=1)
    count = Counter(plan_step(config, step).scale for step in range(3000))
    assert set(count) == {Fraction(tenths, 10) for tenths in range(11, 41)}
    chi_squared = sum((n - 100) ** 2 / 100 for n in count.values())
    assert chi_squared < 58.3  # 29 degrees of freedom, p = 0.001


def test_scales_stay_between_the_smallest_and_the_largest():
    config = experiment(scale_min=1.9, scale_max=2.2, batch_size=1)
    scales = {plan_step(config, step).scale for step in range(60)}
    assert scales == {Fraction(tenths, 10) for tenths in (19, 20, 21, 22)}


@pytest.mark.parametrize("parts", [[8], [4, 4], [3, 3, 2], [1] * 8])
def test_parts_of_the_workers_make_up_the_batch(parts):
    crops = numbered_crops(num_crops=8)
    plan = plan_step(experiment(patch_px=40, batch_size=8), 3)
    whole = make_batch(crops, plan, slice(0, 8))
    slices = [slice(stop - n, stop) for n, stop in zip(parts, np.cumsum(parts).tolist(), strict=True)]
    batches = [make_batch(crops[part], plan, part) for part in slices]
    assert torch.equal(torch.cat([batch.hr for batch in batches]), whole.hr)
    torch.testing.assert_close(torch.cat([batch.lr for batch in batches]), whole.lr, rtol=1e-6, atol=0.01)
    assert {batch.scale for batch in batches} == {plan.scale}


def undo_flips(patch, rows, columns, transpose):
    if transpose:
        patch = patch.T
    return patch[:: -1 if rows else 1, :: -1 if columns else 1]


@pytest.mark.parametrize("step", range(12))
def test_patches_are_what_the_plan_says(step):
    crops = numbered_crops()
    plan = plan_step(experiment(patch_px=40, batch_size=4), step)
    batch = make_batch(crops, plan, slice(0, 4))
    assert batch.hr.shape == (4, 1, plan.hr_px, plan.hr_px)
    places = 50 - plan.hr_px + 1
    for patch, crop, corner, flips in zip(batch.hr[:, 0].numpy(), crops, plan.corners, plan.flips, strict=True):
        top, left = (int(c * places) for c in corner[0])
        expected = crop[0, top : top + plan.hr_px, left : left + plan.hr_px].numpy()
        np.testing.assert_array_equal(undo_flips(patch, *flips), expected)


def test_low_resolution_is_the_bicubic_degradation_of_the_patch():
    crops = numbered_crops(channels=3)
    plan = plan_step(experiment(patch_px=40, batch_size=4), 1)
    batch = make_batch(crops, plan, slice(0, 4))
    assert batch.lr.shape == (4, 3, plan.lr_px, plan.lr_px)
    assert torch.equal(batch.lr, resize_bicubic(batch.hr, (plan.lr_px, plan.lr_px)))


def test_patches_reach_every_place_of_a_crop():
    crops = numbered_crops(num_crops=1, side=42).expand(8, -1, -1, -1)
    config = experiment(patch_px=40, scale_min=2.0, scale_max=2.0, batch_size=8, flips=False)
    corners = set()
    for step in range(20):
        hr = make_batch(crops, plan_step(config, step), slice(0, 8)).hr
        corners |= {divmod(int(value), 100) for value in hr[:, 0, 0, 0]}
    assert corners == {(top, left) for top in range(3) for left in range(3)}


def test_a_crop_of_the_size_of_the_patch_is_taken_whole():
    crops = numbered_crops(num_crops=2, side=40)
    config = experiment(patch_px=40, scale_min=4.0, scale_max=4.0, batch_size=2, flips=False)
    plan = plan_step(config, 0)
    assert torch.equal(make_batch(crops, plan, slice(0, 2)).hr, crops)


def test_flips_and_transposition_come_independently_half_of_the_time():
    config = experiment(batch_size=8)
    flips = np.concatenate([plan_step(config, step).flips for step in range(200)])
    assert len({tuple(row) for row in flips.tolist()}) == 8
    np.testing.assert_allclose(flips.mean(axis=0), 0.5, atol=0.05)


def test_without_flips_patches_keep_their_orientation():
    crops = numbered_crops()
    config = experiment(patch_px=40, batch_size=4, flips=False)
    for step in range(5):
        plan = plan_step(config, step)
        assert not plan.flips.any()
        hr = make_batch(crops, plan, slice(0, 4)).hr
        assert (hr.diff(dim=2) == 100).all()
        assert (hr.diff(dim=3) == 1).all()


def test_switching_flips_off_changes_nothing_else():
    for step in range(5):
        with_flips, without = (plan_step(experiment(flips=flips), step) for flips in (True, False))
        assert with_flips.scale == without.scale
        assert np.array_equal(with_flips.corners, without.corners)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_batches_are_float32_whatever_the_crops_are(dtype):
    crops = torch.rand(2, 1, 40, 40).to(dtype)
    plan = plan_step(experiment(patch_px=40, batch_size=2), 0)
    batch = make_batch(crops, plan, slice(0, 2))
    assert batch.hr.dtype == batch.lr.dtype == torch.float32


def half_dark_crops(num_crops=8, side=60):
    """Brain in the right third alone."""
    crops = torch.zeros(num_crops, 1, side, side)
    crops[..., 2 * side // 3 :] = 0.5
    return crops


def test_patches_with_too_little_brain_are_cut_elsewhere():
    crops = half_dark_crops()
    parts = {}
    for min_brain in (0.0, 0.5):
        config = experiment(patch_px=20, scale_max=2.0, batch_size=8, min_brain=min_brain)
        batches = [make_batch(crops, plan_step(config, step), slice(0, 8), min_brain=min_brain) for step in range(20)]
        parts[min_brain] = torch.cat([(batch.hr != 0).float().mean(dim=(1, 2, 3)) for batch in batches])
    assert (parts[0.0] < 0.5).float().mean() > 0.4
    assert (parts[0.5] >= 0.5).float().mean() > 0.9


def test_the_first_place_with_enough_brain_is_taken_and_else_the_one_with_most():
    crops = half_dark_crops()
    config = experiment(patch_px=20, scale_min=2.0, scale_max=2.0, batch_size=8, min_brain=0.3, flips=False)
    for min_brain in (0.3, 1.0):
        plan = plan_step(config, 4)
        batch = make_batch(crops, plan, slice(0, 8), min_brain=min_brain)
        for patch, corners in zip(batch.hr[:, 0], plan.corners, strict=True):
            cut = [
                crops[0, 0, top : top + 20, left : left + 20] for top, left in (corners * (60 - 20 + 1)).astype(int)
            ]
            fractions = [(place != 0).float().mean().item() for place in cut]
            enough = [i for i, fraction in enumerate(fractions) if fraction >= min_brain]
            assert torch.equal(patch, cut[enough[0] if enough else int(np.argmax(fractions))])


def test_contrast_multiplies_each_patch_by_a_factor_of_its_own():
    crops = torch.ones(8, 1, 40, 40)
    plan = plan_step(experiment(patch_px=40, batch_size=8, contrast=0.2), 0)
    gains = make_batch(crops, plan, slice(0, 8)).hr.mean(dim=(1, 2, 3))
    np.testing.assert_allclose(gains, plan.gains, rtol=1e-6)
    assert len(set(gains.tolist())) == 8
    assert 0.8 <= gains.min() < 0.95
    assert 1.05 < gains.max() <= 1.2


def test_noise_falls_on_lr_alone_and_does_not_depend_on_the_parts():
    crops = torch.full((8, 1, 40, 40), 0.5)
    plan = plan_step(experiment(patch_px=40, batch_size=8), 2)
    noisy = Degradation("bicubic", noise=0.1)
    whole = make_batch(crops, plan, slice(0, 8), noisy)
    halves = [make_batch(crops[part], plan, part, noisy) for part in (slice(0, 4), slice(4, 8))]
    assert (whole.hr == 0.5).all()
    assert whole.lr.std() == pytest.approx(0.1, rel=0.1)
    torch.testing.assert_close(torch.cat([batch.lr for batch in halves]), whole.lr)
    next_step = plan_step(experiment(patch_px=40, batch_size=8), 3)
    assert not set(next_step.noise_seeds) & set(plan.noise_seeds)

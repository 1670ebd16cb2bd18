"""What a run tells MLflow, under names that its pages can sort."""

import pytest

from cluster.training.curves import curves

VALIDATED = {
    "val_psnr_gain": 1.5,
    "val_psnr_model_x2": 33.0,
    "val_ssim_bicubic_x2": 0.90,
    "val_ssim_model_x2": 0.92,
    "val_ssim_bicubic_x1x4": 0.80,
    "val_ssim_model_x1x4": 0.84,
    "selection_score": 1.5,
    "objective": 0.03,
}


def test_what_compares_runs_has_no_group_and_all_else_has_one():
    found = curves("validated", 400, VALIDATED)
    top = {name: value for name, value in found.items() if "/" not in name}
    assert top == pytest.approx({"gain_psnr_db": 1.5, "gain_ssim": 0.03, "steps": 400.0, "objective": 0.03})
    assert found["validation/ssim_model_x1x4"] == 0.84
    assert found["run/selection_score"] == 1.5


def test_an_interval_of_steps_has_losses_and_speed_in_groups():
    found = curves("steps", 10, {"loss_total": 0.5, "loss_pixel": 0.4, "steps_per_s": 3.0})
    assert found == {"loss/total": 0.5, "loss/pixel": 0.4, "run/steps_per_s": 3.0}


def test_no_number_is_lost():
    values = {**VALIDATED, "resumed_at_step": 3.0, "seconds": 2.0, "loss_a": 1.0}
    found = curves("validated", 4, values)
    assert len(found) == len(values) + 3

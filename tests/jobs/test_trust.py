"""`metasr upscale --trust`: the second volume, and what it is refused for."""

import json

import nibabel as nib
import numpy as np
import pytest

from tests.jobs.command import assert_one_error


@pytest.mark.parametrize(("bound", "believed"), [(0.05, 1), (0.06, 0)])
def test_the_brain_is_believed_where_the_bound_is_within_the_tolerance(
    metasr, places, home, calibrated, bound, believed
):
    source, out = places / "volume.nii.gz", home / "out.nii.gz"
    outcome = metasr("upscale", source, out, "--scale", 2, "--model", calibrated(bound), "--trust")
    assert (outcome.code, outcome.err) == (0, "")
    image, mask = nib.load(out), nib.load(home / "out_trust.nii.gz")
    assert mask.shape == image.shape
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, image.affine)
    brain = np.asarray(nib.load(source).dataobj).repeat(2, 0).repeat(2, 1) != 0
    np.testing.assert_array_equal(np.asarray(mask.dataobj), brain * believed)
    said = json.loads((home / "out.metasr.json").read_text())["trust"]
    assert said == {"file": "out_trust.nii.gz", "coverage": 0.9, "tolerance": 0.05, "believed": believed}


def test_a_model_without_calibration_is_one_line(metasr, places, home):
    outcome = metasr(
        "upscale", places / "volume.nii.gz", "out.nii.gz", "--scale", 2, "--model", places / "bundle", "--trust"
    )
    assert_one_error(outcome)
    assert "calibrat" in outcome.err
    assert not (home / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--scale", 2, "--ensemble"), "ensemble"),
        (("--scale", 2, "--labels"), "labels"),
        (("--scale", "2x2x2"), "across"),
        (("--scale", 3.5), "up to 3"),
    ],
    ids=["ensemble", "labels", "through slices", "scale"],
)
def test_what_no_calibration_holds_for_is_refused(metasr, places, home, calibrated, arguments, why):
    source = places / "volume.nii.gz"
    outcome = metasr("upscale", source, "out.nii.gz", *arguments, "--model", calibrated(0.05), "--trust")
    assert_one_error(outcome)
    assert why in outcome.err
    assert not (home / "out.nii.gz").exists()


def test_an_existing_mask_is_not_replaced_unasked(metasr, places, home, calibrated):
    (home / "out_trust.nii.gz").write_text("mine")
    arguments = places / "volume.nii.gz", "out.nii.gz", "--scale", 2, "--model", calibrated(0.05), "--trust"
    assert_one_error(metasr("upscale", *arguments))
    assert (home / "out_trust.nii.gz").read_text() == "mine"
    assert metasr("upscale", *arguments, "--force").code == 0

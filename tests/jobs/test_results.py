"""What the command gives to a person who uses it rightly."""

import json
import re
from itertools import product

import nibabel as nib
import numpy as np
import pytest
import yaml

from tests.jobs.command import METASR, start


def test_the_settings_can_be_printed_and_used_as_a_recipe(metasr, tmp_path):
    first = metasr("train", "--train.steps", "7", "--optim.generator-lr", "1e-5", "--print-config")
    assert (first.code, first.err) == (0, "")
    assert re.search(r"^  steps: 7 +# command line$", first.out, re.MULTILINE)
    assert re.search(r"^  norm: \"none\" +# recipe default$", first.out, re.MULTILINE)
    assert re.search(r"^  seed: 0 +# default$", first.out, re.MULTILINE)
    (tmp_path / "again.yaml").write_text(first.out)
    again = metasr("train", "--recipe", tmp_path / "again.yaml", "--print-config")
    assert yaml.safe_load(again.out) == yaml.safe_load(first.out)
    assert set(re.findall("# (.*)", again.out)) == {"recipe again"}


def test_prepare_says_what_it_made_and_what_comes_next(metasr, subjects_folder, tmp_path):
    outcome = metasr(
        "prepare", "-i", subjects_folder, "-o", tmp_path / "store", "--modality", "t1ce", "--crop-px", "40"
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert "2 training and 1 validation subjects" in outcome.out
    assert outcome.out.endswith(f"next: metasr train --recipe smoke --data.url {tmp_path}/store\n")


def test_prepare_gives_a_script_what_it_made_and_nothing_else_on_stdout(metasr, subjects_folder, tmp_path):
    given = ["-o", tmp_path / "store", "--json"]
    outcome = metasr("prepare", "-i", subjects_folder, *given, "--modality", "t1ce", "--crop-px", "40")
    made = json.loads(outcome.out)
    assert (outcome.code, made["subjects"], made["left_out"]) == (0, {"train": 2, "val": 1}, {})
    assert made["images"] > 0
    assert "2 training and 1 validation subjects" in outcome.err
    assert json.loads(metasr("prepare", *given, "--verify").out) == made
    assert json.loads(metasr("prepare", "-i", subjects_folder, *given, "--dry-run").out)["would_do"]


def outer_corners(affine, shape):
    ends = np.array(list(product(*((-0.5, n - 0.5) for n in shape))))
    return ends @ affine[:3, :3].T + affine[:3, 3]


def test_upscale_with_a_folder_gives_more_voxels_in_the_same_place(places, tmp_path):
    result = tmp_path / "new folder" / "out.nii.gz"
    given = ["-i", places / "volume.nii.gz", "-o", result, "--scale", "2.5", "--model", places / "bundle"]
    outcome = start(METASR, "upscale", *given, folder=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    made_of = "voxels of 0.402 x 0.4866 x 3 mm; axial slices (across k, 3 mm)"
    assert outcome.out == f"{result}: 10 x 12 x 4 -> 25 x 30 x 4 {made_of}\n"
    made, original = nib.load(result), nib.load(places / "volume.nii.gz")
    assert made.shape == (25, 30, 4)
    assert made.get_data_dtype() == original.get_data_dtype()
    np.testing.assert_allclose(
        outer_corners(made.affine, made.shape), outer_corners(original.affine, original.shape), atol=1e-4
    )
    data = made.get_fdata()
    assert data.min() >= 0
    assert data.std() > 50
    assert not (tmp_path / "home" / "metasr").exists(), "a folder needs no registry"


def test_upscale_to_a_spacing_goes_through_the_thick_slices_and_says_so(metasr, places, tmp_path):
    result = tmp_path / "out.nii"
    given = ["-i", places / "volume.nii.gz", "-o", result, "--model", places / "bundle"]
    outcome = metasr("upscale", *given, "--spacing", "0.5", "0.6", "1")
    assert (outcome.code, outcome.err) == (0, "")
    assert "10 x 12 x 4 -> 20 x 24 x 12 voxels of 0.5025 x 0.6083 x 1 mm; " in outcome.out
    assert outcome.out.endswith("axial slices (across k, 3 mm), and through them\n")
    made, original = nib.load(result), nib.load(places / "volume.nii.gz")
    assert made.shape == (20, 24, 12)
    np.testing.assert_allclose(
        outer_corners(made.affine, made.shape), outer_corners(original.affine, original.shape), atol=1e-4
    )


def test_upscale_takes_a_plane_and_a_scale_for_each_of_its_axes(metasr, places, tmp_path):
    result = tmp_path / "out.nii"
    given = ["-i", places / "volume.nii.gz", "-o", result, "--model", places / "bundle"]
    outcome = metasr("upscale", *given, "--scale", "2x3.3", "--plane", "sagittal")
    assert outcome.code == 0
    assert outcome.out.endswith("sagittal slices (across i, 1.005 mm)\n")
    assert nib.load(result).shape == (10, 40, 8)


@pytest.mark.parametrize(("scale", "warned"), [("4", False), ("4.5", True), ("1", False)])
def test_upscale_warns_outside_the_trained_scales(metasr, places, tmp_path, scale, warned):
    result = tmp_path / "out.nii"
    outcome = metasr(
        "upscale", "-i", places / "volume.nii.gz", "-o", result, "--scale", scale, "--model", places / "bundle"
    )
    assert outcome.code == 0
    assert ("warning: outside the scales that the model was trained on, 1.1 to 4.0: 4.5" in outcome.out) is warned
    assert nib.load(result).shape == (int(10 * float(scale)), int(12 * float(scale)), 4)

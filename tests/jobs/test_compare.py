"""`metasr compare` prints and draws how far two volumes are from each other."""

import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from tests.jobs.command import assert_one_error

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


@pytest.fixture
def pair(tmp_path):
    random = np.random.default_rng(0)
    a = random.normal(100, 10, (20, 24, 5)).astype(np.float32)
    b = a + random.normal(0, 1, a.shape).astype(np.float32)
    b[3, 7, 2] = a[3, 7, 2] + 50
    for name, data in (("a", a), ("b", b)):
        nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / f"{name}.nii.gz")
    return a.astype(np.float64), b.astype(np.float64)


def test_the_numbers_are_those_of_the_definitions(metasr, pair, tmp_path):
    a, b = pair
    said = json.loads(metasr("compare", "a.nii.gz", "b.nii.gz", "--json").out)
    low, high = np.percentile(a, [0.1, 99.9])
    assert said["psnr_db"] == pytest.approx(10 * np.log10((high - low) ** 2 / ((a - b) ** 2).mean()), abs=1e-3)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": high - low}
    maps = [structural_similarity(a[..., k], b[..., k], full=True, **options)[1][5:-5, 5:-5] for k in range(5)]
    assert said["ssim"] == pytest.approx(np.mean(maps), abs=2e-3)
    assert said["largest"] == pytest.approx(50, abs=1e-3)
    assert said["largest_at"] == [3, 7, 2]
    assert said["differing"] == 1


def test_the_picture_has_three_planes_with_both_and_the_difference(metasr, pair):
    outcome = metasr("compare", "a.nii.gz", "b.nii.gz", "-o", "d.png")
    assert (outcome.code, outcome.err) == (0, "")
    assert "largest difference" in outcome.out
    assert "at voxel (3, 7, 2)" in outcome.out
    with Image.open("d.png") as image:
        pixels = np.asarray(image).astype(int)
    left, right = pixels[:, :360], pixels[:, -360:]
    assert (left[..., 0] == left[..., 2]).all(), "A is gray"
    assert (right[..., 0] > right[..., 2] + 100).any(), "where B is above A, it is red"
    assert pixels.shape[0] > 2 * pixels.shape[1] / 3
    assert_one_error(metasr("compare", "a.nii.gz", "b.nii.gz", "-o", "d.png"), "it exists", "--force")


def test_equal_volumes_are_said_to_be_equal(metasr, pair):
    outcome = metasr("compare", "a.nii.gz", "a.nii.gz", "-o", "d.png")
    assert "inf dB" in outcome.out
    assert "0.0% of the voxels differ" in outcome.out


def test_volumes_on_other_grids_are_refused(metasr, pair, tmp_path):
    data = np.asarray(nib.load("a.nii.gz").dataobj)
    nib.save(nib.Nifti1Image(data[:-1], AFFINE), "small.nii.gz")
    nib.save(nib.Nifti1Image(data, AFFINE + np.eye(4)[:, [3, 0, 1, 2]]), "moved.nii.gz")
    assert_one_error(metasr("compare", "a.nii.gz", "small.nii.gz"), "their shapes differ", "--like a.nii.gz")
    assert_one_error(metasr("compare", "a.nii.gz", "moved.nii.gz"), "voxels apart", "--like a.nii.gz")
    assert_one_error(metasr("compare", "a.nii.gz", "absent.nii.gz"), "there is no such file")

"""Stand-in patients: repeatable, different from each other, and files as patients' files are."""

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from metasr.data.synthetic import cut_to_scale, deform, recolour, write_low_resolution, write_subjects
from metasr.data.volume import load_volume, save_volume
from metasr.inference.target import Target

SHAPE = (24, 28, 20)
AFFINE = np.array([[-1.5, 0.1, 0, 20], [0.1, 1.5, 0.2, -30], [0, -0.2, 2, 5], [0, 0, 0, 1]])
MARGIN = 6
CORNERS = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Images this small are only slowed down by threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def template():
    data = np.zeros(SHAPE)
    inside = tuple(slice(MARGIN, n - MARGIN) for n in SHAPE)
    data[inside] = np.random.default_rng(0).uniform(40, 200, data[inside].shape)
    return data


def voxels(files):
    return [nib.load(file).dataobj.get_unscaled() for file in files]


def test_files_lie_as_in_brats(tmp_path):
    files = write_subjects(tmp_path / "made", template(), AFFINE, num_subjects=3)
    found = sorted(path.relative_to(tmp_path / "made").as_posix() for path in tmp_path.rglob("*.nii.gz"))
    names = [f"Synthetic_{number:03d}" for number in (1, 2, 3)]
    assert found == [f"{name}/{name}_t1ce.nii.gz" for name in names]
    assert files == [tmp_path / "made" / path for path in found]


def test_the_same_seed_makes_the_same_subjects(tmp_path):
    one = write_subjects(tmp_path / "one", template(), AFFINE, num_subjects=2, seed=5)
    two = write_subjects(tmp_path / "two", template(), AFFINE, num_subjects=2, seed=5)
    assert all(np.array_equal(a, b) for a, b in zip(voxels(one), voxels(two), strict=True))


def test_more_subjects_do_not_change_the_first(tmp_path):
    one = write_subjects(tmp_path / "one", template(), AFFINE, num_subjects=1)
    two = write_subjects(tmp_path / "two", template(), AFFINE, num_subjects=2)
    assert np.array_equal(voxels(one)[0], voxels(two)[0])


def test_subjects_and_seeds_differ(tmp_path):
    a, b, c = voxels(write_subjects(tmp_path / "one", template(), AFFINE, num_subjects=3, seed=1))
    d, _, _ = voxels(write_subjects(tmp_path / "two", template(), AFFINE, num_subjects=3, seed=2))
    volumes = (a, b, c, d)
    for number, volume in enumerate(volumes):
        for other in volumes[number + 1 :]:
            assert np.abs(volume.astype(int) - other).mean() > 10
            assert np.count_nonzero((volume > 0) != (other > 0)) > 20  # the shape differs, not only the colour


def test_files_are_int16_in_millimetres_without_a_slope(tmp_path):
    image = nib.load(write_subjects(tmp_path, template(), AFFINE, num_subjects=1)[0])
    assert image.get_data_dtype() == np.int16
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    assert image.shape == SHAPE
    assert image.header.get_xyzt_units()[0] == "mm"


def test_the_affine_is_kept(tmp_path):
    files = write_subjects(tmp_path, template(), AFFINE, num_subjects=2)
    assert all(np.allclose(nib.load(file).affine, AFFINE, atol=1e-5) for file in files)
    assert all(np.allclose(load_volume(file).affine, AFFINE, atol=1e-5) for file in files)


def test_the_background_stays_zero_and_the_brain_does_not(tmp_path):
    for data in voxels(write_subjects(tmp_path, template(), AFFINE, num_subjects=2)):
        inside = np.zeros(SHAPE, bool)
        reach = MARGIN - 3  # a warp of 4 percent of 28 voxels is just over one voxel, and one more for interpolation
        inside[tuple(slice(reach, n - reach) for n in SHAPE)] = True
        assert (data[~inside] == 0).all()
        middle = data[tuple(slice(MARGIN + 3, n - MARGIN - 3) for n in SHAPE)]
        assert (middle > 0).all()
        assert data.min() >= 0
        assert 300 < data.max() < 1500


def test_the_scale_of_the_template_does_not_matter(tmp_path):
    one = write_subjects(tmp_path / "one", template(), AFFINE, num_subjects=1)
    two = write_subjects(tmp_path / "two", template() * 16, AFFINE, num_subjects=1)
    assert np.array_equal(voxels(one)[0], voxels(two)[0])


def test_integer_templates_and_other_memory_orders_are_taken(tmp_path):
    whole = template().round()
    one = write_subjects(tmp_path / "one", whole, AFFINE, num_subjects=1)
    two = write_subjects(tmp_path / "two", np.asfortranarray(whole.astype(np.uint8)), AFFINE, num_subjects=1)
    assert np.array_equal(voxels(one)[0], voxels(two)[0])


def test_the_template_is_left_as_it_was(tmp_path):
    data = template().astype(np.float32)
    before = data.copy()
    write_subjects(tmp_path, data, AFFINE, num_subjects=1)
    assert np.array_equal(data, before)


def test_no_shift_deforms_nothing_and_axes_keep_their_places():
    volume = torch.from_numpy(template()).float()
    assert torch.allclose(deform(volume, np.random.default_rng(0), max_shift=0.0), volume, atol=1e-3)


def test_a_deformation_moves_by_no_more_than_its_limit():
    ramp = torch.linspace(0, 1, 41)[:, None, None].expand(41, 30, 20).contiguous()
    moved = deform(ramp, np.random.default_rng(0), max_shift=0.05)[4:-4, 4:-4, 4:-4]
    shift = (moved - ramp[4:-4, 4:-4, 4:-4]).abs()
    assert shift.max() <= 0.05 + 1e-5
    assert shift.max() > 0.02


def test_recolouring_keeps_background_and_the_order_of_clearly_different_tissues():
    volume = torch.from_numpy(template() / 200).float()
    coloured = recolour(volume, np.random.default_rng(3))
    assert (coloured[volume == 0] == 0).all()
    assert (coloured >= 0).all()
    assert coloured[volume > 0.8].mean() > coloured[(volume > 0) & (volume < 0.4)].mean() + 0.2


@pytest.mark.parametrize("scale", [1.5, 2.0])
def test_a_low_resolution_volume_is_the_shrunken_slices_in_the_same_field_of_view(tmp_path, scale):
    file = write_subjects(tmp_path, template(), AFFINE, num_subjects=1)[0]
    write_low_resolution(file, tmp_path / "lr.nii.gz", scale)
    hr, lr = nib.load(file), nib.load(tmp_path / "lr.nii.gz")
    size = round(SHAPE[0] / scale), round(SHAPE[1] / scale)
    assert lr.shape == (*size, SHAPE[2])
    hr_corners, lr_corners = (
        [image.affine @ [*(np.array(corner) * image.shape - 0.5), 1] for corner in CORNERS] for image in (hr, lr)
    )
    assert np.abs(np.subtract(hr_corners, lr_corners)).max() < 1e-3
    for before, after in zip(hr.get_fdata().T, lr.get_fdata().T, strict=True):
        expected = Image.fromarray(before.astype(np.float32), "F").resize(size, Image.Resampling.BICUBIC)
        assert np.abs(after - np.asarray(expected)).max() <= 0.51


@pytest.mark.parametrize("scale", [1.5, 2.5])
def test_what_is_enlarged_from_a_low_resolution_can_be_compared_with_the_original_voxel_by_voxel(tmp_path, scale):
    file = write_subjects(tmp_path, template(), AFFINE, num_subjects=1)[0]
    cut, low = tmp_path / "cut.nii.gz", tmp_path / "lr.nii.gz"
    cut_to_scale(file, cut, scale)
    write_low_resolution(cut, low, scale)
    volume = load_volume(low)
    target = Target.of_scale(volume, (scale, scale))
    save_volume(tmp_path / "sr.nii.gz", np.zeros(target.shape), volume)
    original, enlarged = nib.load(cut), nib.load(tmp_path / "sr.nii.gz")
    assert enlarged.shape == original.shape
    assert np.abs(enlarged.affine - original.affine).max() < 1e-4
    kept = tuple(slice(length) for length in original.shape)
    assert np.array_equal(original.get_fdata(), nib.load(file).get_fdata()[kept])
    assert min(np.divide(original.shape, SHAPE)) > 0.8

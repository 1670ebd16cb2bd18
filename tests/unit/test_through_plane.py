"""Thick slices upscaled by a stub that knows up from down: Pillow and SciPy say what must come out."""

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import correlate1d
from torch.nn import functional

from metasr.data.degrade import resize_bicubic
from metasr.data.volume import load_volume, save_volume
from metasr.inference.target import Target
from metasr.inference.upscale import upscale_volume
from metasr.models import SuperResolver
from tests.unit.nifti import ORIENTATIONS, corners, in_memory, oriented_affine, write

DOWN, RIGHT = (0.1, 0.2, 0.7), (0.5, 0.3, 0.2)  # weights of the pixel before, of the pixel, and of the one after
SPACING = (1, 1.5, 2.5)  # of `oriented_affine`


class Smear(SuperResolver):
    """Bicubic enlargement, smeared along rows and columns, so that no flip or exchange of axes goes unnoticed."""

    def __init__(self):
        super().__init__(mean=0.0, std=1.0)

    def forward(self, lr, size):
        image = functional.pad(resize_bicubic(lr, size), (1, 1, 1, 1), mode="replicate")
        return functional.conv2d(image, torch.outer(torch.tensor(DOWN), torch.tensor(RIGHT))[None, None])


def smeared(image, size):
    """Do the same to one image with Pillow and SciPy."""
    enlarged = Image.fromarray(image.astype(np.float32), "F").resize(size[::-1], Image.Resampling.BICUBIC)
    down = correlate1d(np.asarray(enlarged, np.float64), DOWN, axis=0, mode="nearest")
    return correlate1d(down, RIGHT, axis=1, mode="nearest")


def by_definition(xyz, x, y, z):
    """Upscale a volume in world order (to the right, to the front, to the head) to these lengths, slice by slice.

    Within axial slices if they change, then through them: the mean of coronal and of sagittal slices.
    """
    low, high = xyz.min(), xyz.max()
    if xyz.shape[:2] != (x, y):
        planes = [smeared(xyz[:, ::-1, k].T, (y, x)).clip(low, high) for k in range(xyz.shape[2])]
        xyz = np.stack([image.T[:, ::-1] for image in planes], axis=2)
    if xyz.shape[2] == z:
        return xyz
    coronal = [smeared(xyz[:, j, ::-1].T, (z, x)).clip(low, high).T[:, ::-1] for j in range(y)]
    sagittal = [smeared(xyz[i, :, ::-1].T, (z, y)).clip(low, high).T[:, ::-1] for i in range(x)]
    return (np.stack(coronal, axis=1) + np.stack(sagittal, axis=0)) / 2


def to_world(data, affine):
    return nib.as_closest_canonical(nib.Nifti1Image(data, affine)).get_fdata()


def textured(shape, dtype=np.float64):
    """Return a random volume without a background."""
    return np.random.default_rng(0).uniform(100, 900, shape).astype(dtype)


def head(background, shape=(12, 10, 6)):
    """Return a random ball, and a constant around it."""
    indices = (np.indices(shape).T - (np.array(shape) - 1) / 2) / (np.array(shape) / 2)
    inside = (indices**2).sum(-1).T < 0.7
    return np.where(inside, textured(shape), background)


def of_world(axes, values):
    """Return values given for x, y and z in the order of the voxel axes."""
    return tuple(values[world] for world in axes)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_within_the_slices_then_through_them_along_both_planes_and_averaged(axes, signs):
    affine = oriented_affine(axes, signs, (8, -6, 12))
    volume = in_memory(textured(of_world(axes, (7, 6, 4))), affine)
    new = of_world(axes, (14, 9, 10))
    spacing = tuple(mm * n / m for mm, n, m in zip(SPACING, volume.data.shape, new, strict=True))
    result = upscale_volume(volume, Smear(), Target.of_spacing(volume, spacing, "axial"))
    expected = by_definition(to_world(volume.data, affine), 14, 9, 10)
    assert np.abs(to_world(result, affine) - expected).max() < 0.01


@pytest.mark.parametrize("size", [(7, 6, 10), (14, 9, 4), (7, 9, 4), (14, 6, 10), (7, 6, 4)], ids=str)
def test_axes_that_stay_are_left_alone(size):
    volume = in_memory(textured((7, 6, 4)))
    target = Target.of_spacing(volume, tuple(n / m for n, m in zip((7, 6, 4), size, strict=True)), "axial")
    result = upscale_volume(volume, Smear(), target)
    assert result.shape == size
    assert np.abs(result - by_definition(volume.data, *size)).max() < 0.01


def test_the_plane_of_the_slices_can_be_chosen():
    """The same array, upright and lying on its back: what was axial is coronal."""
    upright = in_memory(textured((7, 6, 4)), np.diag([1, 1.5, 2.5, 1]))
    lying = in_memory(upright.data, oriented_affine((0, 2, 1), (1, 1, -1)))
    within = [Target.of_spacing(upright, (0.5, 1, 2.5), "axial"), Target.of_spacing(lying, (0.5, 1, 2.5), "coronal")]
    results = [upscale_volume(*each) for each in zip((upright, lying), (Smear(), Smear()), within, strict=True)]
    assert np.array_equal(*results)
    through = Target.of_spacing(lying, (0.5, 1, 1), "coronal")
    assert upscale_volume(lying, Smear(), through).shape == (14, 9, 10)


@given(st.sampled_from(ORIENTATIONS), st.tuples(*(st.integers(1, 5),) * 3), st.tuples(*(st.floats(1, 4),) * 3))
@settings(deadline=None, max_examples=40)
def test_any_target_has_its_shape_and_the_range_of_the_input(orientation, shape, factors):
    volume = in_memory(textured(shape), oriented_affine(*orientation, (10, 20, -15)))
    target = Target.of_spacing(volume, tuple(mm / f for mm, f in zip(SPACING, factors, strict=True)))
    result = upscale_volume(volume, Smear(), target)
    assert result.shape == target.shape
    assert volume.data.min() <= result.min() <= result.max() <= volume.data.max()


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64", "int32"])
def test_the_spacing_of_the_file_changes_no_bit(tmp_path, dtype):
    path = write(
        tmp_path / "in.nii", (textured((5, 4, 3)) / 4).astype(dtype), affine=oriented_affine((1, 2, 0), (-1, 1, 1))
    )
    volume = load_volume(path)
    save_volume(tmp_path / "out.nii", upscale_volume(volume, Smear(), Target.of_spacing(volume, SPACING)), volume)
    before, after = nib.load(path), nib.load(tmp_path / "out.nii")
    assert np.array_equal(before.dataobj.get_unscaled(), after.dataobj.get_unscaled())
    assert before.get_data_dtype() == after.get_data_dtype()
    assert np.array_equal(before.affine, after.affine)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64"])
def test_the_result_is_saved_in_the_type_and_the_field_of_view_of_the_input(tmp_path, dtype):
    affine = oriented_affine((2, 0, 1), (-1, 1, -1), (12, -7, 20))
    volume = load_volume(write(tmp_path / "in.nii", (textured((6, 5, 4)) / 4).astype(dtype), affine=affine))
    save_volume(tmp_path / "out.nii", upscale_volume(volume, Smear(), Target.of_spacing(volume, (0.4, 1, 1))), volume)
    made = nib.load(tmp_path / "out.nii")
    assert (made.shape, made.get_data_dtype()) == ((15, 8, 10), dtype)
    assert np.abs(corners(made.affine, made.shape) - corners(affine, (6, 5, 4))).max() < 1e-3
    assert made.get_fdata().mean() == pytest.approx(volume.data.mean(), rel=0.05)


@pytest.mark.parametrize("background", [-1000.1, 5000.7])
@pytest.mark.parametrize(("dtype", "slope"), [("float32", 1), ("float64", 1), ("int16", 0.3)])
def test_a_background_far_from_the_brain_is_cut_out_through_the_slices_too(tmp_path, background, dtype, slope):
    def edit(image):
        image.header.set_slope_inter(slope, 0)

    stored = (head(background) / slope).astype(dtype)
    volume = load_volume(write(tmp_path / "in.nii", stored, affine=np.diag([1, 1, 3, 1]), edit=edit))
    result = upscale_volume(volume, Smear(), Target.of_spacing(volume, (0.5, 0.5, 1)))
    outside = (volume.data == volume.data[0, 0, 0]).repeat(2, 0).repeat(2, 1).repeat(3, 2)
    assert (result[outside] == result.dtype.type(volume.data[0, 0, 0])).all()
    assert 50 < result[~outside].min() < result[~outside].max() < 950


def test_a_volume_of_one_value_comes_back_as_that_value():
    volume = in_memory(np.full((4, 5, 3), -7.3))
    result = upscale_volume(volume, Smear(), Target.of_spacing(volume, (0.5, 0.5, 0.5)))
    assert result.shape == (8, 10, 6)
    assert (result == -7.3).all()


def test_progress_counts_the_slices_of_all_planes():
    told = []
    volume = in_memory(textured((5, 4, 3)))
    target = Target.of_spacing(volume, (0.5, 0.5, 0.5), "axial")
    upscale_volume(volume, Smear(), target, on_slice=lambda done, total: told.append((done, total)))
    assert told == [(done, 3 + 8 + 10) for done in range(1, 22)]


@pytest.mark.parametrize(("dtype", "kind"), [("int16", "float32"), ("float32", "float32"), ("float64", "float64")])
def test_no_more_memory_is_taken_for_a_voxel_than_its_values_need(tmp_path, dtype, kind):
    volume = load_volume(write(tmp_path / "in.nii", textured((4, 5, 6), dtype)))
    assert upscale_volume(volume, Smear(), Target.of_spacing(volume, (0.5, 1, 1))).dtype == kind

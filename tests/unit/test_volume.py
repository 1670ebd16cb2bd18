"""Volumes, where they lie and how they are written: nibabel is the independent reference, the world is the judge."""

from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metasr.data.planes import PLANES
from metasr.data.volume import Volume, load_volume, save_volume, scaled_affine
from metasr.errors import DataError
from tests.unit.nifti import (
    ORIENTATIONS,
    SHAPE,
    SLOPE,
    corners,
    in_memory,
    oriented_affine,
    turn,
    write,
    write_patched,
)


def world_coordinates(shape, affine):
    """Return x, y and z of every voxel, each an array of the volume's shape."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    return np.tensordot(affine[:3, :3], indices, axes=1) + affine[:3, 3, None, None, None]


def stored(path):
    """Return the numbers in the file, before any slope."""
    return nib.load(path).dataobj.get_unscaled()


@pytest.mark.parametrize("name", ["volume.nii", "volume.nii.gz"])
def test_a_volume_reads_as_nibabel_reads_it(tmp_path, name):
    path = write(tmp_path / name, affine=oriented_affine((2, 0, 1), (1, -1, 1), (10, 0, 5)))
    volume = load_volume(path)
    reference = nib.load(path)
    assert volume.data.dtype == np.float64
    assert np.array_equal(volume.data, reference.get_fdata())
    assert np.array_equal(volume.affine, reference.affine)
    assert volume.source == path


def test_slope_and_intercept_are_applied(tmp_path):
    path = write_patched(tmp_path / "slope.nii", SLOPE, [0.5, -3], "<f4")
    assert np.allclose(load_volume(path).data, np.arange(120).reshape(SHAPE) * 0.5 - 3)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_the_full_range_of_every_data_type_is_read(tmp_path, dtype):
    limits = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    data = np.array([limits.min, 0, limits.max], dtype=dtype).reshape(3, 1, 1)
    assert np.array_equal(load_volume(write(tmp_path / "range.nii", data)).data, data.astype(np.float64))


# World axes and directions: x grows to the patient's right, y to the front, z to the head.
TOWARDS = {
    "axial": ((2, 1), (1, -1), (0, 1)),  # feet to head; front at the top; left to right
    "coronal": ((1, 1), (2, -1), (0, 1)),  # back to front; head at the top; left to right
    "sagittal": ((0, 1), (2, -1), (1, 1)),  # left to right; head at the top; back to front
}


@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, -15, 25)])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_slices_lie_before_the_eye_as_they_should_in_every_orientation(axes, signs, plane, degrees):
    affine = oriented_affine(axes, signs, degrees)
    coordinates = world_coordinates(SHAPE, affine)
    volume = in_memory(np.zeros(SHAPE), affine)
    for axis, (world, sign) in enumerate(TOWARDS[plane]):
        assert (np.diff(volume.slices(plane, coordinates[world]), axis=axis) * sign > 0).all()
        assert volume.slices(plane).shape[axis] == SHAPE[volume.axes(plane)[axis]]


@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -20, 8), (-25, 5, 25)])
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_slices_are_nibabels_closest_canonical(axes, signs, degrees):
    affine = oriented_affine(axes, signs, degrees)
    data = np.random.default_rng(0).normal(size=SHAPE)
    volume = in_memory(data, affine)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(data, affine)).get_fdata()
    assert np.array_equal(volume.slices(), canonical.transpose(2, 1, 0)[:, ::-1])
    assert np.array_equal(volume.slices("coronal"), canonical.transpose(1, 2, 0)[:, ::-1])
    assert np.array_equal(volume.slices("sagittal"), canonical.transpose(0, 2, 1)[:, ::-1])


turns = st.tuples(*(st.floats(-40, 40),) * 3)
small_size = st.tuples(*(st.integers(1, 6),) * 3)


@given(st.sampled_from(ORIENTATIONS), turns, st.sampled_from(sorted(PLANES)), small_size, small_size)
@settings(deadline=None)
def test_slices_return_to_the_volumes_own_axes_at_any_size(orientation, degrees, plane, old, new):
    volume = in_memory(np.zeros(old), oriented_affine(*orientation, degrees))
    own = np.random.default_rng(0).normal(size=new)
    view = volume.slices(plane, own)
    assert view.shape == tuple(new[axis] for axis in volume.axes(plane))
    assert np.array_equal(volume.from_slices(view, plane), own)


@pytest.mark.parametrize("plane", PLANES)
def test_what_is_written_into_slices_is_written_into_the_array(plane):
    volume = in_memory(np.zeros(SHAPE), oriented_affine((2, 0, 1), (-1, 1, -1), (10, 5, 0)))
    target = np.zeros((8, 7, 6))
    volume.slices(plane, target)[:] = 1
    assert (target == 1).all()


def test_slices_that_were_enlarged_return_to_the_volumes_own_axes():
    volume = in_memory(np.random.default_rng(0).normal(size=SHAPE), oriented_affine((1, 2, 0), (-1, 1, 1)))
    enlarged = volume.slices("sagittal").repeat(2, axis=1).repeat(3, axis=2)
    assert np.array_equal(volume.from_slices(enlarged, "sagittal"), volume.data.repeat(3, 0).repeat(2, 1))


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 0.001), ("meter", 1000), ("unknown", 1)])
def test_the_spacing_is_in_millimetres_whatever_the_unit_of_the_file(tmp_path, unit, factor):
    affine = oriented_affine((2, 0, 1), (1, -1, 1), (10, 20, 5))
    path = write(tmp_path / "in.nii", affine=affine, edit=lambda image: image.header.set_xyzt_units(unit))
    assert np.allclose(load_volume(path).spacing_mm, np.array([1, 1.5, 2.5]) * factor, rtol=1e-5)


# Any 3 x 3 matrix will do: oblique, flipped, anisotropic, sheared, even flat.
any_affine = st.tuples(
    arrays(np.float64, (3, 3), elements=st.floats(-4, 4, allow_subnormal=False)),
    arrays(np.float64, 3, elements=st.floats(-300, 300, allow_subnormal=False)),
).map(lambda parts: np.vstack([np.column_stack(parts), [0, 0, 0, 1]]))
any_size = st.tuples(*(st.integers(1, 1000),) * 3)


@given(affine=any_affine, old=any_size, new=any_size)
@settings(deadline=None)
def test_the_scaled_grid_covers_the_same_field_of_view(affine, old, new):
    before, after = corners(affine, old), corners(scaled_affine(affine, old, new), new)
    assert np.abs(after - before).max() <= 1e-9 * max(1.0, np.abs(before).max())


@given(affine=any_affine, old=any_size, new=any_size, data=st.data())
@settings(deadline=None)
def test_voxel_centres_lie_evenly_in_the_field_of_view(affine, old, new, data):
    index = np.array([data.draw(st.integers(0, n - 1)) for n in new])
    where = (index + 0.5) / np.array(new)
    expected = affine[:3, :3] @ (where * np.array(old) - 0.5) + affine[:3, 3]
    found = scaled_affine(affine, old, new) @ [*index, 1]
    assert np.abs(found[:3] - expected).max() <= 1e-9 * max(1.0, np.abs(corners(affine, old)).max())


@given(affine=any_affine, size=any_size)
@settings(deadline=None)
def test_the_same_size_keeps_the_affine_to_the_last_bit(affine, size):
    assert np.array_equal(scaled_affine(affine, size, size), affine)


def test_doubling_moves_the_first_centre_by_a_quarter_of_the_old_voxel():
    scaled = scaled_affine(np.diag([2.0, 3.0, 4.0, 1.0]), (10, 10, 10), (20, 20, 10))
    assert np.allclose(scaled, [[1, 0, 0, -0.5], [0, 1.5, 0, -0.75], [0, 0, 4, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("data_dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_integers_are_rounded_and_clipped_never_wrapped(tmp_path, dtype, data_dtype):
    volume = load_volume(write(tmp_path / "in.nii.gz", np.zeros((2, 2, 2), dtype)))
    wanted = [-1e30, -40.6, -0.4, 0.4, 0.6, 99.7, 1e10, 1e30]
    save_volume(tmp_path / "out.nii.gz", np.array(wanted, data_dtype).reshape(2, 2, 2), volume)
    limits = np.iinfo(dtype)
    expected = [min(max(round(value), limits.min), limits.max) for value in wanted]
    assert stored(tmp_path / "out.nii.gz").dtype == dtype
    assert stored(tmp_path / "out.nii.gz").ravel().tolist() == expected


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_64_bit_integers_are_not_wrapped_either(tmp_path, dtype):
    volume = load_volume(write(tmp_path / "in.nii", np.zeros((1, 1, 2), dtype)))
    save_volume(tmp_path / "out.nii", np.array([-1e30, 1e30]).reshape(1, 1, 2), volume)
    lowest, highest = stored(tmp_path / "out.nii").ravel().tolist()
    assert lowest == np.iinfo(dtype).min
    assert highest > np.iinfo(dtype).max * 0.99


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_keep_their_type_and_values(tmp_path, dtype):
    data = np.random.default_rng(0).normal(size=SHAPE).astype(dtype)
    volume = load_volume(write(tmp_path / "in.nii.gz", data))
    save_volume(tmp_path / "out.nii.gz", volume.data, volume)
    assert stored(tmp_path / "out.nii.gz").dtype == dtype
    assert np.array_equal(nib.load(tmp_path / "out.nii.gz").get_fdata(), data)


def test_a_volume_saved_at_its_own_size_is_the_same_volume(tmp_path):
    path = write(tmp_path / "in.nii.gz", affine=oriented_affine((2, 0, 1), (1, -1, 1), (10, 0, 5)))
    volume = load_volume(path)
    save_volume(tmp_path / "made" / "out.nii.gz", volume.data, volume)
    assert np.array_equal(stored(tmp_path / "made" / "out.nii.gz"), stored(path))
    assert np.array_equal(nib.load(tmp_path / "made" / "out.nii.gz").affine, nib.load(path).affine)


def test_a_file_with_a_slope_becomes_float32(tmp_path):
    path = write_patched(tmp_path / "slope.nii", SLOPE, [0.25, 3], "<f4")
    volume = load_volume(path)
    data = volume.data + 0.1
    save_volume(tmp_path / "out.nii", data, volume)
    assert nib.load(tmp_path / "out.nii").get_data_dtype() == np.float32
    assert np.allclose(nib.load(tmp_path / "out.nii").get_fdata(), data, rtol=1e-6)


@pytest.mark.parametrize("place", ["a file/out.nii", "a folder.nii.gz"])
def test_a_volume_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path, place):
    volume = load_volume(write(tmp_path / "in.nii"))
    (tmp_path / "a file").touch()
    (tmp_path / "a folder.nii.gz").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=f"cannot write .*{place}"):
        save_volume(tmp_path / place, volume.data, volume)
    assert sorted(tmp_path.rglob("*")) == before


def test_units_and_description_survive_and_the_display_range_does_not(tmp_path):
    def edit(image):
        image.header.set_xyzt_units("micron", "msec")
        image.header["descrip"] = b"T1 with contrast"
        image.header["cal_max"] = 77

    volume = load_volume(write(tmp_path / "in.nii", edit=edit))
    save_volume(tmp_path / "out.nii", np.zeros((8, 10, 6)), volume)
    header = nib.load(tmp_path / "out.nii").header
    assert header.get_xyzt_units() == ("micron", "msec")
    assert header["descrip"].item() == b"T1 with contrast"
    assert header["cal_max"] == 0


@pytest.mark.parametrize(("qcode", "scode"), [(0, 0), (1, 0), (0, 2), (3, 1), (1, 4)])
def test_sform_qform_and_zooms_follow_the_new_grid(tmp_path, qcode, scode):
    qform = oriented_affine((1, 0, 2), (1, -1, 1), (9, -4, 15))
    sform = oriented_affine((1, 0, 2), (1, -1, 1), (-3, 8, 2))
    sform[:3, 3] += 5

    def edit(image):
        image.set_qform(qform if qcode else None, qcode)
        image.set_sform(sform if scode else None, scode)
        image.header.set_zooms((1, 1.5, 2.5))

    path = write(tmp_path / "in.nii", affine=qform, edit=edit)
    volume = load_volume(path)
    new = (9, 10, 6)
    save_volume(tmp_path / "out.nii", np.zeros(new), volume)

    before, after = nib.load(path), nib.load(tmp_path / "out.nii")
    assert (int(after.header["qform_code"]), int(after.header["sform_code"])) == (qcode, scode)
    assert np.abs(corners(after.affine, new) - corners(before.affine, SHAPE)).max() < 1e-3
    if qcode:
        assert np.abs(corners(after.get_qform(), new) - corners(before.get_qform(), SHAPE)).max() < 1e-3
    if scode:
        assert np.abs(corners(after.get_sform(), new) - corners(before.get_sform(), SHAPE)).max() < 1e-3
    assert np.allclose(after.header.get_zooms(), np.array([1, 1.5, 2.5]) * SHAPE / np.array(new))


rotations = st.tuples(*(st.floats(-180, 180),) * 3)
voxel_sizes_mm = st.tuples(*(st.floats(0.2, 8),) * 3)
origins = st.tuples(*(st.floats(-300, 300),) * 3)
flips = st.tuples(*(st.sampled_from([-1, 1]),) * 3)


@given(rotations, voxel_sizes_mm, origins, flips, small_size, small_size, st.data())
@settings(deadline=None)
def test_all_corners_stay_where_they_are_in_sform_and_qform(degrees, sizes, origin, signs, old, new, data):
    affine = np.eye(4)
    affine[:3, :3] = turn(degrees) * sizes * signs
    affine[:3, 3] = origin
    factor = data.draw(st.integers(1, 250 // max(old)))  # up to the size of a head
    old = tuple(n * factor for n in old)
    header = nib.Nifti1Header()
    header.set_data_shape(old)
    header.set_qform(affine, 1)
    header.set_sform(affine, 2)
    volume = Volume(np.broadcast_to(0.0, old), header, Path("memory.nii"))
    with TemporaryDirectory() as folder:
        save_volume(Path(folder) / "out.nii", np.zeros(new), volume)
        after = nib.load(Path(folder) / "out.nii").header
    for before, now in ((header.get_qform(), after.get_qform()), (header.get_sform(), after.get_sform())):
        assert np.abs(corners(now, new) - corners(before, old)).max() < 1e-3


def test_a_sheared_sform_survives(tmp_path):
    affine = oriented_affine((0, 1, 2), (-1, -1, 1), (5, 5, 5))
    affine[0, 2] += 0.7
    volume = load_volume(write(tmp_path / "in.nii", edit=lambda image: image.set_sform(affine, 2)))
    save_volume(tmp_path / "out.nii", np.zeros((7, 9, 6)), volume)
    after = nib.load(tmp_path / "out.nii").affine
    assert np.abs(corners(after, (7, 9, 6)) - corners(affine, SHAPE)).max() < 1e-3


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_a_fourth_dimension_of_one_is_dropped(tmp_path, extra):
    data = np.arange(120, dtype=np.int16).reshape(SHAPE)
    volume = load_volume(write(tmp_path / "one.nii", data.reshape(*SHAPE, *extra)))
    assert np.array_equal(volume.data, data)
    save_volume(tmp_path / "out.nii", volume.data, volume)
    assert nib.load(tmp_path / "out.nii").shape == SHAPE

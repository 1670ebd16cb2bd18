"""Volumes: nibabel is the independent reference, the world is the judge."""

import gzip
import tracemalloc
import warnings
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from metasr.data.volume import Volume, load_volume, save_volume, scaled_affine
from metasr.errors import DataError

ORIENTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
SHAPE = (4, 5, 6)
DIM, DATATYPE, PIXDIM, SLOPE, QUATERN, SROW = 40, 70, 76, 112, 256, 280  # offsets in the header, in bytes


def oriented_affine(axes, signs, degrees=(0, 0, 0)):
    """Voxel axis n runs along world axis `axes[n]`, with spacings of 1, 1.5 and 2.5 mm, then the world is turned."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel_axis, (world_axis, sign, spacing) in enumerate(zip(axes, signs, (1, 1.5, 2.5), strict=True)):
        affine[world_axis, voxel_axis] = sign * spacing
    affine[:3, :3] = turn(degrees) @ affine[:3, :3]
    affine[:3, 3] = (-20, 31, 7)
    return affine


def turn(degrees):
    x, y, z = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def in_memory(data, affine):
    return Volume(data, nib.Nifti1Image(data, affine).header, Path("memory.nii"))


def world_coordinates(shape, affine):
    """Return x, y and z of every voxel, each an array of the volume's shape."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    return np.tensordot(affine[:3, :3], indices, axes=1) + affine[:3, 3, None, None, None]


def corners(affine, shape):
    """Return the outer corners of the field of view in mm, `[8, 3]`."""
    ends = np.array(list(product(*((-0.5, n - 0.5) for n in shape))))
    return ends @ affine[:3, :3].T + affine[:3, 3]


def stored(path):
    """Return the numbers in the file, before any slope."""
    return nib.load(path).dataobj.get_unscaled()


def write(path, data=None, *, affine=None, edit=lambda image: None):
    if data is None:
        data = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    image = nib.Nifti1Image(data, np.diag([1, 1.5, 2.5, 1]) if affine is None else affine, dtype=data.dtype)
    edit(image)
    nib.save(image, path)
    return path


def write_patched(path, offset, values, dtype, *, edit=lambda image: None):
    """Write a small volume, then overwrite header bytes."""
    plain = write(path.with_name("plain.nii"), edit=edit)
    content = bytearray(plain.read_bytes())
    patch = np.asarray(values, dtype=dtype).tobytes()
    content[offset : offset + len(patch)] = patch
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def assert_refused(path, reason=""):
    with pytest.raises(DataError) as caught:
        load_volume(path)
    assert path.name in str(caught.value)
    assert reason in str(caught.value)
    assert caught.value.why


def assert_usable_or_refused(path):
    """Only a DataError may stop a volume from being read; one that is read must be good for all that follows."""
    try:
        volume = load_volume(path)
    except DataError:
        return
    assert np.array_equal(volume.from_axial(volume.axial()), volume.data)
    again = path.with_name("again.nii")
    save_volume(again, volume.data, volume)
    assert np.array_equal(nib.load(again).get_fdata(), volume.data)


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


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_axial_runs_from_feet_to_head_front_to_back_and_left_to_right(axes, signs):
    affine = oriented_affine(axes, signs)
    x, y, z = (in_memory(world, affine).axial() for world in world_coordinates(SHAPE, affine))
    assert (np.diff(z, axis=0) > 0).all()
    assert (np.diff(y, axis=1) < 0).all()
    assert (np.diff(x, axis=2) > 0).all()
    for world, own_axis in ((z, 0), (y, 1), (x, 2)):
        others = tuple(axis for axis in range(3) if axis != own_axis)
        assert np.ptp(world, axis=others).max() < 1e-4


@pytest.mark.parametrize("degrees", [(0, 0, 0), (12, -20, 8), (-25, 5, 25)])
@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_axial_is_nibabels_closest_canonical_and_can_be_undone(axes, signs, degrees):
    affine = oriented_affine(axes, signs, degrees)
    data = np.random.default_rng(0).normal(size=SHAPE)
    volume = in_memory(data, affine)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(data, affine)).get_fdata()
    assert np.array_equal(volume.axial(), canonical.transpose(2, 1, 0)[:, ::-1])
    assert np.array_equal(volume.from_axial(volume.axial()), data)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_an_enlarged_axial_view_returns_to_the_volumes_own_axes(axes, signs):
    data = np.random.default_rng(0).normal(size=SHAPE)
    volume = in_memory(data, oriented_affine(axes, signs, (5, -5, 5)))
    own = volume.from_axial(volume.axial().repeat(2, axis=1).repeat(3, axis=2))
    expected = data.repeat(2, axis=axes.index(1)).repeat(3, axis=axes.index(0))
    assert np.array_equal(own, expected)


def test_axial_of_an_oblique_volume_still_goes_up_backwards_and_right():
    affine = oriented_affine((1, 2, 0), (-1, 1, -1), (20, -15, 25))
    x, y, z = (in_memory(world, affine).axial() for world in world_coordinates(SHAPE, affine))
    assert (np.diff(z, axis=0) > 0).all()
    assert (np.diff(y, axis=1) < 0).all()
    assert (np.diff(x, axis=2) > 0).all()


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


def test_a_missing_file_is_refused(tmp_path):
    assert_refused(tmp_path / "absent.nii.gz", "no such file")
    assert_refused(tmp_path, "no such file")


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("content", [b"", b"this is not an image\n" * 40, bytes(2000), b"\x1f\x8b"])
def test_a_file_that_is_not_an_image_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, "NIfTI")


def test_a_compressed_text_is_refused(tmp_path):
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"this is not an image\n" * 40))
    assert_refused(tmp_path / "text.nii.gz", "NIfTI")


@pytest.mark.parametrize("name", ["whole.nii", "whole.nii.gz"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, name):
    content = write(tmp_path / name).read_bytes()
    cut = tmp_path / f"cut_{name}"
    for length in range(0, len(content), 3):
        cut.write_bytes(content[:length])
        assert_refused(cut)


@pytest.mark.parametrize("missing", [1, 5, 8, 5_000])
def test_a_larger_compressed_file_cut_short_is_refused(tmp_path, missing):
    noise = np.random.default_rng(0).integers(0, 2**15, (40, 40, 40), dtype=np.int16)
    content = write(tmp_path / "whole.nii.gz", noise).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[:-missing])
    assert_refused(tmp_path / "cut.nii.gz")


def test_a_flipped_bit_in_a_compressed_file_raises_nothing_but_a_data_error(tmp_path):
    content = write(tmp_path / "whole.nii.gz").read_bytes()
    flipped = tmp_path / "flipped.nii.gz"
    for position in range(len(content)):
        flipped.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        assert_usable_or_refused(flipped)


def test_a_flipped_bit_among_compressed_voxels_is_found(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2**15, (60, 60, 60), dtype=np.int16)
    content = bytearray(write(tmp_path / "whole.nii.gz", noise).read_bytes())
    for position in (len(content) // 3, len(content) - 1_000):
        content[position] ^= 1
        (tmp_path / "flipped.nii.gz").write_bytes(content)
        content[position] ^= 1
        assert_refused(tmp_path / "flipped.nii.gz")


def test_a_gz_that_inflates_past_what_its_header_says_is_refused(tmp_path):
    content = write(tmp_path / "whole.nii").read_bytes()
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(content + bytes(10**7)))
    assert_refused(tmp_path / "bomb.nii.gz")


def test_header_bytes_of_any_value_raise_nothing_but_a_data_error(tmp_path):
    def edit(image):
        image.set_qform(image.affine, 1)
        image.set_sform(image.affine, 1)

    content = write(tmp_path / "whole.nii", edit=edit).read_bytes()
    changed = tmp_path / "changed.nii"
    for position in (*range(DIM, DIM + 16), *range(DATATYPE, SLOPE), *range(252, 328)):
        for value in (0, 0x40, 0x7F, 0xFF):
            changed.write_bytes(content[:position] + bytes([value]) + content[position + 1 :])
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # numpy and nibabel warn about odd numbers; what counts is the outcome
                assert_usable_or_refused(changed)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_voxels_that_are_not_finite_are_refused(tmp_path, dtype, value):
    data = np.zeros(SHAPE, dtype)
    data[1, 2, 3] = value
    assert_refused(write(tmp_path / "nan.nii.gz", data), "NaN")


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 2), (4, 5, 6, 1, 3), (7,)])
def test_what_is_not_one_3d_image_is_refused(tmp_path, shape):
    assert_refused(write(tmp_path / "shape.nii.gz", np.zeros(shape, np.int16)), "not one 3-D image")


@pytest.mark.parametrize(
    "dtype", [np.complex64, np.complex128, [(c, "u1") for c in "RGB"], [(c, "u1") for c in "RGBA"]]
)
def test_voxels_that_are_not_real_numbers_are_refused(tmp_path, dtype):
    assert_refused(write(tmp_path / "odd.nii.gz", np.zeros(SHAPE, dtype)), "not real numbers")


@pytest.mark.parametrize("name", ["size.nii", "size.nii.gz"])
@pytest.mark.parametrize("shape", [(0, 5, 6), (4, 5, 0), (-4, 5, 6), (-4, -5, 6), (32767, 32767, 32767)])
def test_impossible_sizes_are_refused_without_allocating(tmp_path, name, shape):
    path = write_patched(tmp_path / name, DIM + 2, shape, "<i2")
    tracemalloc.start()
    assert_refused(path, "shape")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7


@pytest.mark.parametrize("name", ["claim.nii", "claim.nii.gz"])
def test_a_small_file_that_claims_to_be_large_takes_no_memory(tmp_path, name):
    path = write_patched(tmp_path / name, DIM + 2, (500, 500, 200), "<i2")
    tracemalloc.start()
    assert_refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7  # it claims 100 MB


def test_an_unknown_data_type_is_refused(tmp_path):
    assert_refused(write_patched(tmp_path / "type.nii", DATATYPE, [77], "<i2"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_affine_that_is_not_finite_is_refused(tmp_path, value):
    path = write_patched(
        tmp_path / "affine.nii", SROW + 4, [value], "<f4", edit=lambda image: image.set_sform(np.eye(4), 1)
    )
    assert_refused(path, "affine")


@pytest.mark.parametrize(
    "rows",
    [
        [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]],
    ],
)
def test_an_affine_that_flattens_the_world_is_refused(tmp_path, rows):
    path = write_patched(tmp_path / "flat.nii", SROW, rows, "<f4", edit=lambda image: image.set_sform(np.eye(4), 1))
    assert_refused(path, "affine")


@pytest.mark.parametrize("slope", [[0, 5], [np.nan, 0], [np.inf, 0], [1, np.nan], [0, np.inf], [-1, 2]])
def test_an_odd_slope_is_handled_or_refused(tmp_path, slope):
    assert_usable_or_refused(write_patched(tmp_path / "slope.nii", SLOPE, slope, "<f4"))


def test_an_impossible_qform_beside_a_good_sform_is_handled_or_refused(tmp_path):
    def edit(image):
        image.set_qform(image.affine, 1)
        image.set_sform(image.affine, 1)

    assert_usable_or_refused(write_patched(tmp_path / "qform.nii", QUATERN, [2.0], "<f4", edit=edit))


def test_other_formats_are_refused_by_name(tmp_path):
    data = np.zeros(SHAPE, np.float32)
    nib.save(nib.MGHImage(data, np.eye(4)), tmp_path / "brain.mgz")
    nib.save(nib.Spm99AnalyzeImage(data, np.eye(4)), tmp_path / "brain.img")
    assert_refused(tmp_path / "brain.mgz", "MGHImage")
    assert_refused(tmp_path / "brain.img", "Analyze")
    (tmp_path / "mgh.nii.gz").write_bytes((tmp_path / "brain.mgz").read_bytes())
    assert_refused(tmp_path / "mgh.nii.gz", "NIfTI")

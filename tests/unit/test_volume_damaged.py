"""Volumes whose file is not what it should be: refused by name, in little memory, or good for all that follows."""

import gzip
import tracemalloc
import warnings

import nibabel as nib
import numpy as np
import pytest

from metasr.data.volume import load_volume, save_volume, slices_shape
from metasr.errors import DataError, UnreachableError
from tests.unit.nifti import DATATYPE, DIM, QUATERN, SHAPE, SLOPE, SROW, write, write_patched


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
    assert np.array_equal(volume.from_slices(volume.slices()), volume.data)
    again = path.with_name("again.nii")
    save_volume(again, volume.data, volume)
    assert np.array_equal(nib.load(again).get_fdata(), volume.data)


def test_a_missing_file_is_refused(tmp_path):
    assert_refused(tmp_path / "absent.nii.gz", "no such file")
    assert_refused(tmp_path / "*.nii.gz", "takes folders, patterns and several files")


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_a_disk_that_fails_is_not_taken_for_a_volume_that_is_damaged(tmp_path, name):
    (tmp_path / name).symlink_to("/proc/self/mem")  # its first byte cannot be read
    for read in (load_volume, slices_shape):
        with pytest.raises(UnreachableError, match=rf"{name}: Input/output error"):
            read(tmp_path / name)


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


@pytest.mark.parametrize("shape", [(4, 5, 6, 2), (4, 5, 6, 1, 3), (7,)])
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


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.dcm", b"", ["DICOM", "dcm2niix"]),
        ("IM0001", bytes(128) + b"DICM" + bytes(300), ["DICOM", "dcm2niix"]),
        ("a.nrrd", b"NRRD0004\n", ["NRRD", "c3d"]),
        ("a.mha", b"ObjectType = Image\n", ["MetaImage", "c3d"]),
        ("a.mgz", gzip.compress(b"\0\0\0\1\0\0\0\4" + bytes(300), mtime=0), ["MGH", "mri_convert"]),
        ("a.nii.gz", gzip.compress(b"\0\0\0\1\0\0\0\4" + bytes(600), mtime=0), ["MGH", "mri_convert"]),
        ("a.png", b"\x89PNG\r\n" + bytes(99), ["PNG", "SimpleITK"]),
        ("a.tif", b"II*\0" + bytes(99), ["TIFF", "SimpleITK"]),
        ("a.mnc", b"CDF\1", ["MINC", "mnc2nii"]),
    ],
)
def test_other_formats_are_refused_with_the_program_that_converts_them(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    for word in (*words, "NIfTI"):
        assert_refused(tmp_path / name)
        with pytest.raises(DataError, match=word):
            load_volume(tmp_path / name)


def test_analyze_and_mgh_as_nibabel_writes_them_are_refused_by_name(tmp_path):
    data = np.zeros(SHAPE, np.float32)
    nib.save(nib.MGHImage(data, np.eye(4)), tmp_path / "brain.mgz")
    nib.save(nib.Spm99AnalyzeImage(data, np.eye(4)), tmp_path / "brain.img")
    assert_refused(tmp_path / "brain.mgz", "MGH")
    assert_refused(tmp_path / "brain.img", "Analyze")


def test_a_folder_is_refused_and_one_of_dicom_with_the_program_that_converts_it(tmp_path):
    assert_refused(tmp_path, "takes folders, patterns and several files")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "IM1").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(DataError, match="dcm2niix"):
        load_volume(tmp_path / "series")


# Files that are not quite as they should be, and read all the same


def assert_read_with_a_warning(path, *words, data=None):
    """The volume is that of the file without its fault, nothing is printed, and it can be written and read."""
    volume = load_volume(path)
    assert np.array_equal(volume.data, np.arange(120).reshape(SHAPE) if data is None else data)
    for word in words:
        assert word in "; ".join(volume.warnings)
    assert bool(volume.warnings) == bool(words)
    save_volume(path.with_name("again.nii"), volume.data, volume)
    again = load_volume(path.with_name("again.nii"))
    assert np.array_equal(again.data, volume.data)
    assert np.allclose(again.affine, volume.affine)
    assert again.warnings == ()
    return volume


@pytest.mark.parametrize("length", [1, 512, 2**16])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_bytes_after_the_voxels_are_left_out(tmp_path, name, length):
    content = write(tmp_path / "plain.nii").read_bytes() + bytes(length)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert_read_with_a_warning(tmp_path / name, f"{length} bytes after its voxels")
    (tmp_path / name).write_bytes(content + bytes(2**16))
    assert_refused(tmp_path / name, "longer than its header promises")


def test_dimensions_of_no_length_after_the_third_are_left_out(tmp_path):
    assert_read_with_a_warning(write_patched(tmp_path / "x.nii", DIM, [4, *SHAPE, 0], "<i2"), "(4, 5, 6, 0)")


def test_an_image_of_two_dimensions_is_a_volume_of_one_slice(tmp_path):
    data = np.arange(20, dtype=np.int16).reshape(4, 5)
    path = write(tmp_path / "flat.nii.gz", data)
    volume = assert_read_with_a_warning(path, data=data[..., None])
    assert volume.spacing_mm == pytest.approx((1, 1.5, 2.5))
    assert slices_shape(path) == (1, 5, 4)


def both_forms(image):
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 2)


def test_a_broken_qform_beside_a_good_sform_is_left_out(tmp_path):
    path = write_patched(tmp_path / "x.nii", QUATERN, [2.0], "<f4", edit=both_forms)
    volume = assert_read_with_a_warning(path, "its sform is taken")
    assert np.allclose(volume.affine, np.diag([1, 1.5, 2.5, 1]))


@pytest.mark.parametrize("rows", [np.zeros(12), np.full(12, np.nan)])
def test_a_broken_sform_beside_a_good_qform_is_left_out(tmp_path, rows):
    volume = assert_read_with_a_warning(
        write_patched(tmp_path / "x.nii", SROW, rows, "<f4", edit=both_forms), "its qform is taken"
    )
    assert np.allclose(volume.affine, np.diag([1, 1.5, 2.5, 1]))


@pytest.mark.parametrize("size", [0, -1.5])
def test_a_voxel_size_that_is_none_is_told_in_our_words_alone(tmp_path, size, capfd):
    path = write_patched(tmp_path / "x.nii", 84, [size], "<f4")
    volume = load_volume(path)
    assert len(volume.warnings) == 1
    assert "pixdim" in volume.warnings[0]
    assert capfd.readouterr() == ("", "")


def test_a_data_type_that_nobody_reads_prints_nothing_but_the_error(tmp_path, capfd):
    assert_refused(write_patched(tmp_path / "type.nii", DATATYPE, [1], "<i2"), "data code 1")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "packed"), [("x.nii", True), ("x.nii.gz", False)])
def test_compression_goes_by_the_content_and_not_by_the_name(tmp_path, name, packed):
    content = write(tmp_path / "plain.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    assert_read_with_a_warning(tmp_path / name)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_pair_of_header_and_image_is_read_by_either_name(tmp_path, kind, ending):
    data = np.arange(120, dtype=np.int16).reshape(SHAPE)
    nib.save(kind(data, np.diag([1, 1.5, 2.5, 1])), tmp_path / f"x.img{ending}")
    for name in ("x.hdr", "x.img"):
        volume = assert_read_with_a_warning(tmp_path / f"{name}{ending}")
        assert np.allclose(volume.affine, np.diag([1, 1.5, 2.5, 1]))
    (tmp_path / f"x.img{ending}").unlink()
    assert_refused(tmp_path / f"x.hdr{ending}", "x.img")


@pytest.mark.parametrize(("nan_to", "expected"), [(0.0, 0), (-2.5, -2.5), ("background", 7)])
def test_what_is_not_finite_is_replaced_when_asked(tmp_path, nan_to, expected):
    data = np.full((6, 6, 6), 7, np.float32)
    data[2:4, 2:4, 2:4] = 1
    data[0, 0], data[3, 3, 3] = np.nan, np.inf
    path = write(tmp_path / "nan.nii.gz", data)
    with pytest.raises(DataError, match="--nan-to 0"):
        load_volume(path)
    volume = load_volume(path, nan_to)
    assert (volume.data[0, 0] == expected).all()
    assert volume.data[3, 3, 3] == expected
    assert volume.data[2, 2, 2] == 1


def test_what_nothing_can_replace_is_refused(tmp_path):
    path = write(tmp_path / "nan.nii.gz", np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(DataError, match="no constant surrounds its brain"):
        load_volume(path, "background")
    with pytest.raises(DataError, match="cannot hold 1e"):
        load_volume(path, 1e300)

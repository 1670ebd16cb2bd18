"""Volumes made to do harm: read exactly as they state, or refused by name, in little memory."""

import gzip
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings

import nibabel as nib
import numpy as np
import pytest

from metasr.data.volume import load_volume, save_volume
from metasr.errors import DataError
from tests.properties.nifti_mutations import SHAPE

NUM_FILES = int(os.environ.get("METASR_FUZZ_EXAMPLES", "500"))
MEGABYTE = 2**20
DATA = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
# Offsets of fields in the header of NIfTI-1, in bytes.
DIM, VOX_OFFSET, SLOPE, EXTENSIONS = 40, 108, 112, 348
ZEROS_4_GIB = gzip.compress(bytes(16 * MEGABYTE), 9, mtime=0) * 256  # members of a gzip file follow each other


@pytest.mark.timeout(1800 + NUM_FILES // 20)
def test_damaged_files_are_read_as_they_state_or_refused(tmp_path):
    """Each file of a sequence that is always the same; METASR_FUZZ_EXAMPLES says how many."""
    command = [sys.executable, "-W", "error", "-m", "tests.properties.volume_batch", "0", "0", str(NUM_FILES)]
    result = subprocess.run([*command, tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    print({key: found[key] for key in ("outcomes", "grown", "slowest_s")})
    assert found["wrong"] == []
    assert min(found["outcomes"].get(outcome, 0) for outcome in ("read", "refused")) > NUM_FILES / 5
    assert found["grown"] < 64 * MEGABYTE


def volume_bytes(data=DATA, kind=nib.Nifti1Image, affine=None, slope=None):
    image = kind(data, np.eye(4) if affine is None else affine, dtype=data.dtype)
    if slope:
        image.header.set_slope_inter(*slope)
    return bytearray(image.to_bytes())


def with_field(raw, at, layout, *values):
    struct.pack_into(layout, raw, at, *values)
    return raw


def with_notes(notes, raw=None):
    """A volume with these bytes between header and voxels, which the header announces."""
    raw = with_field(raw or volume_bytes(), VOX_OFFSET, "<f", 352 + len(notes))
    raw[EXTENSIONS] = 1
    raw[352:352] = notes
    return raw


def written(path, raw):
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
    return path


def assert_refused(path, *words):
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        load_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for word in (path.name, *words):
        assert word in str(caught.value)
    assert not isinstance(caught.value.__cause__, MemoryError)
    assert peak < 20 * MEGABYTE


def assert_read(path, data=DATA):
    volume = load_volume(path)
    np.testing.assert_array_equal(volume.data, data)
    return volume


# Where the header lies about the voxels


@pytest.mark.parametrize("offset", [np.inf, -np.inf, np.nan, 3e38, 2.0**31, -352.0])
def test_voxels_that_begin_nowhere_are_refused(tmp_path, offset):
    assert_refused(written(tmp_path / "x.nii", with_field(volume_bytes(), VOX_OFFSET, "<f", offset)))


@pytest.mark.parametrize("magic", [b"n+1\0", b"ni1\0"], ids=["one file", "header of two files"])
@pytest.mark.parametrize("offset", [0, 16, 348])
def test_a_header_is_not_read_as_voxels(tmp_path, offset, magic):
    data = np.zeros((10, 10, 10), np.int16)
    raw = with_field(volume_bytes(data), VOX_OFFSET, "<f", offset)
    raw[344:348] = magic
    assert_refused(written(tmp_path / "x.nii", raw[: offset + data.nbytes]))


@pytest.mark.parametrize("number", [259, -3, -32768, 32767, 0, 8])
def test_a_number_of_dimensions_that_there_cannot_be_is_refused(tmp_path, number):
    for order in "<>":
        raw = np.frombuffer(volume_bytes()[:348], nib.Nifti1Header.template_dtype)
        header = bytearray((raw if order == "<" else raw.byteswap()).tobytes()) + volume_bytes()[348:]
        assert_refused(written(tmp_path / "x.nii", with_field(header, DIM, f"{order}h", number)))


def test_the_other_byte_order_is_the_same_volume(tmp_path):
    raw = volume_bytes()
    raw[:348] = np.frombuffer(raw[:348], nib.Nifti1Header.template_dtype).byteswap().tobytes()
    raw[352:] = np.frombuffer(raw[352:], "<i2").byteswap().tobytes()
    assert_read(written(tmp_path / "x.nii", raw))


@pytest.mark.parametrize("data", [DATA, DATA.astype(np.float32)])
def test_a_slope_beyond_the_type_to_save_it_with_is_refused(tmp_path, data):
    raw = with_field(volume_bytes(data, slope=(2, 0)), SLOPE, "<f", 3e38)
    assert_refused(written(tmp_path / "x.nii", raw), "slope")


def test_float64_with_a_slope_keeps_its_precision(tmp_path):
    data = DATA + 1e-12
    volume = load_volume(written(tmp_path / "x.nii", volume_bytes(data, slope=(2, 0))))
    save_volume(tmp_path / "again.nii", volume.data, volume)
    assert_read(tmp_path / "again.nii", 2 * data)


def test_nifti_2_stays_nifti_2_with_an_affine_in_float64(tmp_path):
    affine = np.diag([1 + 1e-12, 1.5, 2.5, 1])
    volume = load_volume(written(tmp_path / "x.nii", volume_bytes(kind=nib.Nifti2Image, affine=affine)))
    save_volume(tmp_path / "again.nii", volume.data, volume)
    np.testing.assert_array_equal(nib.load(tmp_path / "again.nii").affine, affine)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_a_matrix_of_connections_is_refused_by_name(tmp_path, name):
    for intent in (3000, 3001, 3099):
        raw = with_field(volume_bytes(kind=nib.Nifti2Image), 504, "<i", intent)
        assert_refused(written(tmp_path / name, raw), "CIFTI-2")


def test_a_bit_among_voxels_that_are_not_compressed_cannot_be_found(tmp_path):
    """There is no checksum: what is stated is read. That is why compressed files are to be preferred."""
    raw, data = volume_bytes(), DATA.copy()
    raw[352] ^= 1
    data[0, 0, 0] ^= 1
    assert_read(written(tmp_path / "x.nii", raw), data)


# Notes between header and voxels, whose lengths nibabel believes


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_a_note_of_an_odd_length_does_no_harm(tmp_path, name):
    notes = struct.pack("<ii", 20, 4) + b"twelve bytes" + struct.pack("<ii", 28, 4) + bytes(20)
    path = written(tmp_path / name, with_notes(notes))
    with warnings.catch_warnings(action="error"):
        volume = assert_read(path)
        save_volume(tmp_path / "again.nii", volume.data, volume)
    assert_read(tmp_path / "again.nii")


@pytest.mark.parametrize("length", [-1, -16, -(2**31), 0, 7, 2**20, 2**31 - 1])
def test_a_note_of_an_impossible_length_is_refused_without_inflating_the_file(tmp_path, length):
    note = struct.pack("<ii", length, 4) + bytes(8)
    for claimed in (len(note), MEGABYTE, 2**30):
        raw = with_field(with_notes(note), VOX_OFFSET, "<f", 352 + claimed)
        path = tmp_path / "x.nii.gz"
        path.write_bytes(gzip.compress(raw, mtime=0) + ZEROS_4_GIB)
        assert_refused(path)


def test_more_notes_than_a_volume_needs_are_refused(tmp_path):
    notes = (struct.pack("<ii", 16, 4) + b"a note..") * (MEGABYTE // 2)
    assert_refused(written(tmp_path / "x.nii.gz", with_notes(notes)), "voxels begin at byte")


# Small files that would fill the memory


@pytest.mark.parametrize("kept", [100, 352, 400, 10**9], ids=["in header", "after header", "in voxels", "after all"])
def test_a_small_file_that_inflates_to_gigabytes_is_refused(tmp_path, kept):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(volume_bytes()[:kept], mtime=0) + ZEROS_4_GIB)
    assert path.stat().st_size < 5 * MEGABYTE
    assert_refused(path)


@pytest.mark.parametrize("shape", [SHAPE, (1024, 1024, 1024)], ids=["of more", "of less"])
def test_a_pair_whose_image_is_not_what_its_header_promises_is_refused(tmp_path, shape):
    header = with_field(volume_bytes(kind=nib.Nifti1Image), DIM + 2, "<3h", *shape)[:348]
    header[344:348] = b"ni1\0"
    (tmp_path / "x.hdr").write_bytes(with_field(header, VOX_OFFSET, "<f", 0))
    image = gzip.compress(DATA.tobytes(), mtime=0)
    (tmp_path / "x.img.gz").write_bytes(image + ZEROS_4_GIB if shape == SHAPE else image)
    assert_refused(tmp_path / "x.hdr", "promises")


def test_a_volume_that_does_not_fit_in_memory_is_refused(tmp_path):
    header = with_field(volume_bytes(), DIM + 2, "<3h", 1024, 1024, 1024)[:352]  # which keeps its promise: 2 GiB
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(header, mtime=0) + ZEROS_4_GIB[: len(ZEROS_4_GIB) // 2])
    program = (
        "import resource, sys; from pathlib import Path; from metasr.data.volume import load_volume;"
        "from metasr.errors import DataError;"
        "resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))\n"
        "try: load_volume(Path(sys.argv[1]))\n"
        "except DataError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True)
    assert "memory" in result.stdout, result.stderr[-2000:]
    assert "x.nii.gz" in result.stdout

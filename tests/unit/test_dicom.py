"""DICOM series read as volumes, and those that are not read named with the program that converts them."""

import numpy as np
import pytest

from metasr.data.dicom import is_series, load_series
from metasr.errors import DataError

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
DIRECTIONS = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]  # sagittal: columns run to the back, rows to the feet
SHAPE = (5, 6, 4)  # columns, rows, slices


def write_series(folder, edit=lambda number, image: None, count=SHAPE[2]):
    folder.mkdir(exist_ok=True)
    voxels = np.random.default_rng(0).integers(-50, 900, SHAPE).astype(np.int16)
    for number in range(count):
        image = pydicom.Dataset()
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID = pydicom.uid.MRImageStorage, f"1.2.3.{number + 1}"
        image.SeriesInstanceUID, image.SeriesDescription = "1.2.9", "T1"
        image.Columns, image.Rows, image.SamplesPerPixel = *SHAPE[:2], 1
        image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 1
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit = 15
        image.PixelSpacing, image.SliceThickness = [0.5, 0.75], 3.0
        image.ImageOrientationPatient = DIRECTIONS
        image.ImagePositionPatient = [-10 + 2.0 * number, 20, 30]
        image.PixelData = voxels[..., number].T.tobytes()
        edit(number, image)
        # Names in another order than the slices.
        image.save_as(folder / f"{(number * 3) % 5}.dcm", enforce_file_format=True)
    return voxels


def test_a_series_is_sorted_and_lies_where_its_headers_say(tmp_path):
    voxels = write_series(tmp_path / "series")
    assert is_series(tmp_path / "series")
    volume = load_series(tmp_path / "series")
    for number in range(SHAPE[2]):
        corner = np.array([10 - 2.0 * number, -20, 30, 1])
        index = np.linalg.solve(volume.affine, corner).round(6)
        assert np.array_equal(volume.data[..., int(index[2])], voxels[..., number])
        assert index[:2].tolist() == [0, 0]
    np.testing.assert_allclose(volume.spacing_mm, (0.75, 0.5, 2.0))
    assert volume.header.get_data_dtype() == np.int16


def test_slope_and_intercept_are_applied(tmp_path):
    def edit(number, image):
        image.RescaleSlope, image.RescaleIntercept = 0.25, -3

    voxels = write_series(tmp_path / "series", edit)
    volume = load_series(tmp_path / "series")
    assert sorted(volume.data.ravel()) == sorted((voxels * 0.25 - 3).ravel())
    assert volume.header.get_data_dtype() == np.float32


def other_series(number, image):
    image.SeriesInstanceUID, image.SeriesDescription = f"1.2.{number % 2}", f"T{number % 2}"


def gap(number, image):
    image.ImagePositionPatient = [-10 + 2.0 * number + 4 * (number > 1), 20, 30]


def tilted(number, image):
    image.ImagePositionPatient = [-10 + 2.0 * number, 20 + 0.3 * number, 30]


def colours(number, image):
    image.PhotometricInterpretation = "MONOCHROME1"


def frames(number, image):
    image.NumberOfFrames = 2


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (other_series, r"2 series \(T0, T1\)"),
        (gap, "not evenly spaced"),
        (tilted, "gantry tilt"),
        (colours, "MONOCHROME1"),
        (frames, "several frames"),
    ],
)
def test_what_is_not_read_is_named_with_the_program_that_converts_it(tmp_path, edit, said):
    write_series(tmp_path / "series", edit)
    with pytest.raises(DataError, match=rf"{said}.*dcm2niix"):
        load_series(tmp_path / "series")


@pytest.mark.parametrize(("length", "said"), [(360, "0.dcm is an image without pixels"), (-20, "dcm2niix")])
def test_a_file_that_is_cut_short_is_an_error_and_not_a_slice_less(tmp_path, length, said):
    write_series(tmp_path / "series")
    file = tmp_path / "series" / "0.dcm"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataError, match=said):
        load_series(tmp_path / "series")

"""DICOM series as volumes: single-frame slices of one series, sorted by where they lie. The home of pydicom."""

import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from metasr.data.foreign import DICOM, is_dicom
from metasr.data.volume import Volume
from metasr.errors import ConfigError, DataError
from metasr.extras import missing_extra

LOOKED_AT = 20  # files of a folder, to tell what it holds
TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's x and y run to the left and to the back
EVEN = 0.02  # of the distance between slices
ALONG = 1e-2  # of a slice's distance: positions off the normal are those of a tilted gantry


def is_series(path: Path) -> bool:
    """Return whether a path is a folder with DICOM files directly in it, or one DICOM file."""
    if path.is_dir():
        return any(map(is_dicom, islice((each for each in sorted(path.iterdir()) if each.is_file()), LOOKED_AT)))
    return path.is_file() and is_dicom(path)


def load_series(path: Path) -> Volume:
    """Read the series of a folder, or the one slice of a file, as a volume with a NIfTI header.

    Rescale slope and intercept are applied. What this reads is the plain case; `dcm2niix` knows the others.

    Raises:
        ConfigError: pydicom is not installed.
        DataError: Several series, frames of several images, compressed pixels that nothing here decodes, slices that
            are missing, unevenly spaced or tilted, or values that are not intensities.
    """
    try:
        import pydicom
    except ModuleNotFoundError as error:
        missing = missing_extra(error, str(path))
        fix = f"Install it with `pip install 'metasr[dicom]'`, or convert the series: {DICOM}"
        raise ConfigError(str(path), missing.why if missing else "", fix) from error
    files = [path] if path.is_file() else sorted(each for each in path.iterdir() if each.is_file() and is_dicom(each))
    try:
        with warnings.catch_warnings(action="ignore"):  # of values that other programs wrote carelessly
            slices = [pydicom.dcmread(each) for each in files]
            if cut := [file.name for file, each in zip(files, slices, strict=True) if _is_cut(each)]:
                raise DataError(str(path), f"{cut[0]} is an image without pixels: it is cut short", "Get it again")
            images = [each for each in slices if "PixelData" in each]
            _check(path, images)
            return _volume(path, images)
    except DataError:
        raise
    except Exception as error:  # for damaged files pydicom raises errors of any type
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(str(path), f"not a readable DICOM series ({reason})", DICOM) from error


def _check(path: Path, slices: list[Any]) -> None:
    if not slices:
        raise DataError(str(path), "its DICOM files hold no images", DICOM)
    series = {str(each.get("SeriesInstanceUID", "")): str(each.get("SeriesDescription", "")) for each in slices}
    if len(series) > 1:
        names = ", ".join(sorted(name or "unnamed" for name in series.values()))
        raise DataError(str(path), f"it holds {len(series)} series ({names})", f"Give one folder each. {DICOM}")
    first = slices[0]
    if any(int(each.get("NumberOfFrames", 1) or 1) > 1 for each in slices):
        raise DataError(str(path), "a file of it holds several frames", DICOM)
    if first.get("SamplesPerPixel", 1) != 1 or first.PhotometricInterpretation != "MONOCHROME2":
        raise DataError(str(path), f"its pixels are {first.PhotometricInterpretation}, not intensities", DICOM)
    kinds = {(each.Rows, each.Columns, *map(float, each.PixelSpacing), *_directions(each).ravel()) for each in slices}
    if len(kinds) > 1:
        raise DataError(str(path), "its slices differ in size, spacing or direction", DICOM)


def _is_cut(each: Any) -> bool:
    """Return whether a file lacks the pixels that its kind has; reports and directories of images have none."""
    return "PixelData" not in each and "Image Storage" in each.file_meta.MediaStorageSOPClassUID.name


def _directions(image: Any) -> NDArray[np.float64]:
    """Return the unit vectors along the columns' and the rows' order in the patient, `[2, 3]`, rounded."""
    directions: NDArray[np.float64] = np.array(image.ImageOrientationPatient, dtype=np.float64).round(5).reshape(2, 3)
    return directions


def _volume(path: Path, slices: list[Any]) -> Volume:
    along_columns, along_rows = _directions(slices[0])
    normal = np.cross(along_columns, along_rows)
    slices.sort(key=lambda each: float(np.dot(normal, _position(each))))
    positions = np.array([_position(each) for each in slices])
    row_mm, column_mm = map(float, slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_columns * column_mm, along_rows * row_mm
    affine[:3, 2] = _step(path, positions, normal, float(slices[0].get("SliceThickness", 0) or 1))
    affine[:3, 3] = positions[0]
    scaling = [(float(each.get("RescaleSlope", 1)), float(each.get("RescaleIntercept", 0))) for each in slices]
    pixels = np.stack([each.pixel_array.T for each in slices], axis=-1).astype(np.float64)
    slopes, intercepts = np.array(scaling).T
    data = pixels * slopes + intercepts
    whole = not (data % 1).any() and np.abs(data).max() < 2**15
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16 if whole else np.float32)
    header.set_data_shape(data.shape)
    header.set_xyzt_units("mm")
    header.set_qform(TO_RAS @ affine, 1)
    header.set_sform(TO_RAS @ affine, 1)
    return Volume(data, header, path)


def _position(image: Any) -> NDArray[np.float64]:
    return np.array(image.ImagePositionPatient, dtype=np.float64)


def _step(
    path: Path, positions: NDArray[np.float64], normal: NDArray[np.float64], thickness_mm: float
) -> NDArray[np.float64]:
    """Return the vector from one slice to the next."""
    if len(positions) == 1:
        return normal * thickness_mm
    steps = np.diff(positions, axis=0)
    mean: NDArray[np.float64] = steps.mean(axis=0)
    distance = float(np.linalg.norm(mean))
    if not distance or np.abs(steps - mean).max() > EVEN * distance:
        raise DataError(str(path), "its slices are not evenly spaced: some are missing or double", DICOM)
    if np.linalg.norm(mean - normal * np.dot(normal, mean)) > ALONG * distance:
        raise DataError(str(path), "its slices are sheared against each other (gantry tilt)", DICOM)
    return mean

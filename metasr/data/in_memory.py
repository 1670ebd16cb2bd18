"""Arrays and nibabel images as volumes: checked like files, and given back as the kind that they were."""

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from metasr.data.nifti import check_header, repair
from metasr.data.volume import Volume, as_image, as_type
from metasr.errors import DataError

NiftiImage = nib.Nifti1Image
# Axial slices of an array are the array: rows run to the back, columns to the patient's right.
OF_ARRAYS = np.array([[0.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


def is_image(value: object) -> bool:
    """Return whether a value is an image of nibabel."""
    return isinstance(value, SpatialImage)


def volume_of_array(array: NDArray[np.number]) -> Volume:
    """Return an array as a volume: `[H, W]`, one slice, or `[H, W, slices]`.

    Raises:
        DataError: It is no such array, holds numbers that are not real, or NaN or infinity.
    """
    what = f"array of shape {array.shape}"
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(what, "it is neither [H, W] nor [H, W, slices]", "Give one image or volume at a time")
    if array.dtype.kind not in "iuf":
        raise DataError(what, f"its type is {array.dtype}, not that of real numbers", "Convert it first")
    if not np.isfinite(array).all():
        raise DataError(what, "it holds NaN or infinity", "Replace them first, as with numpy.nan_to_num")
    stored = array.dtype if array.dtype.itemsize > 2 or array.dtype.kind != "f" else np.dtype(np.float32)
    header = nib.Nifti1Header()
    header.set_data_dtype(stored)
    header.set_data_shape((*array.shape, 1)[:3])
    header.set_sform(OF_ARRAYS, 1)
    return Volume(array.reshape(header.get_data_shape()).astype(np.float64), header, Path("array"))


def array_of(data: NDArray[np.floating], like: NDArray[np.number]) -> NDArray[np.number]:
    """Return intensities as an array of the type and the number of axes of another; integers are never wrapped."""
    converted = as_type(data, like.dtype)
    return converted[..., 0] if like.ndim == 2 else converted


def volume_of_image(image: SpatialImage) -> Volume:
    """Return a nibabel image of one 3-D volume; of other formats than NIfTI, with a header of NIfTI.

    Raises:
        DataError: It is not one image of real numbers, or holds NaN or infinity.
    """
    source = Path(image.get_filename() or "image")
    nifti = image if isinstance(image, NiftiImage) else NiftiImage.from_image(image)
    header = nifti.header.copy()
    header["vox_offset"] = header.single_vox_offset  # an image in memory may have none, or that of a pair
    check_header(source, header)
    notes = repair(source, header)
    data = np.asarray(nifti.get_fdata(dtype=np.float64, caching="unchanged")).reshape(header.get_data_shape())
    if not np.isfinite(data).all():
        raise DataError(str(source), "it holds NaN or infinite voxels", "Replace them first")
    stored = nifti.dataobj
    if isinstance(stored, ArrayProxy) and (stored.slope, stored.inter) != (1.0, 0.0) and stored.dtype.kind != "f":
        header.set_data_dtype(np.float32)
    return Volume(data, header, source, tuple(notes))


def image_of(data: NDArray[np.floating], like: Volume) -> NiftiImage:
    """Return intensities that cover the field of view of a volume as a nibabel image."""
    return as_image(data, like)

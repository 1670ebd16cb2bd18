"""NIfTI volumes: checked when read, written with their orientation and units kept. The home of nibabel."""

import math
import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.imageclasses import all_image_classes
from nibabel.openers import Opener
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from metasr.data.files import check_reached
from metasr.data.planes import PLANES, Plane
from metasr.errors import DataError, UnreachableError

MAX_VOXELS = 2**31
MAX_EXTENSION_BYTES = 2**22  # between header and voxels; nibabel would keep them as many small objects
CIFTI_INTENTS = range(3000, 3100)  # of NIfTI-2 headers
CHUNK_BYTES = 2**20
RAS = np.array([[0, 1], [1, 1], [2, 1]])  # nibabel's orientation code of right-anterior-superior
Number = TypeVar("Number", bound=np.number)


@dataclass(frozen=True)
class Volume:
    """A 3-D image and its position in world coordinates.

    Attributes:
        data: Intensities as the file states them (slope and intercept applied), float64 `[i, j, k]`.
        header: The NIfTI header to save it with: that of its file, with the type float32 where integers had a slope.
        source: The file it came from.
    """

    data: NDArray[np.float64]
    header: nib.Nifti1Header
    source: Path

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel indices to millimetres, 4 x 4."""
        affine: NDArray[np.float64] = self.header.get_best_affine()
        return affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along the three axes of the array."""
        millimetres = {1: 1000.0, 3: 0.001}.get(int(self.header["xyzt_units"]) & 7, 1.0)  # metres, microns
        i, j, k = (float(size) * millimetres for size in voxel_sizes(self.affine))
        return i, j, k

    def axes(self, plane: Plane) -> tuple[int, int, int]:
        """Return the axes of the array that run across the slices, the rows and the columns of `slices(plane)`."""
        return _axes(self.affine, plane)

    def slices(self, plane: Plane = "axial", data: NDArray[Number] | None = None) -> NDArray[Number]:
        """Return a view `[slices, rows, columns]` of the volume, or of `data`: any array along the same axes.

        The slices are those closest to the plane where the volume is oblique.

        - axial: feet to head; front at the top, patient's left on the left
        - coronal: back to front; head at the top, patient's left on the left
        - sagittal: left to right; head at the top, back on the left
        """
        canonical = apply_orientation(self.data if data is None else data, io_orientation(self.affine))
        view: NDArray[Number] = canonical.transpose(PLANES[plane])[:, ::-1]
        return view

    def from_slices(self, slices: NDArray[Number], plane: Plane = "axial") -> NDArray[Number]:
        """Undo `slices(plane)` for an array of any size: return a view along the volume's own axes."""
        canonical = slices[:, ::-1].transpose(np.argsort(PLANES[plane]))
        own: NDArray[Number] = apply_orientation(canonical, ornt_transform(RAS, io_orientation(self.affine)))
        return own


def load_volume(path: Path) -> Volume:
    """Read a NIfTI file (.nii, .nii.gz) into memory.

    Raises:
        UnreachableError: It is missing, or the file system fails.
        DataError: It is not NIfTI, is cut short, is not one 3-D image of real numbers, or holds NaN or infinity. The
            header is checked before the voxels are read, and no more is read than it promises.
    """
    with _as_data_error(path):
        return _read(path)


def slices_shape(path: Path, plane: Plane = "axial") -> tuple[int, int, int]:
    """Return how many slices a file has, and their rows and columns, from its header alone.

    Raises:
        UnreachableError: It is missing, or the file system fails.
        DataError: It is not NIfTI, or its header is one that `load_volume` refuses.
    """
    with _as_data_error(path):
        kind = _image_class(path)
        with Opener(str(path), "rb") as file:
            header = _read_header(path, kind, file.read(kind.header_class.template_dtype.itemsize))
        across, rows, columns = (header.get_data_shape()[axis] for axis in _axes(header.get_best_affine(), plane))
        return across, rows, columns


def _axes(affine: NDArray[np.float64], plane: Plane) -> tuple[int, int, int]:
    world = io_orientation(affine)[:, 0].tolist()
    across, rows, columns = (world.index(axis) for axis in PLANES[plane])
    return across, rows, columns


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    """Turn errors in reading a file into DataError, or UnreachableError where the file system fails."""
    try:
        if not path.is_file():
            raise UnreachableError(str(path), "there is no such file", "Check the path")
        with path.open("rb") as file:  # nibabel would report an unreadable file as one of another format
            file.read(1)
        with warnings.catch_warnings(action="ignore"):  # of numbers out of range, which are refused or do no harm
            yield
    except MemoryError as error:
        raise DataError(
            str(path), "it does not fit into memory", "Use a machine with more memory, or a smaller volume"
        ) from error
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        check_reached(path, error)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            str(path), f"not a readable NIfTI volume ({reason})", "Give a .nii or .nii.gz file that is complete"
        ) from error


def _read(path: Path) -> Volume:
    kind = _image_class(path)
    with Opener(str(path), "rb") as file:
        start = file.read(kind.header_class.template_dtype.itemsize)
        header = _read_header(path, kind, start)
        wanted = header.get_data_offset() + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
        image = kind.from_bytes(_read_exactly(file, start, wanted))
    data = np.asarray(image.get_fdata(dtype=np.float64, caching="unchanged"))
    data = data.reshape(data.shape[:3])
    if not np.isfinite(data).all():
        raise DataError(str(path), "it holds NaN or infinite voxels", "Repair or leave out the volume")
    header = image.header
    if _is_scaled(image):
        if header.get_data_dtype().kind != "f":
            header.set_data_dtype(np.float32)
        if max(data.max(), -data.min()) > np.finfo(header.get_data_dtype()).max:
            raise DataError(str(path), "its slope gives intensities beyond its type", "Repair the header")
    return Volume(data, header, path)


def _read_header(path: Path, kind: type[nib.Nifti1Image], start: bytes) -> nib.Nifti1Header:
    """Return the header of a file from its first bytes, without extensions, whose lengths nibabel does not check."""
    header: nib.Nifti1Header = kind.header_class(start)
    _check_header(path, header)
    return header


def _image_class(path: Path) -> type[nib.Nifti1Image]:
    """Return the class for the format of a file, NIfTI-1 or NIfTI-2, as nibabel would choose it."""
    sniff = None
    for kind in all_image_classes:
        if kind is nib.Cifti2Image:  # which nibabel looks for in .nii alone, `_check_header` in .nii.gz too
            continue
        fits, sniff = kind.path_maybe_image(path, sniff)
        if fits and kind in (nib.Nifti1Image, nib.Nifti2Image):
            return kind
        if fits:
            raise DataError(str(path), f"it is {kind.__name__}, not NIfTI", "Convert it to .nii.gz")
    raise ImageFileError("its first bytes are of no known image format")


def _is_scaled(image: nib.Nifti1Image) -> bool:
    """Return whether a slope or an intercept applies to the voxels."""
    assert isinstance(image.dataobj, ArrayProxy)
    return (image.dataobj.slope, image.dataobj.inter) != (1.0, 0.0)


def _read_exactly(file: Opener, start: bytes, wanted: int) -> bytes:
    """Return the `wanted` bytes that the header promises, decompressed and with their checksum verified.

    Args:
        file: Open, at the position after `start`.
        start: Its first bytes, which were read already.
        wanted: Length of the file in bytes.
    """
    content = bytearray(start)  # grows with what there is: a small file that promises much takes little memory
    while chunk := file.read(CHUNK_BYTES):
        content += chunk
        if len(content) > wanted:
            raise ValueError(f"it is longer than the {wanted} bytes that its header promises")
    if len(content) < wanted:
        raise ValueError(f"it has {len(content)} of the {wanted} bytes that its header promises")
    return bytes(content)


def _check_header(path: Path, header: nib.Nifti1Header) -> None:
    if isinstance(header, nib.Nifti2Header) and int(header["intent_code"]) in CIFTI_INTENTS:
        raise DataError(str(path), "it is a CIFTI-2 matrix, not a volume", "Give one volume a file")
    shape, num_dimensions = header.get_data_shape(), int(header["dim"][0])
    if not 1 <= num_dimensions <= 7:  # nibabel does not check it
        raise DataError(str(path), f"its header claims {num_dimensions} dimensions", "Repair the header")
    if len(shape) < 3 or any(extra != 1 for extra in shape[3:]):
        raise DataError(str(path), f"its shape is {shape}, not one 3-D image", "Give one volume a file")
    if min(shape) < 1 or math.prod(shape) > MAX_VOXELS:
        raise DataError(str(path), f"its header claims the shape {shape}", "Give a volume with 1 to 2^31 voxels")
    if header.get_data_dtype().kind not in "iuf":
        raise DataError(str(path), f"its voxels are {header.get_data_dtype()}, not real numbers", "Convert it first")
    first, offset = header.single_vox_offset, header.get_data_offset()
    if not first <= offset <= first + MAX_EXTENSION_BYTES:
        raise DataError(str(path), f"its header says that the voxels begin at byte {offset}", "Repair the header")
    try:
        qform, _ = header.get_qform(coded=True)
    except ValueError as error:
        raise DataError(str(path), "its qform is not a rotation", "Repair the header") from error
    for affine in (header.get_best_affine(), qform):
        if affine is not None and not _is_regular(affine):
            raise DataError(str(path), "its affine gives the voxels no volume in the world", "Repair the header")


def _is_regular(affine: NDArray[np.float64]) -> bool:
    """Return whether an affine is finite and maps voxels to a space of three dimensions."""
    sizes = voxel_sizes(affine)
    if not (np.isfinite(affine).all() and np.isfinite(sizes).all() and sizes.all()):
        return False
    return bool(np.linalg.matrix_rank(affine[:3, :3] / sizes) == 3)


def scaled_affine(affine: NDArray[np.float64], old: tuple[int, ...], new: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the affine of a grid of `new` voxels that covers exactly the field of view of `old` voxels.

    The outer faces of the voxels coincide, so the first voxel centre moves by half the difference of the voxel sizes.

    Args:
        affine: Of the old grid, 4 x 4.
        old: Voxels along the three axes.
        new: The same for the new grid.
    """
    step = np.array(old, dtype=np.float64) / np.array(new, dtype=np.float64)
    to_old_index = np.diag([*step, 1.0])
    to_old_index[:3, 3] = (step - 1.0) / 2.0
    return affine @ to_old_index


def save_volume(path: Path, data: NDArray[np.floating], like: Volume) -> None:
    """Write `data`, which covers the field of view of `like` with other voxels, with the orientation of `like`.

    Format, data type, units, sform and qform codes are those of `like`. Integers are rounded and clipped, never
    wrapped; those with a slope become float32, since they would lose the new values in between. The file appears when
    it is complete.

    Raises:
        DataError: It cannot be written.
    """
    voxels, header = _converted(data, like.header.get_data_dtype()), _header(data.shape, like)
    two = isinstance(header, nib.Nifti2Header)
    image = nib.Nifti2Image(voxels, None, header) if two else nib.Nifti1Image(voxels, None, header)
    partial = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, partial)
        os.replace(partial, path)
    except OSError as error:
        raise DataError(
            f"cannot write {path}", error.strerror or str(error), "Check its folder and the disk"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _header(shape: tuple[int, ...], like: Volume) -> nib.Nifti1Header:
    """Return the header of a grid of `shape` voxels in the field of view of `like`."""
    header: nib.Nifti1Header = like.header.copy()
    old = like.data.shape
    header.set_data_shape(shape)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = 0
    qform, qcode = like.header.get_qform(coded=True)
    sform, scode = like.header.get_sform(coded=True)
    zooms = voxel_sizes(like.affine) if scode and not qcode else like.header.get_zooms()[:3]
    header.set_zooms(np.array(old) / np.array(shape) * zooms)
    if qcode:  # its rotation stays as it is stored
        offset = scaled_affine(qform, old, shape)[:3, 3]
        header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = offset
    if scode:
        header.set_sform(scaled_affine(sform, old, shape), int(scode))
    return header


def _converted(data: NDArray[np.floating], dtype: np.dtype) -> NDArray[np.number]:
    """Return `data` as `dtype`; for integers rounded, and clipped to the values of it that float64 can hold."""
    if dtype.kind == "f":
        return data.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    highest = float(limits.max)
    if int(highest) > limits.max:  # 2^63 - 1 becomes 2^63
        highest = np.nextafter(highest, 0.0)
    result = np.empty(data.shape, dtype)
    for plane, values in zip(result, data, strict=True):  # one by one, to hold little in float64
        plane[...] = np.clip(np.rint(values.astype(np.float64)), limits.min, highest)
    return result

"""NIfTI volumes: checked when read, written with their orientation and units kept. The home of nibabel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import aff2axcodes, apply_orientation, io_orientation, ornt_transform
from numpy.typing import NDArray

from metasr.data.files import appearing
from metasr.data.intensity import find_background
from metasr.data.nifti import read_header, read_image
from metasr.data.planes import PLANES, Plane
from metasr.errors import DataError

RAS = np.array([[0, 1], [1, 1], [2, 1]])  # nibabel's orientation code of right-anterior-superior
Number = TypeVar("Number", bound=np.number)


@dataclass(frozen=True)
class Volume:
    """A 3-D image and its position in world coordinates.

    Attributes:
        data: Intensities as the file states them (slope and intercept applied), float64 `[i, j, k]`.
        header: The NIfTI header to save it with: that of its file, with the type float32 where integers had a slope.
        source: The file it came from.
        warnings: What its header contradicted itself in, and what was taken.
    """

    data: NDArray[np.float64]
    header: nib.Nifti1Header
    source: Path
    warnings: tuple[str, ...] = ()

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


def load_volume(path: Path, nan_to: float | Literal["background"] | None = None) -> Volume:
    """Read a NIfTI file (.nii, .nii.gz, .hdr with .img) into memory. A 2-D image is a volume of one slice.

    Args:
        path: Of the file; of a pair, either.
        nan_to: Replaces voxels that are NaN or infinite: a number, or the constant around the brain.

    Raises:
        UnreachableError: It is missing, or the file system fails.
        DataError: It is not NIfTI, is cut short, is not one image of real numbers, or holds NaN or infinity that
            nothing replaces. The header is checked before the voxels are read, and no more is read than it promises.
    """
    header, data, warnings = read_image(path)
    if not np.isfinite(data).all():
        data = _replaced(path, data, header.get_data_dtype(), nan_to)
    return Volume(data, header, path, warnings)


def _replaced(
    path: Path, data: NDArray[np.float64], dtype: np.dtype, value: float | Literal["background"] | None
) -> NDArray[np.float64]:
    """Return `data` with `value`, as `dtype` holds it, in place of what is not finite."""
    fix = "Leave the volume out; `metasr upscale --nan-to 0` (or another number, or `background`) replaces them"
    if value is None:
        raise DataError(str(path), "it holds NaN or infinite voxels", fix)
    if value == "background":
        value = find_background(data)
        if value is None:
            raise DataError(str(path), "no constant surrounds its brain", "Give --nan-to a number")
    if abs(value) > float(np.finfo(dtype).max):
        raise DataError(str(path), f"its voxels cannot hold {value:g}", "Give --nan-to another number")
    return np.where(np.isfinite(data), data, float(np.array(value, dtype)))


def slices_shape(path: Path, plane: Plane = "axial") -> tuple[int, int, int]:
    """Return how many slices a file has, and their rows and columns, from its header alone.

    Raises:
        UnreachableError: It is missing, or the file system fails.
        DataError: It is not NIfTI, or its header is one that `load_volume` refuses.
    """
    header = read_header(path)
    across, rows, columns = (header.get_data_shape()[axis] for axis in _axes(header.get_best_affine(), plane))
    return across, rows, columns


def _axes(affine: NDArray[np.float64], plane: Plane) -> tuple[int, int, int]:
    world = io_orientation(affine)[:, 0].tolist()
    across, rows, columns = (world.index(axis) for axis in PLANES[plane])
    return across, rows, columns


def orientation(affine: NDArray[np.float64]) -> str:
    """Return where the axes of a grid run, such as RAS: to the right, to the front, to the head."""
    return "".join(code or "?" for code in aff2axcodes(affine))


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
    image = as_image(data, like)
    with appearing(path, ".nii.gz" if path.name.lower().endswith(".gz") else ".nii") as partial:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, partial)


def as_image(data: NDArray[np.floating], like: Volume) -> nib.Nifti1Image:
    """Return what `save_volume` writes as an image in memory."""
    voxels, header = as_type(data, like.header.get_data_dtype()), _header(data.shape, like)
    two = isinstance(header, nib.Nifti2Header)
    affine = header.get_best_affine()  # equal to the header's, which therefore stays as it is
    return nib.Nifti2Image(voxels, affine, header) if two else nib.Nifti1Image(voxels, affine, header)


def _header(shape: tuple[int, ...], like: Volume) -> nib.Nifti1Header:
    """Return the header of a grid of `shape` voxels in the field of view of `like`."""
    header: nib.Nifti1Header = like.header.copy()
    old = like.data.shape
    header.set_data_shape(shape)
    header.set_slope_inter(1, 0)
    header["cal_max"] = header["cal_min"] = 0
    across = header.get_dim_info()[2]
    across = len(shape) - 1 if across is None else across
    if shape[across] != old[across]:  # those slices are not the ones that were acquired, one after the other
        for field in ("slice_start", "slice_end", "slice_code", "slice_duration"):
            header[field] = 0
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


def as_type(data: NDArray[np.floating], dtype: np.dtype) -> NDArray[np.number]:
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

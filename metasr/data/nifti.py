"""NIfTI files: the header is checked before the voxels are read, and no more is read than it promises."""

import gzip
import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import Opener
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from metasr.data.files import check_reached
from metasr.data.foreign import refuse_absent, refuse_foreign
from metasr.errors import DataError

MAX_VOXELS = 2**31
MAX_EXTENSION_BYTES = 2**22  # between header and voxels: notes, which nibabel keeps as many small objects
MAX_TRAILING_BYTES = 2**16  # after the voxels: what some programs fill a block with
CIFTI_INTENTS = range(3000, 3100)  # of NIfTI-2 headers
CHUNK_BYTES = 2**20
NO_NOTES = bytes(4)
"""What follows a header that no notes ("extensions") follow."""
HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
GZIP = b"\x1f\x8b"
Image = nib.Nifti1Image  # whose subclass is that of NIfTI-2


def read_image(path: Path) -> tuple[nib.Nifti1Header, NDArray[np.float64], tuple[str, ...]]:
    """Read a NIfTI file, or a pair of header and image.

    Returns:
        The header, of one 3-D image in one file, with the type float32 where integers have a slope; the intensities
        `[i, j, k]`, slope and intercept applied; and what the header contradicts itself in.

    Raises:
        UnreachableError: It is missing, or the file system fails.
        DataError: It is not NIfTI, is cut short, or is not one image of real numbers.
    """
    with _as_data_error(path) as notes:
        header_path, image_path = _files(path)
        with _open(header_path) as file:
            start = file.read(HEADER_BYTES)
            kind, header = _parsed(path, start, paired=header_path != image_path)
            own = header.sizeof_hdr
            notes += repair(path, header)
            offset = header.get_data_offset()
            wanted = offset + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
            if header_path == image_path:
                rest, surplus = _read_exactly(file, start[own:], wanted - own)
                if offset >= own + len(NO_NOTES):
                    rest[: len(NO_NOTES)] = NO_NOTES  # nibabel would parse notes, such as those of DICOM
        if header_path != image_path:
            with _open(image_path) as file:
                rest, surplus = _read_exactly(file, b"", wanted)
            del rest[:offset]
            rest[:0] = NO_NOTES
            header["magic"], header["vox_offset"] = header.single_magic, header.single_vox_offset
        if surplus:
            notes.append(f"the {surplus} bytes after its voxels are left out")
        rest[:0] = header.binaryblock
        image = kind.from_bytes(bytes(rest))
        data = np.asarray(image.get_fdata(dtype=np.float64, caching="unchanged"))
        return _stored_as(path, image, data), data, tuple(dict.fromkeys(notes))


def read_header(path: Path) -> nib.Nifti1Header:
    """Return the header of a NIfTI file as `read_image` does, without what lies between header and voxels.

    Raises:
        UnreachableError: It is missing, or the file system fails.
        DataError: It is not NIfTI, or the header is one that `read_image` refuses.
    """
    with _as_data_error(path):
        header_path, image_path = _files(path)
        with _open(header_path) as file:
            _, header = _parsed(path, file.read(HEADER_BYTES), paired=header_path != image_path)
        repair(path, header)
        return header


@contextmanager
def _as_data_error(path: Path) -> Iterator[list[str]]:
    """Turn errors in reading a file into DataError, or UnreachableError where the file system fails.

    Yields what nibabel has to say about the header, which it would print.
    """
    notes: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        notes.append(record.getMessage())
        return False

    logger = logging.getLogger("nibabel.global")
    logger.addFilter(keep)
    try:
        refuse_absent(path)
        with warnings.catch_warnings(action="ignore"):  # of numbers out of range, which are refused or do no harm
            yield notes
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
    finally:
        logger.removeFilter(keep)


def _files(path: Path) -> tuple[Path, Path]:
    """Return the files of header and voxels: the same one twice, unless it is one of a pair."""
    stem, dot, ending = path.name.partition(".hdr") if ".hdr" in path.name else path.name.partition(".img")
    if not dot or ending not in ("", ".gz"):
        return path, path
    with _open(path) as file:
        if file.read(348)[344:347] == b"n+1":
            return path, path
    found = []
    for part in (".hdr", ".img"):
        names = [path.with_name(stem + part + ending), path.with_name(stem + part + (".gz" if not ending else ""))]
        existing = [name for name in names if name.is_file()]
        if not existing:
            raise DataError(str(path), f"{names[0].name}, the other file of the pair, is missing", "Put it beside")
        found.append(existing[0])
    return found[0], found[1]


def _open(path: Path) -> IO[bytes] | Opener:
    """Open a file to read what was compressed, or all of it: gzip goes by the content, whatever the name says."""
    with path.open("rb") as file:
        compressed = file.read(len(GZIP)) == GZIP
    if compressed:
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb") if path.name.lower().endswith(".gz") else Opener(str(path), "rb")


def _parsed(path: Path, start: bytes, *, paired: bool) -> tuple[type[Image], nib.Nifti1Header]:
    """Return the kind of image, as nibabel would choose it, and the header of a file from its first bytes.

    Extensions, whose lengths nibabel does not check, are not read.
    """
    for single, pair in ((nib.Nifti1Image, nib.Nifti1Pair), (nib.Nifti2Image, nib.Nifti2Pair)):
        if single.header_class.may_contain_header(start):
            kind = pair if paired else single
            header = kind.header_class(start[: single.header_class.sizeof_hdr])
            check_header(path, header)
            return single, header
    refuse_foreign(path, start)
    raise ImageFileError("its first bytes are of no known image format")


def _read_exactly(file: IO[bytes] | Opener, start: bytes, wanted: int) -> tuple[bytearray, int]:
    """Return the `wanted` bytes that the header promises, decompressed and with their checksum verified.

    Args:
        file: Open, at the position after `start`.
        start: The first bytes, which were read already.
        wanted: Bytes to return.

    Returns:
        The bytes, and how many there are beyond them.
    """
    content = bytearray(start)  # grows with what there is: a small file that promises much takes little memory
    while chunk := file.read(CHUNK_BYTES):
        content += chunk
        if len(content) > wanted + MAX_TRAILING_BYTES:
            raise ValueError("it is longer than its header promises")
    if len(content) < wanted:
        raise ValueError(f"{wanted - len(content)} of the bytes that its header promises are missing")
    surplus = len(content) - wanted
    del content[wanted:]
    return content, surplus


def _stored_as(path: Path, image: Image, data: NDArray[np.float64]) -> nib.Nifti1Header:
    """Return the header to save the intensities of an image with: integers with a slope become float32."""
    header: nib.Nifti1Header = image.header
    assert isinstance(image.dataobj, ArrayProxy)
    if (image.dataobj.slope, image.dataobj.inter) != (1.0, 0.0):
        if header.get_data_dtype().kind != "f":
            header.set_data_dtype(np.float32)
        if (
            np.abs(data, where=np.isfinite(data), out=np.zeros(data.shape)).max()
            > np.finfo(header.get_data_dtype()).max
        ):
            raise DataError(str(path), "its slope gives intensities beyond its type", "Repair the header")
    return header


def check_header(path: Path, header: nib.Nifti1Header) -> None:
    """Raise DataError where a header is not that of one image of real numbers; `path` is for the error."""
    if isinstance(header, nib.Nifti2Header) and int(header["intent_code"]) in CIFTI_INTENTS:
        raise DataError(str(path), "it is a CIFTI-2 matrix, not a volume", "Give one volume a file")
    shape, num_dimensions = header.get_data_shape(), int(header["dim"][0])
    if not 1 <= num_dimensions <= 7:  # nibabel does not check it
        raise DataError(str(path), f"its header claims {num_dimensions} dimensions", "Repair the header")
    if len(shape) < 2 or any(extra not in (0, 1) for extra in shape[3:]):
        raise DataError(str(path), f"its shape is {shape}, not one 3-D image", "Give one volume a file")
    if min(shape[:3]) < 1 or math.prod(shape[:3]) > MAX_VOXELS:
        raise DataError(str(path), f"its header claims the shape {shape}", "Give a volume with 1 to 2^31 voxels")
    if header.get_data_dtype().kind not in "iuf":
        raise DataError(str(path), f"its voxels are {header.get_data_dtype()}, not real numbers", "Convert it first")
    first, offset = (header.single_vox_offset if header.is_single else 0), header.get_data_offset()
    if not first <= offset <= first + MAX_EXTENSION_BYTES:
        raise DataError(str(path), f"its header says that the voxels begin at byte {offset}", "Repair the header")


def repair(path: Path, header: nib.Nifti1Header) -> list[str]:
    """Give a header three dimensions and an affine that holds, in place; return what it contradicts itself in."""
    notes, shape = [], header.get_data_shape()
    if len(shape) != 3:
        header.set_data_shape((*shape, 1)[:3])
    if 0 in shape[3:]:
        notes.append(f"its header gives the shape {shape}, taken as {shape[:3]}")
    good = {
        "sform": header["sform_code"] > 0 and _is_regular(header.get_sform()),
        "qform": header["qform_code"] > 0 and _has_regular_qform(header),
    }
    for form, other in (("sform", "qform"), ("qform", "sform")):
        if header[f"{form}_code"] > 0 and not good[form]:
            if not good[other]:
                raise DataError(
                    str(path), f"its {form} gives the voxels no volume in the world (affine)", "Repair the header"
                )
            notes.append(f"its {form} is no affine of a volume; its {other} is taken")
            header[f"{form}_code"] = 0
    if not _is_regular(header.get_best_affine()):
        raise DataError(str(path), "its affine gives the voxels no volume in the world", "Repair the header")
    return notes


def _has_regular_qform(header: nib.Nifti1Header) -> bool:
    try:
        return _is_regular(header.get_qform())
    except ValueError:  # it is not a rotation
        return False


def _is_regular(affine: NDArray[np.float64]) -> bool:
    """Return whether an affine is finite and maps voxels to a space of three dimensions."""
    sizes = voxel_sizes(affine)
    if not (np.isfinite(affine).all() and np.isfinite(sizes).all() and sizes.all()):
        return False
    return bool(np.linalg.matrix_rank(affine[:3, :3] / sizes) == 3)

"""What is not NIfTI: told by its first bytes or its name, and which program converts it."""

from itertools import islice
from pathlib import Path

from metasr.errors import DataError, UnreachableError

PREAMBLE_BYTES = 128  # of a DICOM file
LOOKED_AT = 100  # files of a folder, to tell what it holds
ONE = "Give one NIfTI file; `metasr upscale` takes folders, patterns and several files too"
DICOM = "`dcm2niix FOLDER` converts a series to NIfTI"
C3D = "`c3d IN -o out.nii.gz` (or SimpleITK) converts it"
MGH = "`mri_convert IN out.nii.gz` converts it"
ITK = "SimpleITK or ImageJ converts a stack of such images to NIfTI"

# What files begin with.
CONTENTS: tuple[tuple[bytes, str, str], ...] = (
    (b"NRRD", "NRRD", C3D),
    (b"ObjectType", "MetaImage (MHA, MHD)", C3D),
    (b"NDims", "MetaImage (MHA, MHD)", C3D),
    (b"\x00\x00\x00\x01\x00", "MGH of FreeSurfer", MGH),
    (b"\x89PNG", "a PNG image", ITK),
    (b"\xff\xd8\xff", "a JPEG image", ITK),
    (b"II*\x00", "a TIFF image", ITK),
    (b"MM\x00*", "a TIFF image", ITK),
    (b"CDF", "MINC", "`mnc2nii IN out.nii` converts it"),
    (b"\x89HDF", "HDF5 or MINC 2", "`mnc2nii IN out.nii` converts MINC"),
    (b"PK\x03\x04", "a ZIP archive", "Unpack it, and give one NIfTI file"),
    (b"\x5c\x01\x00\x00", "Analyze 7.5", "`mri_convert IN out.nii.gz` or `c3d IN -o out.nii.gz` converts it"),
    (b"\x00\x00\x01\x5c", "Analyze 7.5", "`mri_convert IN out.nii.gz` or `c3d IN -o out.nii.gz` converts it"),
)
ENDINGS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    ((".dcm", ".dicom", ".ima"), "DICOM", DICOM),
    ((".nrrd", ".nhdr"), "NRRD", C3D),
    ((".mha", ".mhd"), "MetaImage (MHA, MHD)", C3D),
    ((".mgh", ".mgz"), "MGH of FreeSurfer", MGH),
    ((".mnc",), "MINC", "`mnc2nii IN out.nii` converts it"),
)


def refuse_absent(path: Path) -> None:
    """Refuse a path that is no file.

    Raises:
        DataError: It is a folder.
        UnreachableError: There is nothing, or something that is no file.
    """
    if path.is_dir():
        if any(map(is_dicom, islice(path.rglob("*"), LOOKED_AT))):
            raise DataError(str(path), "it is a folder of DICOM files, not a NIfTI file", DICOM)
        raise DataError(str(path), "it is a folder, not a NIfTI file", ONE)
    if not path.is_file():
        fix = ONE if set("*?[") & set(path.name) else "Check the path"
        raise UnreachableError(str(path), "there is no such file", fix)


def refuse_foreign(path: Path, start: bytes) -> None:
    """Raise DataError if a file that begins so, decompressed, is of another format that has a name."""
    if start[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM":
        raise DataError(str(path), "it is DICOM, not NIfTI", DICOM)
    of_content = ((what, fix) for magic, what, fix in CONTENTS if start.startswith(magic))
    of_name = ((what, fix) for endings, what, fix in ENDINGS if path.name.lower().endswith(endings))
    for what, fix in (*of_content, *of_name):
        raise DataError(str(path), f"it is {what}, not NIfTI", fix)


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by its name or its first bytes."""
    try:
        with path.open("rb") as file:
            return path.name.lower().endswith(".dcm") or file.read(PREAMBLE_BYTES + 4).endswith(b"DICM")
    except OSError:  # a folder, or a file of somebody else
        return False

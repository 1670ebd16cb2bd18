"""Photographs: found in a folder, read as luminance, cut into tiles (the paper starts with DIV2K)."""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from metasr.data.files import check_reached, files_in, shown, why_unusable
from metasr.data.subjects import Found, Subject
from metasr.errors import DataError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
# An explicit list: for some other formats PIL runs other programs (Ghostscript for EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
BT601 = (299, 587, 114)  # thousandths of red, green and blue: sums of 8-bit values stay exact in float32


def find_photos(folder: Path) -> Found:
    """Return the photographs of a folder, at any depth, sorted by name: each is a subject, and a patient, of its own.

    Its name is its path within the folder without the suffix, such as `0801` or `valid/0801`. Links are followed.

    Raises:
        UnreachableError: A folder in it cannot be read.
        DataError: The folder is missing, holds no photograph that can be used, or holds two of one name.
    """
    if not folder.is_dir():
        raise DataError(f"folder {folder}", "there is no such folder", "Give the folder that holds the photographs")
    photos: dict[str, Path] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for path in files_in(folder):
        reason = why_unusable(path)
        if path.suffix.lower() not in ENDINGS or path.name.startswith(".") or not (path.is_file() or reason):
            continue
        below = path.relative_to(folder)
        name = shown(below.with_suffix("").as_posix())
        if reason:
            left_out[reason].append(shown(below.as_posix()))
        elif name in photos:
            raise DataError(f"photograph {name}", f"there are two, {photos[name]} and {path}", "Leave one out")
        else:
            photos[name] = path
    if not photos:
        raise DataError(f"folder {folder}", "it has no photograph", f"Give one with {', '.join(ENDINGS)} files")
    return Found(
        "photographs", [Subject(name, path, patient=name) for name, path in sorted(photos.items())], left_out
    )


def load_luminance(path: Path) -> NDArray[np.float32]:
    """Read a photograph, upright, as luminance `[H, W]` in [0, 1].

    16-bit gray keeps all bits; of 16-bit colour PIL reads the upper 8. Transparent pixels are black. Of several
    frames the first is read.

    Source: ITU-R BT.601, the weights of PIL's mode L.

    Raises:
        UnreachableError: It is missing, or the file system fails.
        DataError: It is not an image of these formats, is cut short, is so large that PIL suspects a decompression
            bomb (before memory is allocated for it), or does not say which value is white.
    """
    with _as_data_error(path), Image.open(path, formats=FORMATS) as image:
        return _luminance(ImageOps.exif_transpose(image))


def photo_shape(path: Path) -> tuple[int, int]:
    """Return rows and columns of a photograph as it is stored, upright or not, from its header alone.

    Raises:
        UnreachableError: It is missing, or the file system fails.
        DataError: It is not an image of these formats.
    """
    with _as_data_error(path), Image.open(path, formats=FORMATS) as image:
        columns, rows = image.size
        return rows, columns


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    """Turn errors in reading a photograph into DataError, or UnreachableError where the file system fails."""
    try:
        with path.open("rb") as file:  # PIL would leave a file open that it cannot read
            file.read(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = f"it has more than {Image.MAX_IMAGE_PIXELS} pixels"
        raise DataError(str(path), reason, "Cut it into smaller photographs") from error
    except Exception as error:  # for a broken file PIL's decoders raise errors of any type
        check_reached(path, error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            str(path), f"not a readable photograph ({reason})", f"Give a whole file of {', '.join(FORMATS)}"
        ) from error


def _luminance(image: Image.Image) -> NDArray[np.float32]:
    if image.mode.startswith("I;16"):
        return np.asarray(image, dtype=np.float32) / np.float32(65535)
    if image.mode in ("I", "F"):
        raise ValueError("its 32-bit pixels do not say which value is white")
    pixels = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    total = np.zeros(pixels.shape[:2], np.float32)
    for channel, weight in enumerate(BT601):
        total += pixels[..., channel] * np.float32(weight)
    if pixels.shape[2] == 4:
        total *= pixels[..., 3] / np.float32(255)
    return total / np.float32(255 * sum(BT601))


def tiles(image: NDArray[np.float32], side: int) -> list[NDArray[np.float32]]:
    """Return the `side` x `side` tiles of a grid in the middle of an image, row by row; they do not overlap."""
    rows, columns = (range(length % side // 2, length - side + 1, side) for length in image.shape)
    return [image[row : row + side, column : column + side] for row in rows for column in columns]

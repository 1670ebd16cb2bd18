"""Pictures (PNG, JPEG, TIFF): the luminance as a volume of one slice, the colours beside it, written as they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from metasr.data.files import appearing, check_reached
from metasr.data.foreign import refuse_absent
from metasr.data.in_memory import volume_of_array
from metasr.data.volume import Volume
from metasr.errors import DataError

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "TIFF")  # an explicit list: for some other formats PIL runs other programs
GRAY = {"L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I;16L": np.uint16, "I": np.int32, "F": np.float32}
WEIGHTS = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
WHITE = 255.0
KEPT = ("icc_profile", "dpi")


@dataclass(frozen=True)
class Picture:
    """A picture that was read.

    Attributes:
        volume: Gray values as they are in the file, or the luminance of colours, 0 to 255, `[H, W, 1]`.
        chroma: Red, green and blue minus the luminance, `[3, H, W]`; None for gray.
        alpha: Opacity, 0 to 255, `[H, W]`; None where it has none.
        info: What is written again: colour profile and resolution.
    """

    volume: Volume
    chroma: NDArray[np.float32] | None
    alpha: NDArray[np.float32] | None
    info: dict[str, Any] = field(default_factory=dict)


def load_picture(path: Path) -> Picture:
    """Read a picture, upright.

    Gray with 8 and 16 bits, and float TIFF, keep all values. Colours have 8 bits each; of more PIL reads the upper 8.

    Raises:
        UnreachableError: It is missing, or the file system fails.
        DataError: It is not such a picture, is cut short, has several pages, or is suspiciously large.
    """
    refuse_absent(path)
    with _as_data_error(path), Image.open(path, formats=FORMATS) as opened:
        if getattr(opened, "n_frames", 1) > 1:
            raise ValueError(
                f"it has {getattr(opened, 'n_frames', 1)} pages: save one as a file, or make a NIfTI volume"
            )
        image = ImageOps.exif_transpose(opened)
        info = {key: opened.info[key] for key in KEPT if key in opened.info}
        if image.mode in GRAY:
            return _picture(path, np.asarray(image).astype(GRAY[image.mode]), None, None, info)
        pixels = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"), dtype=np.float32)
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
    luminance = (pixels[..., :3] @ WEIGHTS).astype(np.float32)
    chroma = np.moveaxis(pixels[..., :3], -1, 0) - luminance
    if not chroma.any():  # gray in the guise of colours
        return _picture(path, pixels[..., 0].astype(np.uint8), None, alpha, info)
    return _picture(path, luminance, chroma, alpha, info)


def save_picture(path: Path, data: NDArray[np.floating], like: Picture) -> None:
    """Write super-resolved luminance as a picture of the kind that was read; chroma and opacity become bicubic.

    Values are rounded and clipped, never wrapped. The file appears when it is complete.

    Args:
        path: PNG, JPEG or TIFF, by its ending.
        data: Luminance or gray values, `[H, W, 1]`.
        like: What it was made of.

    Raises:
        DataError: It cannot be written, or the format cannot hold such values.
    """
    image = _image(data[..., 0], like)
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    check_holds(path, like)
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if jpeg else {}
    with appearing(path, path.suffix.lower()) as partial:
        image.save(partial, **options, **like.info)


def check_holds(path: Path, like: Picture) -> None:
    """Raise DataError where the format of a path, by its ending, cannot hold the values of a picture."""
    kind, ending = like.volume.header.get_data_dtype(), path.suffix.lower()
    deep = like.chroma is None and kind != np.uint8
    if ending in (".jpg", ".jpeg") and (deep or like.alpha is not None):
        what = "opacity" if like.alpha is not None else f"{kind.itemsize * 8}-bit values"
        raise DataError(f"output {path}", f"JPEG holds no {what}", "Give a name with .png or .tif")
    if ending == ".png" and kind == np.float32 and like.chroma is None:
        raise DataError(f"output {path}", "PNG holds no floats", "Give a name with .tif")


def _picture(
    path: Path, gray: NDArray[Any], chroma: NDArray[Any] | None, alpha: NDArray[Any] | None, info: dict[str, Any]
) -> Picture:
    volume = volume_of_array(gray)
    return Picture(Volume(volume.data, volume.header, path), chroma, alpha, info)


def _image(gray: NDArray[np.floating], like: Picture) -> Image.Image:
    kind = like.volume.header.get_data_dtype()
    if like.chroma is None and like.alpha is None:
        limits = None if kind.kind == "f" else np.iinfo(kind)
        values = gray if limits is None else np.clip(np.rint(gray.astype(np.float64)), limits.min, limits.max)
        return Image.fromarray(values.astype(kind))
    chroma = (
        np.zeros((3, *gray.shape)) if like.chroma is None else [_bicubic(each, gray.shape) for each in like.chroma]
    )
    channels = [gray + each for each in chroma]
    if like.alpha is not None:
        channels.append(_bicubic(like.alpha, gray.shape))
    return Image.fromarray(np.clip(np.rint(np.stack(channels, axis=-1)), 0, WHITE).astype(np.uint8))


def _bicubic(channel: NDArray[np.floating], size: tuple[int, ...]) -> NDArray[np.float32]:
    image = Image.fromarray(channel.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC), dtype=np.float32)


@contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    """Turn errors in reading a picture into DataError, or UnreachableError where the file system fails."""
    try:
        with path.open("rb") as file:  # PIL would leave a file open that it cannot read
            file.read(1)
        yield
    except DataError:
        raise
    except Exception as error:  # for a broken file PIL's decoders raise errors of any type
        check_reached(path, error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            str(path), f"not a readable picture ({reason})", f"Give a whole file of {', '.join(FORMATS)}"
        ) from error

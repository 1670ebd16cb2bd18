"""The pictures of a case: LR, each method, HR and the errors, all of the same part of the slice, as data URLs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from torch.nn import functional

from metasr.evaluation.methods import BICUBIC_NAME, LANCZOS_NAME, MODEL_NAME
from metasr.evaluation.pictures import ERROR_GAIN, png_bytes, telling_window, to_image
from metasr.evaluation.protocol import Comparison
from metasr.report.cases import Case
from metasr.report.template import png_url, signed_text

MAX_BYTES = 2_300_000
"""Of all data URLs of a page."""
MAX_PX = 320
"""Longer sides are cut, so that a page of large slices remains small."""
MARGIN_PX = 6
ERROR_COLOURS = "inferno"


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: What it shows.
        score: PSNR in dB and SSIM as text; empty for LR, HR and errors.
        url: The data URL of a PNG file.
    """

    name: str
    score: str
    url: str


@dataclass(frozen=True)
class PicturedCase:
    """A case with its pictures, which all show the same part of the slice.

    Attributes:
        case: The case.
        title: Its name in a list.
        gain: The gains, as text.
        shape: Height and width of each picture, in HR pixels.
        window: The part where the errors of bicubic and SR differ most: top, left, height, width, from 0 to 1.
        place: That part in HR pixels of the slice, as text.
        pictures: In the order in which they are compared.
    """

    case: Case
    title: str
    gain: str
    shape: tuple[int, int]
    window: tuple[float, float, float, float]
    place: str
    pictures: tuple[Picture, ...]

    @property
    def first(self) -> int:
        """Number of the model's picture."""
        return next(number for number, picture in enumerate(self.pictures) if picture.name == "SR")

    @property
    def zoom(self) -> float:
        """How much the telling part is enlarged to fill the view."""
        return 1 / max(self.window[2:])

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the telling part, along columns and rows, from 0 to 1."""
        top, left, height, width = self.window
        return left + width / 2, top + height / 2


def pictured(found: Sequence[tuple[Case, Comparison]]) -> list[PicturedCase]:
    """Return cases with their pictures, as many as a page may hold."""
    cases: list[PicturedCase] = []
    total = 0
    for case, comparison in found:
        one = _pictured(case, comparison)
        total += sum(len(picture.url) for picture in one.pictures)
        if total > MAX_BYTES and cases:
            break
        cases.append(one)
    return cases


def _pictured(case: Case, comparison: Comparison) -> PicturedCase:
    bicubic, sr, hr = comparison.images[BICUBIC_NAME], comparison.images[MODEL_NAME], comparison.hr
    telling = telling_window(bicubic, sr, hr)
    rows, columns = _shown(hr, telling)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    top, left = (part.start - whole.start for part, whole in zip(telling, (rows, columns), strict=True))
    high, wide = (part.stop - part.start for part in telling)
    spans = (f"{part.start}\N{EN DASH}{part.stop - 1}" for part in telling)
    place = "rows {}, columns {}".format(*spans)
    return PicturedCase(
        case,
        f"{case.kind.capitalize()}, x{case.scale}",
        f"{signed_text(case.psnr_gain, 2)} dB, SSIM {signed_text(case.ssim_gain)}",
        (height, width),
        (top / height, left / width, high / height, wide / width),
        place,
        tuple(
            Picture(name, score, png_url(png_bytes(image)))
            for name, score, image in _images(case, comparison, rows, columns)
        ),
    )


def _images(case: Case, comparison: Comparison, rows: slice, columns: slice) -> list[tuple[str, str, Image.Image]]:
    """Return name, score and image of each picture. LR pixels are shown as squares."""
    hr, images = comparison.hr, comparison.images
    lr = functional.interpolate(comparison.lr, size=hr.shape[-2:], mode="nearest-exact")
    others = [name for name in images if name not in (BICUBIC_NAME, LANCZOS_NAME, MODEL_NAME)]
    methods = {BICUBIC_NAME: "bicubic", **{name: name for name in others}, MODEL_NAME: "SR"}
    part = (..., rows, columns)
    return [
        ("LR", "", to_image(lr[part])),
        *((label, _score(case, name), to_image(images[name][part])) for name, label in methods.items()),
        ("HR", "", to_image(hr[part])),
        *(
            (f"error of {label}", "", error_image((images[name] - hr)[part]))
            for name, label in methods.items()
            if name in (BICUBIC_NAME, MODEL_NAME)
        ),
    ]


def error_image(error: Tensor) -> Image.Image:
    """Return |error| `[1, 1, H, W]` in colours from black (none) to bright (a fifth of the range, or more)."""
    shades = (error[0, 0].abs() * ERROR_GAIN).nan_to_num(1.0).clamp(0, 1).mul(255).round().to(torch.uint8)
    image = Image.fromarray(shades.cpu().numpy(), "P")
    image.putpalette(_palette())
    return image


@cache
def _palette() -> bytes:
    colours = colormaps[ERROR_COLOURS](np.arange(256), bytes=True)[:, :3]
    return bytes(np.asarray(colours, np.uint8).tobytes())


def _score(case: Case, method: str) -> str:
    if method not in case.psnr:
        return ""
    return f"{case.psnr[method]:.2f} dB, SSIM {case.ssim[method]:.4f}"


def _shown(hr: Tensor, telling: tuple[slice, slice]) -> tuple[slice, slice]:
    """Return the rows and columns to show: what is not background with a margin, and the telling part."""
    inside = (hr[0, 0] != 0).cpu()
    found = []
    for part, along, length in zip(telling, (inside.any(1), inside.any(0)), hr.shape[-2:], strict=True):
        filled = torch.nonzero(along).flatten().tolist() or [part.start, part.stop - 1]
        start = max(0, min(filled[0] - MARGIN_PX, part.start))
        stop = min(length, max(filled[-1] + 1 + MARGIN_PX, part.stop))
        if stop - start > MAX_PX:
            middle = (part.start + part.stop) // 2
            start = min(max(start, middle - MAX_PX // 2), max(start, stop - MAX_PX))
            stop = min(stop, start + MAX_PX)
        found.append(slice(start, stop))
    return found[0], found[1]

"""Windows of slices, decoded at any real scale from the features that are kept."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from metasr.data.intensity import IntensityScale
from metasr.data.planes import Plane
from metasr.errors import ConfigError
from metasr.inference.background import nearest, surrounding
from metasr.inference.bundle import Bundle
from metasr.inference.engine import Engine
from metasr.models.generator import Features, Generator
from metasr.models.meta_upscale_window import Window
from metasr.viewer.encoder import KEPT_BYTES, Encoded, Encoder
from metasr.viewer.scene import CODES, Scene
from metasr.viewer.window import Part, Span

STAGES = ("encode", "decode", "pack")


@dataclass(frozen=True)
class Decoded:
    """A window and what it cost.

    Attributes:
        codes: 16-bit intensities `[rows, columns]`.
        stages_ms: Milliseconds that each of `STAGES` took; `encode` is 0 where the features were kept.
    """

    codes: NDArray[np.uint16]
    stages_ms: dict[str, float]


class Decoder:
    """Decode windows of a scene's slices.

    Not for several threads at once.

    Args:
        bundle: Of a network for any scale.
        scene: What is shown.
        kept_bytes: Memory for features.

    Raises:
        ConfigError: The network is for one scale alone.
    """

    def __init__(self, bundle: Bundle, scene: Scene, kept_bytes: int = KEPT_BYTES) -> None:
        self.bundle, self._scene, self._engine = bundle, scene, Engine(check_zooms(bundle))
        self._encoder = Encoder(self._engine, scene, kept_bytes)

    @torch.inference_mode()
    def decode(self, plane: Plane, index: int, rows: Span, columns: Span) -> Decoded:
        """Return a window of a slice, in 16 bits: above scale 1 it is that part of what `upscale_volume` gives."""
        image, intensities = self._scene.image(plane, index), self._scene.intensities
        if intensities is None or image.min() == image.max():
            flat = np.full((rows.pixels, columns.pixels), image.flat[0], np.float64)
            return Decoded(self._codes(flat), dict.fromkeys(STAGES, 0.0))
        marks = [time.perf_counter()]
        encoded = self._encoder.encoded(plane, index, intensities)
        marks.append(time.perf_counter())
        inner = [span.within(brain) for span, brain in zip((rows, columns), encoded.brain(), strict=True)]
        sr = np.full((rows.pixels, columns.pixels), intensities.background or 0.0, np.float32)
        if inner[0].pixels and inner[1].pixels:
            place = tuple(
                slice(i.first - o.first, i.last - o.first) for i, o in zip(inner, (rows, columns), strict=True)
            )
            with _half_the_threads():
                sr[place] = self._window(encoded, intensities, *inner)
        marks.append(time.perf_counter())
        codes = self._codes(sr)
        marks.append(time.perf_counter())
        stages = (1000 * (end - begin) for begin, end in pairwise(marks))
        return Decoded(codes, dict(zip(STAGES, stages, strict=True)))

    def _window(
        self, encoded: Encoded, intensities: IntensityScale, rows: Span, columns: Span
    ) -> NDArray[np.float32]:
        """Return a window `[rows, columns]` in the volume's units."""
        down, across = (span.part(length) for span, length in zip((rows, columns), encoded.lr.shape, strict=True))
        part = _cut(encoded, down.lr, across.lr)
        window = Window(down.window[0], across.window[0], down.pixels, across.pixels)
        size = down.size, across.size
        unit = self._engine.decode_window(part.features, size, window)[0, 0].cpu().numpy()
        sr: NDArray[np.float32] = unit * np.float32(intensities.high - intensities.low) + np.float32(intensities.low)
        if part.is_background is not None:
            far = intensities.background if intensities.background != intensities.low else None
            _keep_background(sr, part, down, across, intensities.from_unit(part.lr).astype(np.float32), far)
        return sr

    def _codes(self, sr: NDArray[np.floating]) -> NDArray[np.uint16]:
        low, high = self._scene.low, self._scene.high
        return ((sr - low) * (CODES / (high - low)) + 0.5).clip(0, CODES).astype(np.uint16)


def check_zooms(bundle: Bundle) -> Generator:
    """Return the network of a bundle; ConfigError where it is for one scale alone."""
    if not isinstance(bundle.generator, Generator):
        raise ConfigError("this model", "it has one scale, and the page zooms", "Give a model for any scale")
    return bundle.generator


@contextmanager
def _half_the_threads() -> Iterator[None]:
    """Leave half of the cores to the browser, which paints one window while the next is decoded.

    Decoding consists of many short steps: threads that had to wait for a core would hold up each of them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cut(encoded: Encoded, rows: tuple[int, int], columns: tuple[int, int]) -> Encoded:
    """Return a part of a slice. Beyond its ends features are 0, as for the network, and pixels the last."""
    height, width = encoded.lr.shape
    beyond = max(0, columns[1] - width), max(0, rows[1] - height)
    inside = slice(*rows), slice(*columns)
    maps, lr = encoded.features.maps[..., *inside], encoded.features.lr[..., *inside]
    pixels, is_background = encoded.lr[inside], encoded.is_background
    is_background = None if is_background is None else is_background[inside]
    if any(beyond):
        pad = (0, beyond[0], 0, beyond[1])
        maps, lr = functional.pad(maps, pad), functional.pad(lr, pad, mode="replicate")
        pixels = np.pad(pixels, ((0, beyond[1]), (0, beyond[0])), mode="edge")
        if is_background is not None:
            is_background = np.pad(is_background, ((0, beyond[1]), (0, beyond[0])), mode="edge")
    return Encoded(Features(maps, lr), pixels, is_background)


def _keep_background(
    sr: NDArray[np.float32],
    part: Encoded,
    down: Part,
    across: Part,
    lr: NDArray[np.float32],
    far: float | None,
) -> None:
    """Do in a window, in place, what `metasr.inference.background.keep_background` does in a whole image.

    Args:
        sr: The window, in the volume's units.
        part: Of the slice, with its background.
        down: The rows of the part, and of the window in it.
        across: The columns.
        lr: The part in the volume's units.
        far: A background far from the brain, which is cut out along the nearest LR pixels; None for any other.
    """
    assert part.is_background is not None
    axes = [(old, axis.size, slice(*axis.window)) for old, axis in zip(lr.shape, (down, across), strict=True)]
    rows, columns = (nearest(old, new)[window] for old, new, window in axes)
    is_background = part.is_background[rows][:, columns]
    if far is not None:
        sr[is_background] = far
    elif is_background.any():
        (top, bottom), (left, right) = ([i[window] for i in surrounding(old, new)] for old, new, window in axes)
        low, high = np.minimum(lr[top], lr[bottom]), np.maximum(lr[top], lr[bottom])
        low, high = np.minimum(low[:, left], low[:, right]), np.maximum(high[:, left], high[:, right])
        np.clip(sr, low, high, out=sr, where=is_background)

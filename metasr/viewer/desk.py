"""Windows of one volume: computed one at a time, in the order they were asked for, and not when out of date."""

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import Executor
from typing import TYPE_CHECKING, NamedTuple

from metasr.data.planes import Plane
from metasr.viewer.model import Model, short
from metasr.viewer.scene import Scene
from metasr.viewer.window import Span

if TYPE_CHECKING:
    from metasr.viewer.decoder import Decoder

PAGES = 64
"""Pages whose latest turn is remembered."""


class Turn(NamedTuple):
    """Who asks, and how often it has asked before.

    Attributes:
        page: A page in a browser: of each, the latest turn wins.
        turn: Counts up.
    """

    page: str = ""
    turn: int = 0


class Given(NamedTuple):
    """A window.

    Attributes:
        codes: 16-bit intensities, little-endian, row by row.
        stages_ms: What took how long.
        model: The model that it is by.
    """

    codes: bytes
    stages_ms: dict[str, float]
    model: str


class Desk:
    """Where windows are asked for.

    Args:
        scene: The volume.
        model: What super-resolves it. Where it changes, features are computed anew.
        worker: Computes one window at a time, also of other volumes.
        kept_bytes: Memory for features.
    """

    def __init__(self, scene: Scene, model: Model, worker: Executor, kept_bytes: int) -> None:
        self._scene, self._model, self._worker, self._kept_bytes = scene, model, worker, kept_bytes
        self._newest: OrderedDict[str, int] = OrderedDict()
        self._decoder: Decoder | None = None

    async def window(self, plane: Plane, index: int, spans: tuple[Span, Span], turn: Turn) -> Given | None:
        """Return a window; None where a later turn of the same page has come meanwhile."""
        asked = time.perf_counter()
        newest = max(turn.turn, self._newest.pop(turn.page, 0))
        self._newest[turn.page] = newest
        if len(self._newest) > PAGES:
            self._newest.popitem(last=False)

        def compute() -> Given | None:
            if turn.turn < self._newest.get(turn.page, 0):
                return None
            began = time.perf_counter()
            decoder = self._current()
            decoded = decoder.decode(plane, index, *spans)
            stages = {"wait": 1000 * (began - asked), **decoded.stages_ms}
            return Given(decoded.codes.astype("<u2", copy=False).tobytes(), stages, short(decoder.bundle))

        return await asyncio.get_running_loop().run_in_executor(self._worker, compute)

    def _current(self) -> "Decoder":
        bundle = self._model.bundle()
        if self._decoder is None or self._decoder.bundle is not bundle:
            from metasr.viewer.decoder import Decoder  # with the model, torch is there

            self._decoder = Decoder(bundle, self._scene, self._kept_bytes)
        return self._decoder

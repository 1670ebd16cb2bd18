"""What the page asks for: the description of the volume, its slices, and windows of them super-resolved."""

import asyncio
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Response
from fastapi.responses import RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from metasr.data.planes import Plane
from metasr.viewer.guard import Guard
from metasr.viewer.model import Model
from metasr.viewer.scene import Scene
from metasr.viewer.window import Span

PAGE = Path(__file__).parent / "page"
MAX_PIXELS = 2**23
STALE = 204
"""The status of a window that nobody waits for any more: the page has asked for a later one."""
Index = Annotated[int, Query(ge=0)]
Pixels = Annotated[str, Query(pattern=r"^\d{1,6}/\d{1,6}:\d{1,6}:\d{1,6}$")]


def build_app(scene: Scene, model: Model, token: str) -> ASGIApp:
    """Return the application, all of it below `/<token>/`.

    Args:
        scene: What is shown.
        model: What super-resolves it, once it is loaded.
        token: The secret without which everything is refused.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    description = scene.description()
    desk = Desk(model)

    @app.get(f"/{token}")
    def without_slash() -> RedirectResponse:
        return RedirectResponse(f"/{token}/")

    @app.get(f"/{token}/volume")
    def volume() -> dict[str, Any]:
        return description

    @app.get(f"/{token}/model")
    def state() -> dict[str, Any]:
        return model.description()

    @app.get(f"/{token}/slice")
    def one_slice(plane: Plane, index: Index) -> Response:
        _check_index(scene, plane, index)
        image = np.ascontiguousarray(scene.image(plane, index), dtype="<f4")
        return Response(image.tobytes(), media_type="application/octet-stream")

    @app.get(f"/{token}/window")
    async def window(
        plane: Plane, index: Index, rows: Pixels, columns: Pixels, page: str = "", turn: int = 0
    ) -> Response:
        _check_index(scene, plane, index)
        return await desk.window(plane, index, _spans(scene, plane, rows, columns), Turn(page, turn))

    app.mount(f"/{token}", StaticFiles(directory=PAGE, html=True))
    return Guard(app, token)


class Turn(NamedTuple):
    """Who asks, and how often it has asked before.

    Attributes:
        page: A page in a browser: of each, the latest turn wins.
        number: Counts up.
    """

    page: str
    number: int


class Desk:
    """Windows, one at a time, in the order they were asked for; those that are out of date are not computed.

    Args:
        model: What computes them.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._worker = ThreadPoolExecutor(1, "decode")
        self._newest: defaultdict[str, int] = defaultdict(int)

    async def window(self, plane: Plane, index: int, spans: tuple[Span, Span], turn: Turn) -> Response:
        """Return the codes of a window as little-endian 16-bit numbers, row by row."""
        asked = time.perf_counter()
        self._newest[turn.page] = max(turn.number, self._newest[turn.page])

        def compute() -> Response:
            if turn.number < self._newest[turn.page]:
                return Response(status_code=STALE)
            began = time.perf_counter()
            decoded = self._model.decoder().decode(plane, index, *spans)
            stages = {"wait": 1000 * (began - asked), **decoded.stages_ms}
            timing = ", ".join(f"{stage};dur={ms:.2f}" for stage, ms in stages.items())
            body = decoded.codes.astype("<u2", copy=False).tobytes()
            return Response(body, headers={"Server-Timing": timing}, media_type="application/octet-stream")

        return await asyncio.get_running_loop().run_in_executor(self._worker, compute)


def _check_index(scene: Scene, plane: Plane, index: int) -> None:
    if index >= scene.count(plane):
        raise HTTPException(404, f"the volume has {scene.count(plane)} {plane} slices")


def _spans(scene: Scene, plane: Plane, rows: str, columns: str) -> tuple[Span, Span]:
    height, width = scene.image(plane, 0).shape
    try:
        spans = Span.parse(rows, height), Span.parse(columns, width)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    if spans[0].pixels * spans[1].pixels > MAX_PIXELS:
        raise HTTPException(422, f"a window has at most {MAX_PIXELS:,} pixels")
    return spans

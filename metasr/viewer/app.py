"""What the page asks for: the description of a volume, its slices, and windows of them super-resolved."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from metasr.data.planes import Plane
from metasr.errors import MetaSRError
from metasr.viewer.desk import Turn
from metasr.viewer.guard import LOOPBACK, Access, Guard, has_secret
from metasr.viewer.scene import Scene
from metasr.viewer.session import FullError, Session, Sessions
from metasr.viewer.upload import TooLargeError, Uploads
from metasr.viewer.window import Span

PAGE, DOOR = Path(__file__).parent / "page", Path(__file__).parent / "door"
MAX_PIXELS = 2**23
STALE = 204
"""The status of a window that nobody waits for any more: the page has asked for a later one."""
STATUS: dict[type[Exception], int] = {FullError: 503, TooLargeError: 413}
"""Of what is refused; all else is 422."""
Index = Annotated[int, Query(ge=0)]
Pixels = Annotated[str, Query(pattern=r"^\d{1,6}/\d{1,6}:\d{1,6}:\d{1,6}$")]


def create_app(sessions: Sessions, access: Access = LOOPBACK, max_bytes: int = 0) -> ASGIApp:
    """Return the application: the page of each open volume, below its secret; and a door, where volumes can be sent.

    Args:
        sessions: What is open.
        access: Who may ask. Where it has a secret, `POST /` opens a volume for those who bring it.
        max_bytes: Of a volume that is sent.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, exception_handlers={MetaSRError: _refused})
    has_door = bool(access.secret_sha256)
    if has_door:
        _add_door(app, sessions, access.secret_sha256, max_bytes)
    _add_page(app, sessions)

    def is_open(first: str) -> bool:
        return (has_door and first in ("", "door")) or sessions.find(first) is not None

    return Guard(app, access, is_open)


def _add_page(app: FastAPI, sessions: Sessions) -> None:
    def found(secret: str) -> Session:
        session = sessions.find(secret)
        if session is None:
            raise HTTPException(403, "it has ended")
        return session

    Opened = Annotated[Session, Depends(found)]  # noqa: N806 - a type

    @app.get("/{secret}")
    def without_slash(request: Request, secret: str) -> RedirectResponse:
        return RedirectResponse(f"{_below(request)}/{secret}/")

    @app.get("/{secret}/volume")
    def volume(session: Opened) -> dict[str, Any]:
        return session.description

    @app.get("/{secret}/model")
    def model(secret: str) -> dict[str, Any]:
        return sessions.model.description()

    @app.get("/{secret}/slice")
    def one_slice(session: Opened, plane: Plane, index: Index) -> Response:
        _check_index(session.scene, plane, index)
        image = np.ascontiguousarray(session.scene.image(plane, index), dtype="<f4")
        return Response(image.tobytes(), media_type="application/octet-stream")

    @app.get("/{secret}/window")
    async def window(
        session: Opened, plane: Plane, index: Index, rows: Pixels, columns: Pixels, turn: Annotated[Turn, Depends()]
    ) -> Response:
        _check_index(session.scene, plane, index)
        spans = _spans(session.scene, plane, rows, columns)
        given = await session.desk.window(plane, index, spans, turn)
        if given is None:
            return Response(status_code=STALE)
        timing = ", ".join(f"{stage};dur={ms:.2f}" for stage, ms in given.stages_ms.items())
        headers = {"Server-Timing": timing, "X-Metasr-Model": given.model}
        return Response(given.codes, headers=headers, media_type="application/octet-stream")

    app.mount("/{secret}", StaticFiles(directory=PAGE, html=True))


def _add_door(app: FastAPI, sessions: Sessions, secret_sha256: str, max_bytes: int) -> None:
    uploads = Uploads(sessions, max_bytes)

    @app.get("/")
    def to_the_door(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{_below(request)}/door/")

    @app.post("/")
    async def open_volume(request: Request) -> JSONResponse:
        if not has_secret(request.headers, secret_sha256):
            return JSONResponse({"error": "the secret is missing or another"}, 401)
        page = f"{_below(request)}/{await uploads.open(request.stream())}/"
        return JSONResponse({"page": page, "idle_s": sessions.limits.idle_s}, 201, {"Location": page})

    app.mount("/door", StaticFiles(directory=DOOR, html=True))


def _below(request: Request) -> str:
    """Return the path at which the application lies."""
    path: str = request.scope.get("root_path", "")
    return path.rstrip("/")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, STATUS.get(type(error), 422))


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

"""The deployments: who may ask, what is answered, and how much at a time. The home of Ray Serve."""

import asyncio
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.util.metrics import Counter, Histogram
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cluster.redaction import one_line
from cluster.runtime.ordered_map import Needs
from cluster.serving.current import CurrentModel, Followed
from cluster.serving.requests import Made, options_of, upscale_bytes
from cluster.serving.viewer import Viewer, Viewing
from metasr.errors import MetaSRError, TrainingError
from metasr.inference.plan import ModelInUse, Options
from metasr.viewer.guard import has_secret
from metasr.viewer.upload import TooLargeError

NAME, VIEWER = "metasr", "metasr-viewer"
MAX_WAITING = 64
MAX_LOOKING = 100
TRIES = 3
SECONDS = [0.1, 0.3, 1, 3, 10, 30, 100, 300]
REFUSED = {"error": "the token is missing or another: send `Authorization: Bearer TOKEN`"}


@dataclass(frozen=True)
class Serving:
    """How a model is served.

    Attributes:
        followed: Which model.
        token_sha256: Of the secret that requests must bring, in hexadecimal: the secret itself stays with the driver.
        max_bytes: Of a volume, as it is sent and when it is not compressed.
        replicas: Of the model, each working on one volume at a time.
        needs: What each replica reserves.
    """

    followed: Followed
    token_sha256: str
    max_bytes: int
    replicas: int
    needs: Needs


class Upscaler:
    """Answers requests: `POST /upscale?scale=2`, `GET /model`, `GET /health`.

    Args:
        serving: How.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._worker = ThreadPoolExecutor(1, "upscale")
        self._volumes = Counter("metasr_volumes", "Volumes asked for, by status.", ("status",))
        self._seconds = Histogram("metasr_seconds", "Seconds a volume took, without waiting.", SECONDS)
        self._reloads = Counter("metasr_model_changes", "Times that another model has become the one in use.")
        self._current = CurrentModel(serving.followed, self._reloads.inc)

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        path = request.url.path.rstrip("/")
        if path == "/health":  # whoever balances the load has no token, and learns nothing
            return JSONResponse({"status": "ok"})
        if not has_secret(request.headers, self._serving.token_sha256):
            return JSONResponse(REFUSED, 401)
        if (request.method, path) == ("GET", "/model"):
            return JSONResponse(self._about())
        if (request.method, path) == ("POST", "/upscale"):
            answer = await self._upscale(request)
            self._volumes.inc(tags={"status": str(answer.status_code)})
            return answer
        return JSONResponse({"error": "there are POST /upscale, GET /model and GET /health"}, 404)

    def _about(self) -> dict[str, Any]:
        used = self._current.model
        low, high = used.bundle.trained_scales
        return {
            "version": used.version,
            "bundle_sha256": used.bundle.digest,
            "trained_scales": [low, high],
            "max_bytes": self._serving.max_bytes,
        }

    async def _upscale(self, request: Request) -> Response:
        try:
            options = options_of(request.query_params)
            body = await self._body(request)
            used = self._current.model
            made = await asyncio.get_running_loop().run_in_executor(self._worker, self._timed, body, options, used)
        except TooLargeError as error:
            return JSONResponse({"error": str(error)}, 413)
        except MetaSRError as error:
            return JSONResponse({"error": str(error)}, 422)
        return Response(made.volume, media_type="application/gzip", headers={"X-Metasr": made.description})

    def _timed(self, body: bytes, options: Options, used: ModelInUse) -> Made:
        began = time.monotonic()
        made = upscale_bytes(body, options, used, self._serving.max_bytes)
        self._seconds.observe(time.monotonic() - began)
        return made

    async def _body(self, request: Request) -> bytes:
        """Return what was sent, of which no more than the limit is kept."""
        limit, body = self._serving.max_bytes, bytearray()
        too_large = TooLargeError("the volume", f"it has more than {limit / 1e6:g} MB", "Cut it in parts")
        if int(request.headers.get("content-length") or 0) > limit:
            raise too_large
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise too_large
        return bytes(body)


@contextmanager
def serve(serving: Serving, viewing: Viewing | None, host: str, port: int) -> Iterator[None]:
    """Serve a model, on the Ray that this process is connected to, for the length of a block.

    Args:
        serving: How.
        viewing: How volumes are shown; None for no page.
        host: Address that the head listens at.
        port: Port there.

    Raises:
        MetaSRError: There is no such model.
    """
    _start(host, port)
    names = []
    try:
        names.append(NAME)
        ray_serve.run(_upscaler(serving), name=NAME, route_prefix="/")
        if viewing:
            names.append(VIEWER)
            ray_serve.run(_viewer(viewing, serving.needs), name=VIEWER, route_prefix=viewing.path)
        yield
    finally:
        _end(names)


def _start(host: str, port: int) -> None:
    """Start Ray Serve, or join it; on a busy machine it gives up on its own proxy, and is asked again."""
    for left in reversed(range(TRIES)):
        try:
            ray_serve.start(http_options={"host": host, "port": port, "location": "HeadOnly"})
            return
        except RayError as error:
            if not left:
                fix = "Run the same command again when the machine has less to do; is the port free?"
                raise TrainingError(f"Ray Serve does not start at {host}:{port}", one_line(error), fix) from error


def _end(names: list[str]) -> None:
    """End what is served under these names, and Ray Serve where nothing else is."""
    for name in names:  # Ray Serve goes on with it where this process has to end before: a job is given 3 s
        ray_serve.delete(name, _blocking=False)
    for name in names:
        ray_serve.delete(name)
    if not ray_serve.status().applications:
        ray_serve.shutdown()


def _upscaler(serving: Serving) -> Any:
    deployment: Any = ray_serve.deployment(
        name=NAME,
        num_replicas=serving.replicas,
        ray_actor_options=_reserved(serving.needs),
        max_ongoing_requests=2,  # one that is worked on, and one whose volume arrives meanwhile
        max_queued_requests=MAX_WAITING,
    )(Upscaler)
    return deployment.bind(serving)


def _viewer(viewing: Viewing, needs: Needs) -> Any:
    ingress: Any = ray_serve.ingress()
    deployment: Any = ray_serve.deployment(
        name=VIEWER,
        num_replicas=1,  # an open volume is in the memory of the one that it was sent to
        ray_actor_options=_reserved(needs),
        max_ongoing_requests=MAX_LOOKING,
    )(ingress(Viewer))
    return deployment.bind(viewing)


def _reserved(needs: Needs) -> dict[str, float]:
    return {"num_cpus": needs.cpus, **({"num_gpus": needs.gpus} if needs.gpus else {})}


def digest_of(token: str) -> str:
    """Return the SHA-256 of a token."""
    return hashlib.sha256(token.encode()).hexdigest()

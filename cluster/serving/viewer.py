"""The page to zoom, for a team: volumes are sent to it, and super-resolved by the model of now."""

from dataclasses import dataclass
from typing import Any

from ray.util.metrics import Counter, Gauge
from starlette.types import ASGIApp

from cluster.serving.current import CurrentModel, Followed
from metasr.errors import MetaSRError
from metasr.inference.bundle import Bundle
from metasr.viewer.app import create_app
from metasr.viewer.decoder import check_zooms
from metasr.viewer.guard import NAMES, Access
from metasr.viewer.model import ready
from metasr.viewer.session import Limits, Sessions

ADVICE = 'Volumes are opened at <a href="{path}/door/">the door</a>.'


@dataclass(frozen=True)
class Viewing:
    """How volumes are shown.

    Attributes:
        followed: Which model.
        token_sha256: Of the secret that opens volumes, in hexadecimal.
        path: Where the application lies.
        hosts: Names under which it may be asked for, beside those of loopback.
        limits: How much may be open.
        max_bytes: Of a volume, as it is sent.
    """

    followed: Followed
    token_sha256: str
    path: str
    hosts: tuple[str, ...]
    limits: Limits
    max_bytes: int


class FollowedModel:
    """The model that an alias names now, as the page uses it.

    Args:
        current: Follows the alias.
    """

    def __init__(self, current: CurrentModel) -> None:
        self._current = current

    def bundle(self) -> Bundle:
        """Return the bundle to use now."""
        return self._current.model.bundle

    def description(self) -> dict[str, Any]:
        """Return what it is, for JSON; an alias may also come to name a model for one scale."""
        bundle = self.bundle()
        try:
            check_zooms(bundle)
        except MetaSRError as error:
            return {"state": "failed", "error": str(error)}
        return ready(bundle)


class Viewer:
    """A replica. There is one: an open volume is in the memory of the replica that it was sent to.

    Args:
        viewing: How.
    """

    def __init__(self, viewing: Viewing) -> None:
        self._viewing = viewing
        self._changes = Counter("metasr_viewer_model_changes", "Times that another model has come to be the page's.")
        self._open = Gauge("metasr_viewer_volumes", "Volumes that are open on the page.")
        current = CurrentModel(viewing.followed, self._changes.inc)
        self._sessions = Sessions(FollowedModel(current), viewing.limits)

    def check_health(self) -> None:
        """Close what nobody looks at: Ray Serve calls this every 10 s, also where no request comes."""
        self._open.set(self._sessions.close_idle())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        viewing = self._viewing
        access = Access(NAMES | frozenset(viewing.hosts), viewing.token_sha256, ADVICE.format(path=viewing.path))
        return create_app(self._sessions, access, viewing.max_bytes)

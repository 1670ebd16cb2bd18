"""Who may ask: a page whose address holds a secret, or who brings that of a team. Everything else is refused."""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
READ = ("GET", "HEAD")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address holds the secret
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
REFUSED = """<!doctype html><meta charset="utf-8"><title>metasr view</title>
<h1>This page is not for you, or its address is not complete</h1>
<p>{reason}</p><p>{advice}</p>"""


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        names: Under which the server may be asked for.
        secret_sha256: Of the secret that opens volumes, in hexadecimal; empty where none can be opened.
        advice: What those who are refused can do, as HTML.
    """

    names: frozenset[str] = NAMES
    secret_sha256: str = ""
    advice: str = "Open the address that <code>metasr view</code> printed, all of it."


LOOPBACK = Access()


def has_secret(headers: Mapping[str, str], secret_sha256: str) -> bool:
    """Return whether a request brings a secret, as `Authorization: Bearer SECRET`."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    given = hashlib.sha256(secret.strip().encode()).hexdigest()
    return scheme.lower() == "bearer" and secrets.compare_digest(given, secret_sha256)


def route_of(scope: Scope) -> str:
    """Return the path of a request below the place where the application lies."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "").rstrip("/"))


class Guard:
    """Let requests through that are for this server, from no other page, and below a path that is open.

    The name that was asked for is checked because a foreign name may be made to lead here (DNS rebinding); the
    origin, because any page in the browser may send requests here.

    Args:
        app: What answers.
        access: Who may ask.
        is_open: Tells whether there is something below the first part of a path: a secret, or a page for all.
    """

    def __init__(self, app: ASGIApp, access: Access, is_open: Callable[[str], bool]) -> None:
        self._app, self._access, self._is_open = app, access, is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        reason = self._refusal(scope)
        answer = self._app if reason is None else self._refused(reason)
        await answer(scope, receive, send_with_headers)

    def _refused(self, reason: str) -> ASGIApp:
        return HTMLResponse(REFUSED.format(reason=reason, advice=self._access.advice), 403)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _hostname(host) not in self._access.names:
            return "It was asked for under a name that is not this server's own."
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):  # a proxy may speak TLS
            return "Another page asked for it."
        # A link on another page may be followed: that leads to the page, and shows the other page nothing.
        is_followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_followed:
            return "Another page asked for it."
        first = route_of(scope).lstrip("/").partition("/")[0]
        can_be_sent = self._access.secret_sha256 and not first and scope["method"] == "POST"
        if scope["method"] not in READ and not can_be_sent:
            return "There is nothing to send here."
        if not self._is_open(first):
            return "The secret in the address is missing, or what it opened has ended."
        return None


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None

"""Who may ask: the page itself, under an address that holds a secret. Everything else is refused."""

import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
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
<p>{reason}</p><p>Open the address that <code>metasr view</code> printed, all of it.</p>"""


class Guard:
    """Let requests through that have the secret, that are for this machine, and that come from no other page.

    The name that was asked for is checked because a foreign name may be made to lead to this machine (DNS rebinding);
    the origin, because any page in the browser may send requests here.

    Args:
        app: What answers, below `/<token>`.
        token: The secret, the first part of every path.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        reason = self._refusal(scope)
        answer = self._app if reason is None else HTMLResponse(REFUSED.format(reason=reason), 403)
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _hostname(host) not in NAMES:
            return "It was asked for under a name that is not this machine's own."
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return "Another page asked for it."
        # A link on another page may be followed: that leads to the page, and shows the other page nothing.
        is_followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_followed:
            return "Another page asked for it."
        if scope["method"] not in ("GET", "HEAD"):
            return "There is nothing to send here."
        first = scope["path"].lstrip("/").partition("/")[0]
        if not secrets.compare_digest(first.encode(), self._token.encode()):
            return "The secret in the address is missing, or is that of an earlier start."
        return None


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None

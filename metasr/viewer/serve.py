"""A page for one volume on this machine alone, until Ctrl-C."""

import logging
import socket
import threading
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from metasr.data.volume import Volume
from metasr.errors import ConfigError
from metasr.viewer.app import create_app
from metasr.viewer.model import LoadedModel
from metasr.viewer.session import Sessions

if TYPE_CHECKING:
    from metasr.inference.bundle import Bundle

LOOPBACK = "127.0.0.1"
PORTS_TRIED = 50
TELL_S = 5.0
"""How long a page has to ask why there is no model, before the server ends."""


def view(
    volume: Volume,
    load: "Callable[[], Bundle]",
    *,
    port: int,
    say: Callable[[str], None],
    opens: bool = True,
) -> None:
    """Show a volume in the browser, and answer the page until SIGINT or SIGTERM.

    Args:
        volume: What to show.
        load: Loads the model's bundle; called in the background, while the page shows interpolation.
        port: The first to try; 0 for any.
        say: Tells the user the address.
        opens: Whether to open a browser.

    Raises:
        ConfigError: No port is free.
        Exception: What `load` raises. The page shows it, too.
        KeyboardInterrupt: Ctrl-C, after the server has ended.
    """
    model = LoadedModel(load)
    sessions = Sessions(model)
    token = sessions.open(volume)
    listening = listen(port)
    taken = listening.getsockname()[1]
    if port not in (0, taken):
        say(f"port {port} is taken: using {taken}")
    server = Server(
        uvicorn.Config(
            create_app(sessions),
            log_level="warning",
            access_log=False,
            lifespan="off",
            loop="asyncio",  # and not what else happens to be installed
            http="h11",
            server_header=False,
            timeout_graceful_shutdown=1,
            ws="none",
        )
    )

    def end() -> None:
        if opens or model.is_asked_for:
            model.is_error_told.wait(TELL_S)
        server.should_exit = True

    model.start(end)
    address = f"http://{LOOPBACK}:{taken}/{token}/"
    say(f"{address}\nOpen it in a browser on this machine; Ctrl-C ends it. Who has the address sees the volume.")
    if opens:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with listening:
        server.run(sockets=[listening])
    if model.error is not None:
        raise model.error


class Server(uvicorn.Server):
    """A server that ends without a word where windows are still asked for: nobody waits for them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone, at a port or the next that is free.

    Raises:
        ConfigError: None of them is free.
    """
    for candidate in range(port, port + PORTS_TRIED) if port else [0]:
        try:
            return socket.create_server((LOOPBACK, candidate))
        except (OSError, OverflowError):
            continue
    raise ConfigError(
        f"port {port}", f"neither it nor the {PORTS_TRIED - 1} after it are free", "Give another --port"
    )

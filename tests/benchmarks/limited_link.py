"""A link of known speed to a server on this machine."""

import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urlsplit

PIECE_BYTES = 64 << 10


class LimitedLink:
    """A TCP relay on loopback that limits the bytes a second of all responses together.

    Args:
        server: URL of the server.
        bytes_per_s: The speed.

    Attributes:
        url: The server's, through the link.
    """

    def __init__(self, server: str, bytes_per_s: float) -> None:
        self._server, self._bytes_per_s = urlsplit(server), bytes_per_s
        self._free_at, self._lock = 0.0, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "LimitedLink":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._server.hostname, self._server.port))
                threading.Thread(target=_relay, args=(client, server), daemon=True).start()
                threading.Thread(target=_relay, args=(server, client, self._wait), daemon=True).start()

    def _wait(self, num_bytes: int) -> None:
        """Wait until the link has transferred what came before, and these bytes."""
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + num_bytes / self._bytes_per_s
            pause = self._free_at - now
        time.sleep(pause)


def _relay(source: socket.socket, target: socket.socket, wait=lambda num_bytes: None) -> None:
    with suppress(OSError):  # the other side has gone
        while data := source.recv(PIECE_BYTES):
            wait(len(data))
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

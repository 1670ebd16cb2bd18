"""A proxy on loopback that breaks chosen HTTP requests, in ways that are given and can be played again.

with FaultProxy(os.environ["AWS_ENDPOINT_URL"], first(2, Answer(503))) as proxy:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
"""

import http.client
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

PIECES_PER_S = 50


@dataclass(frozen=True)
class Answer:
    """Answer in the server's place, which does not hear of the request."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refuse:
    """Reset the connection before the server hears of the request."""


@dataclass(frozen=True)
class Reset:
    """Reset the connection after so many bytes of the body; None: before the answer, when the server has done it."""

    after: int | None = None


@dataclass(frozen=True)
class CutShort:
    """Close the connection in good order after so many bytes, whatever length was promised."""

    after: int


@dataclass(frozen=True)
class Stall:
    """Send nothing more after so many bytes, and keep the connection."""

    after: int


@dataclass(frozen=True)
class Flip:
    """Invert a bit of a byte of the answer, or of the request."""

    at: int = 0
    in_request: bool = False


@dataclass(frozen=True)
class Slow:
    """Let no more bytes a second through, of the answer or of the request."""

    bytes_per_s: int
    in_request: bool = False


Fault = Answer | Refuse | Reset | CutShort | Stall | Flip | Slow
Plan = Callable[[int, str, str], Fault | None]


class Seen(NamedTuple):
    """A request, counted from 0, and what was done to it."""

    number: int
    method: str
    path: str
    fault: Fault | None


def first(count: int, fault: Fault, method: str = "") -> Plan:
    """Plan a fault for the first requests, of a method if one is given, and none for those after them."""
    broken = []

    def plan(number: int, asked: str, path: str) -> Fault | None:
        if len(broken) == count or method not in ("", asked):
            return None
        broken.append(number)
        return fault

    return plan


def always(fault: Fault, method: str = "") -> Plan:
    """Plan a fault for every request, of a method if one is given."""
    return lambda number, asked, path: fault if method in ("", asked) else None


def mixed(seed: int, share: float, faults: Sequence[Fault]) -> Plan:
    """Plan one of several faults for a share of the requests. What befalls number n follows from the seed and n."""

    def plan(number: int, method: str, path: str) -> Fault | None:
        draw = random.Random(f"{seed} {number}")
        return draw.choice(faults) if draw.random() < share else None

    return plan


def outages(*beginnings: str, fault: Fault, method: str = "PUT", requests: int = 7) -> Plan:
    """Plan that the server is away for so many requests, each time that an object is first written, or read."""
    waiting, left = list(beginnings), 0

    def plan(number: int, asked: str, path: str) -> Fault | None:
        nonlocal left
        if waiting and method == asked and waiting[0] in path:
            waiting.pop(0)
            left = requests
        left -= 1
        return fault if left >= 0 else None

    return plan


class FaultProxy:
    """Stands before an HTTP server.

    Args:
        upstream: URL of the server.
        plan: Asked for each request, with its number from 0, method and path; what it returns happens to it.

    Attributes:
        url: Of the proxy.
        seen: Every request so far.
    """

    def __init__(self, upstream: str, plan: Plan) -> None:
        self.seen: list[Seen] = []
        self.closed = threading.Event()
        self._upstream, self._plan, self._lock = urlsplit(upstream).netloc, plan, threading.Lock()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FaultProxy":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Return what is to happen to a request that came in."""
        with self._lock:
            fault = self._plan(len(self.seen), method, path)
            self.seen.append(Seen(len(self.seen), method, path, fault))
            return fault

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return what the server answers."""
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            # `Host` stays as it came: it is signed.
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet: that clients give up is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def relay(self) -> None:
        """Pass a request on and its answer back, with what is planned for it."""
        fault = self.proxy.next_fault(self.command, self.path)
        body = self._read(int(self.headers.get("Content-Length", 0)), fault)
        if isinstance(fault, Refuse):
            return self._reset()
        if isinstance(fault, Flip) and fault.in_request:
            body = _flipped(body, fault.at)
        if isinstance(fault, Answer):
            status, headers, answer = fault.status, dict(fault.headers), fault.body
        else:
            status, headers, answer = self.proxy.ask(self.command, self.path, dict(self.headers.items()), body)
        if isinstance(fault, Reset) and fault.after is None:
            return self._reset()
        self._begin(status, headers, len(answer))
        return self._send(b"" if self.command == "HEAD" else answer, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay  # noqa: N815

    def _begin(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        promised = {name.lower(): value for name, value in headers.items()}.get("content-length", str(length))
        if status != 204:
            self.send_header("Content-Length", promised)
        self.end_headers()

    def _send(self, body: bytes, fault: Fault | None) -> None:
        if isinstance(fault, Flip) and not fault.in_request:
            body = _flipped(body, fault.at)
        if isinstance(fault, Slow) and not fault.in_request:
            step = max(1, fault.bytes_per_s // PIECES_PER_S)
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                if self.proxy.closed.wait(step / fault.bytes_per_s):
                    break
        elif isinstance(fault, Reset | CutShort | Stall):
            self.wfile.write(body[: fault.after])
            if isinstance(fault, Reset):
                time.sleep(0.02)  # a reset overtakes bytes that were not read yet
                self._reset()
            elif isinstance(fault, Stall):
                self.proxy.closed.wait()
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _read(self, length: int, fault: Fault | None) -> bytes:
        if not (isinstance(fault, Slow) and fault.in_request):
            return self.rfile.read(length)
        # A small window, or the system takes megabytes on behalf of a reader who takes none.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        pieces, step = [], max(1, fault.bytes_per_s // PIECES_PER_S)
        while length > 0 and not self.proxy.closed.wait(step / fault.bytes_per_s):
            pieces.append(self.rfile.read(min(step, length)))
            length -= len(pieces[-1]) or length
        return b"".join(pieces)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Now, and not at the end of the handler, which would say goodbye in good order first.
        os.close(self.connection.detach())
        self.close_connection = True


def _flipped(body: bytes, at: int) -> bytes:
    changed = bytearray(body)
    if changed:
        changed[at % len(changed)] ^= 1
    return bytes(changed)

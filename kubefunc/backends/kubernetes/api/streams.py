"""Connections that stay open: answers read as they arrive (watches, logs) and websockets (exec)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from kubefunc.backends.kubernetes.api.errors import ConnectionFailed

if TYPE_CHECKING:
    from types import TracebackType

    import urllib3
    from typing_extensions import Self

NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)  # with a timeout of 0: it would have to wait
_NESTED_WRITE = 10.0  # seconds; nobody can write to TLS inside of TLS without waiting


class Opener(Protocol):
    """What a link needs of the API server: :class:`kubefunc.backends.kubernetes.api.requests.Api` is one."""

    def open_link(
        self, link: Link, path: str, headers: Mapping[str, str], idle_timeout: float, expected: int
    ) -> urllib3.BaseHTTPResponse:
        """Send a GET and wait for the answer's headers. Raises ApiError where the status is another one."""
        ...

    def forget(self, link: Link) -> None:
        """It is closed."""
        ...

    def failure(self, method: str, path: str, exc: Exception) -> ConnectionFailed:
        """What to raise in place of an error of the connection."""
        ...


class Link:
    """One connection that stays open; any thread may cut it at any time, also while it is being opened."""

    def __init__(self, api: Opener, path: str) -> None:
        self._api = api
        self._path = path
        self._cut_lock = threading.RLock()
        self._wire: Any = None
        self._socket: socket.socket | None = None
        self._response: urllib3.BaseHTTPResponse | None = None
        self.closed = False

    def adopt(self, wire: Any) -> None:
        """Learn the socket, before the answer has come: kubelet sends no header before a log's first byte."""
        base = wire
        while base is not None and not isinstance(base, socket.socket):
            base = getattr(base, "socket", None)  # TLS to the server inside of TLS to a proxy
        with self._cut_lock:
            self._wire, self._socket = wire, base
            if self.closed and base is not None:
                _shut(base)

    def close(self) -> None:
        """End the stream, from any thread. Its readers wake at once."""
        with self._cut_lock:
            self.closed = True
            if self._socket is not None:
                _shut(self._socket)

    def _release(self, *, reusable: bool) -> None:
        """Give the connection back to the pool: by the thread that reads, when it has done."""
        with self._cut_lock:
            self._wire = self._socket = None  # the descriptor may soon be another connection's
            response, self._response = self._response, None
            reusable = reusable and not self.closed
        self._api.forget(self)
        if response is None:
            return
        if not reusable:
            response.close()
        response.release_conn()


class Stream(Link):
    """The pieces of one long answer, as they arrive. Use as a context manager; connects on entering.

    Iteration ends when the server ends the answer or when :meth:`close` is called. ConnectionFailed is raised
    for a cut (reason ``lost``) and for `idle_timeout` seconds without a byte (``timeout``).
    """

    def __init__(
        self,
        api: Opener,
        path: str,
        accept: str,
        idle_timeout: float,
        split: Callable[[Iterator[bytes]], Iterator[bytes]],
    ) -> None:
        super().__init__(api, path)
        self._accept = accept
        self._idle_timeout = idle_timeout
        self._split = split
        self._at_end = False

    def __enter__(self) -> Self:
        try:
            self._response = self._api.open_link(
                self, self._path, {"Accept": self._accept}, self._idle_timeout, expected=200
            )
        except BaseException:
            self._release(reusable=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release(reusable=self._at_end)

    def __iter__(self) -> Iterator[bytes]:
        return self._split(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        if self._response is None:
            return
        answer = _answer(self._response)
        while True:
            try:
                # read1 returns what one read of the socket brings: nothing waits for a buffer to fill.
                piece = answer.read1(65536)
            except (OSError, http.client.HTTPException) as exc:
                if self.closed:
                    return
                raise self._api.failure("GET", self._path, exc) from exc
            if not piece:
                self._at_end = True
                return
            yield piece


class Websocket(Link):
    """An upgraded connection: raw bytes both ways; the frames are
    :mod:`kubefunc.backends.kubernetes.api.exec`'s.

    Attributes:
        subprotocol: what the server chose; known once open.
    """

    def __init__(self, api: Opener, path: str, subprotocols: Sequence[str], timeout: float) -> None:
        super().__init__(api, path)
        self._offered = tuple(subprotocols)
        self._timeout = timeout
        self._reader: Any = None
        self._early = memoryview(b"")
        self._may_have_more = False
        self.subprotocol = ""

    def open(self) -> None:
        """Connect and upgrade. Raises ApiError where the server refuses to."""
        key = base64.b64encode(os.urandom(16)).decode()
        headers = {
            "Accept": "*/*",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Protocol": ", ".join(self._offered),
        }
        try:
            response = self._api.open_link(self, self._path, headers, self._timeout, expected=101)
            self._response = response
            self.subprotocol = self._checked(response, key)
        except BaseException:
            self._release(reusable=False)
            raise
        self._reader = _answer(response).fp

    def _checked(self, response: urllib3.BaseHTTPResponse, key: str) -> str:
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()  # RFC 6455
        chosen = response.headers.get("Sec-WebSocket-Protocol", "")
        if response.headers.get("Sec-WebSocket-Accept") == base64.b64encode(digest).decode() and (
            chosen in self._offered
        ):
            return chosen
        raise self._api.failure(
            "GET", self._path, http.client.HTTPException("what answers the upgrade speaks no websocket")
        )

    @property
    def descriptor(self) -> int:
        """What select() may wait for; some bytes may be here already (:meth:`has_buffered`).

        Raises OSError when it is closed.
        """
        with self._cut_lock:
            if self._socket is None or self.closed:
                raise BrokenPipeError("the stream is closed")
            return self._socket.fileno()

    def take_early(self, timeout: float) -> None:
        """Fetch what came together with the answer's headers: select() does not know of it. Waits for nothing.

        Args:
            timeout: for reads and writes from now on.
        """
        self.set_timeout(0.0)
        try:
            self._early = memoryview(bytes(self._reader.peek(1)))  # all that is buffered, or what can be had at once
        except OSError:  # TLS says in this way that there is nothing
            pass
        finally:
            self._reader = None
            self.set_timeout(timeout)

    def read_into(self, view: memoryview) -> int:
        """Read what is there, at most ``len(view)`` bytes; 0 at the end, also after :meth:`close`.

        Raises TimeoutError after the timeout, other OSErrors when the connection breaks.
        """
        try:
            return self._receive(view)
        except TimeoutError:
            raise
        except OSError:
            if self.closed:
                return 0
            raise

    def _receive(self, view: memoryview) -> int:
        if self._reader is not None:
            # The first frames may have come with the answer's headers: http.client's buffered reader has them
            # then. (Its readinto1 would wait for more although it has some, when `view` is larger than its
            # buffer.)
            self._early = memoryview(self._reader.read1())
            self._reader = None
            if not self._early:
                return 0
        if self._early:
            size = min(len(view), len(self._early))
            view[:size] = self._early[:size]
            self._early = self._early[size:]
            return size
        wire = self._wire
        if wire is None:
            return 0
        self._may_have_more = False
        size = int(wire.recv_into(view))
        self._may_have_more = size > 0 and self._is_nested
        return size

    @property
    def _is_nested(self) -> bool:
        """Whether this is TLS inside of TLS to a proxy, as urllib3's SSLTransport has it.

        That does not say what it has read already, and loses what the outer TLS does not take at once.
        """
        return self._wire is not self._socket

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`. Raises OSError."""
        wire = self._wire
        if wire is None or self.closed:
            raise BrokenPipeError("the stream is closed")
        wire.sendall(data)

    def send_some(self, data: bytes | bytearray | memoryview) -> int:
        """Write what the connection takes now; how many bytes. Only with a timeout of 0. Raises OSError."""
        wire = self._wire
        if wire is None or self.closed:
            raise BrokenPipeError("the stream is closed")
        if not self._is_nested:
            return int(wire.send(data))
        wire.settimeout(_NESTED_WRITE)
        try:
            wire.sendall(data)
        finally:
            wire.settimeout(0.0)
        return len(data)

    def fileno(self) -> int:
        """The socket's number, to wait for it. Raises BrokenPipeError once it is closed."""
        wire = self._wire
        if wire is None or self.closed:
            raise BrokenPipeError("the stream is closed")
        return int(wire.fileno())

    def has_buffered(self) -> bool:
        """Whether TLS holds bytes that are read already, or may: no wait for the socket tells of them."""
        pending = getattr(self._wire, "pending", None)
        return bool(self._early) or self._may_have_more or (pending is not None and pending() > 0)

    def set_timeout(self, seconds: float) -> None:
        """How long the next reads and writes may take."""
        wire = self._wire
        if wire is not None:
            wire.settimeout(seconds)

    def release(self) -> None:
        """Close, and give the pool its slot back: by the thread that reads."""
        self._release(reusable=False)


def split_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines without their ends, each as soon as its end is there; an unfinished last one too.

    >>> list(split_lines([b"a", b"b\\nc\\n", b"d"]))
    [b'ab', b'c', b'd']
    """
    pending: list[bytes] = []
    for piece in pieces:
        first, *rest = piece.split(b"\n")
        pending.append(first)
        if not rest:
            continue
        yield b"".join(pending)
        yield from rest[:-1]
        pending = [rest[-1]]
    last = b"".join(pending)
    if last:
        yield last


def _answer(response: urllib3.BaseHTTPResponse) -> http.client.HTTPResponse:
    # urllib3 1.26 has no read1, and its stream() and 2.x's read(amt) both wait until `amt` bytes have come
    # when an answer is not chunked. http.client's own response does neither; all versions keep it under this
    # name.
    answer: http.client.HTTPResponse = response._original_response  # type: ignore[attr-defined]
    return answer


def _shut(sock: socket.socket) -> None:
    # The base class's shutdown: SSLSocket's own first drops the TLS state that another thread is reading
    # with.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)

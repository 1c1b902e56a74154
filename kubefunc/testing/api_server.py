"""A small HTTP server that speaks as an API server does: real sockets, keep-alive, chunks, websockets with channels.

Each connection has a thread. Who uses it gives the function that answers a request. What a server may do wrong (cut a
connection in the middle of a chunk, send frames in odd sizes) is a method of :class:`Peer`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes
    connection: int

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Gone(Exception):
    """The peer has ended the connection."""


@dataclass
class Peer:
    """The server's end of one connection."""

    sock: socket.socket
    reader: BinaryIO
    number: int
    open: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, data: bytes) -> None:
        """Raw bytes."""
        try:
            self.sock.sendall(data)
        except OSError as exc:
            raise Gone from exc

    def json(self, status: int, body: object, *headers: tuple[str, str]) -> None:
        """A whole JSON answer."""
        data = json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        self.send("\r\n".join([*lines, "", ""]).encode() + data)

    def refuse(self, status: int, reason: str, message: str, *headers: tuple[str, str], **more: object) -> None:
        """A Status object, as the API server sends with every error."""
        body = {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": status}
        self.json(status, {**body, **more}, *headers)

    def start_chunks(self) -> None:
        """The headers of a chunked answer."""
        self.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")

    def chunk(self, data: bytes) -> None:
        """One chunk; an empty one ends the answer."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, kind: str, obj: object) -> None:
        """One watch event."""
        self.chunk(json.dumps({"type": kind, "object": obj}).encode() + b"\n")

    def cut(self) -> None:
        """End the connection without a word."""
        self.open = False
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def wait_gone(self) -> None:
        """Return when the client has closed its end."""
        with contextlib.suppress(OSError):
            while self.reader.read(1):
                pass
        self.open = False

    # -- websocket

    def upgrade(self, request: Request, protocol: str = "v5.channel.k8s.io", first: bytes = b"") -> None:
        """Answer 101; `first` travels in the same packet, as a fast server's first frames do."""
        self.open = False  # no more HTTP here
        self.send(upgrade_answer(request, protocol) + first)

    def data(self, channel: int, data: bytes) -> None:
        """One binary message on `channel`."""
        self.send(frame(2, bytes([channel]) + data))

    def status(self, **status: object) -> None:
        """The Status that ends an exec, on the error channel."""
        self.data(3, json.dumps({"kind": "Status", **status}).encode())

    def receive(self) -> tuple[int, bytes]:
        """The next frame of the client: opcode and unmasked payload."""
        head = self._exactly(2)
        length = head[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._exactly(8))
        if not head[1] & 0x80:
            raise ValueError("a client must mask its frames")
        mask, payload = self._exactly(4), self._exactly(length)
        repeated = (mask * (length // 4 + 1))[:length]
        plain = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
        return head[0] & 0x0F, plain.to_bytes(length, "big")

    def stdin(self, size: int) -> bytes:
        """At least `size` bytes of channel 0."""
        got = b""
        while len(got) < size:
            opcode, payload = self.receive()
            if opcode == 2 and payload[:1] == b"\0":
                got += payload[1:]
        return got

    def _exactly(self, size: int) -> bytes:
        try:
            data = self.reader.read(size)
        except OSError as exc:
            raise Gone from exc
        if len(data) < size:
            raise Gone
        return data


def upgrade_answer(request: Request, protocol: str = "v5.channel.k8s.io") -> bytes:
    """The headers that accept a websocket."""
    key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
    return head.encode()


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    """An unmasked frame, as servers send them."""
    head = bytes([opcode | (0x80 if fin else 0)])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 1 << 16:
        return head + b"\x7e" + struct.pack("!H", len(payload)) + payload
    return head + b"\x7f" + struct.pack("!Q", len(payload)) + payload


Handler = Callable[[Request, Peer], None]


class Server:
    """Listens on 127.0.0.1 while in its `with` block; `requests` holds what came, `connections` how many."""

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.handler = handler
        self.requests: list[Request] = []
        self.connections = 0
        self.failures: list[BaseException] = []
        self._tls = tls
        self._peers: list[Peer] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="kubefunc-testing", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None and self.failures:
            raise self.failures[0]

    def stop(self) -> None:
        """Stop listening and cut all connections, as a killed server does."""
        # A blocked accept() keeps the socket alive; shutdown wakes it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Cut every connection; go on listening."""
        for peer in self._peers:
            peer.cut()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
        except OSError:
            return
        peer = Peer(sock, sock.makefile("rb"), number)
        self._peers.append(peer)
        try:
            while peer.open:
                request = _read_request(peer)
                self.requests.append(request)
                self.handler(request, peer)
        except Gone:
            pass
        except Exception as exc:  # noqa: BLE001 - raised again at the end of the block
            self.failures.append(exc)
        finally:
            peer.cut()
            peer.reader.close()
            sock.close()


def write_kubeconfig(path: Path, url: str, user: Mapping[str, Any]) -> None:
    """Write a kubeconfig with one user, whose current context leads to a server."""
    content = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(content), encoding="utf-8")


def _read_request(peer: Peer) -> Request:
    try:
        return _request_of(peer)
    except (OSError, ValueError) as exc:  # the client cut it, in whatever part; or the test did
        raise Gone from exc


def _request_of(peer: Peer) -> Request:
    first = peer.reader.readline()
    if not first:
        raise Gone
    method, target, _ = first.decode().split(" ", 2)
    headers: dict[str, str] = {}
    while line := peer.reader.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.strip().lower()] = value.strip()
    length = int(headers.get("content-length", "0"))
    body = peer.reader.read(length)
    if len(body) < length:
        raise Gone
    parts = urlsplit(target)
    return Request(method, parts.path, parse_qsl(parts.query), headers, body, peer.number)

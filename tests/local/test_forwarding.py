"""Ports that are forwarded through an API server: real sockets, a small server in place of Kubernetes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.control.forwarding import Forward
from kubefunc.errors import PermissionDeniedError, PortForwardError
from tests.local.api_server import Gone, Peer, Request, Server, config_of, frame

PORT = 8080
PORT_FORWARD = "v4.channel.k8s.io"
HEADS = frame(2, b"\0" + struct.pack("<H", PORT)) + frame(2, b"\1" + struct.pack("<H", PORT))


@dataclass
class Somewhere:
    """Where the function runs, as a test says."""

    names: list[str] = field(default_factory=lambda: ["pod-1"])
    name: str = "serve-1"
    over: bool = False

    def pods(self) -> list[str]:
        return self.names

    def ended(self) -> bool:
        return self.over


def forward_to(server: Server, folder: Path, places: Somewhere) -> Forward:
    """To PORT, through this server."""
    return Forward(Api(config_of(server.url, folder, token="secret")), "ns", PORT, places)


@pytest.fixture
def forwarded(tmp_path: Path) -> Iterator[Callable[..., Forward]]:
    """Makes forwards to a server, closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(server: Server, places: Somewhere | None = None) -> Forward:
            stack.enter_context(server)
            return stack.enter_context(
                Forward(Api(config_of(server.url, tmp_path, token="secret")), "ns", PORT, places or Somewhere())
            )

        yield make


def accept(request: Request, peer: Peer, first: bytes = b"") -> None:
    """Connect as the kubelet does: the port's number on both channels."""
    assert request.query == [("ports", str(PORT))]
    peer.upgrade(request, PORT_FORWARD, HEADS + first)


def echo(request: Request, peer: Peer) -> None:
    """A Pod whose server sends back what it gets, until it gets a full stop."""
    accept(request, peer)
    while True:
        opcode, payload = peer.receive()
        if opcode == 2:
            peer.data(0, payload[1:])
            if payload.endswith(b"."):
                peer.send(frame(8, struct.pack("!H", 1000)))
                peer.cut()
                return


def quietly(handler: Callable[[Request, Peer], None]) -> Callable[[Request, Peer], None]:
    """The client may go at any time."""

    def handle(request: Request, peer: Peer) -> None:
        with contextlib.suppress(Gone):
            handler(request, peer)

    return handle


def connect(forward: Forward) -> socket.socket:
    """A local connection that fails rather than hang."""
    return socket.create_connection(forward.address, timeout=20)


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def test_bytes_go_both_ways_unchanged(forwarded: Callable[..., Forward]) -> None:
    """More of them than any buffer holds, sent while as many come back; the Pod's end of it ends it here."""
    sent = bytes(range(255)).replace(b".", b"") * 40_000 + b"."
    forward = forwarded(Server(quietly(echo)))
    with connect(forward) as connection:
        writer = threading.Thread(target=connection.sendall, args=(sent,))
        writer.start()
        assert received(connection) == sent
        writer.join()
    assert forward.trouble == ""


def test_many_connections_at_once(forwarded: Callable[..., Forward]) -> None:
    """Each has its own stream: none waits for another."""
    forward = forwarded(Server(quietly(echo)))
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(forward)) for _ in range(60)]
        for number, connection in enumerate(connections):
            connection.sendall(f"{number}.".encode())
        assert [received(each) for each in reversed(connections)] == [f"{n}.".encode() for n in reversed(range(60))]


def test_a_server_that_speaks_first(forwarded: Callable[..., Forward]) -> None:
    """Its words may come with the answer that opens the stream."""

    def greeting(request: Request, peer: Peer) -> None:
        accept(request, peer, frame(2, b"\0hello"))
        peer.send(frame(8, b""))
        peer.cut()

    with connect(forwarded(Server(greeting))) as connection:
        assert received(connection) == b"hello"


def test_a_connection_waits_until_the_function_listens(forwarded: Callable[..., Forward]) -> None:
    """What was said meanwhile is said again to the one that listens, once."""
    refusals = iter(range(4))

    def slow(request: Request, peer: Peer) -> None:
        if next(refusals, None) is None:
            echo(request, peer)
            return
        accept(request, peer)
        peer.data(1, b"failed to connect to localhost:8080 inside namespace: connection refused")
        peer.cut()

    with connect(forwarded(Server(quietly(slow)))) as connection:
        connection.sendall(b"once.")
        assert received(connection) == b"once."


def test_a_pod_that_ends_before_it_listens(forwarded: Callable[..., Forward]) -> None:
    """The connection is closed, and the forward knows why."""
    places = Somewhere()

    def never(request: Request, peer: Peer) -> None:
        accept(request, peer)
        peer.data(1, b"connection refused")
        peer.cut()

    forward = forwarded(Server(never), places)
    with connect(forward) as connection:
        places.over = True
        assert received(connection) == b""
    assert forward.trouble == "nothing listens on port 8080 of serve-1: connection refused"


def test_a_pod_that_dies_ends_its_connections(forwarded: Callable[..., Forward]) -> None:
    """They end at once, with what came before."""

    def dying(request: Request, peer: Peer) -> None:
        accept(request, peer)
        peer.stdin(1)
        peer.data(0, b"half a senten")
        peer.cut()

    with connect(forwarded(Server(quietly(dying)))) as connection:
        connection.sendall(b"?")
        assert received(connection) == b"half a senten"


def test_a_further_pod_takes_the_next_connection(forwarded: Callable[..., Forward]) -> None:
    """Connections go to the Pods in turn, and to a new one when the first is gone."""
    places = Somewhere(["a", "b"])

    def named(request: Request, peer: Peer) -> None:
        pod = request.path.split("/")[-2]
        if pod not in places.names:
            peer.refuse(404, "NotFound", f'pods "{pod}" not found')
            return
        accept(request, peer, frame(2, b"\0" + pod.encode()))
        peer.cut()

    forward = forwarded(Server(named), places)

    def answer() -> bytes:
        with connect(forward) as connection:
            return received(connection)

    assert {answer() for _ in range(4)} == {b"a", b"b"}
    places.names = ["c"]
    assert answer() == b"c"


def test_without_the_right_to_forward_nothing_listens(forwarded: Callable[..., Forward]) -> None:
    """Entering the context fails with the rule that is missing."""
    words = (
        'pods "pod-1" is forbidden: User "eve" cannot create resource "pods/portforward" in API group "" '
        'in the namespace "ns"'
    )
    server = Server(lambda request, peer: peer.refuse(403, "Forbidden", words))
    with pytest.raises(PermissionDeniedError, match=r'resources: \["pods/portforward"\], verbs: \["create"\]'):
        forwarded(server)


def test_a_pod_that_is_gone(forwarded: Callable[..., Forward]) -> None:
    """Entering the context says so as soon as the call has ended."""
    server = Server(lambda request, peer: peer.refuse(404, "NotFound", 'pods "pod-1" not found'))
    with pytest.raises(PortForwardError, match=r'port 8080 of serve-1 cannot be reached: 404 pods "pod-1" not found'):
        forwarded(server, Somewhere(over=True))


def test_leaving_the_context_ends_everything(tmp_path: Path) -> None:
    """Open connections end, and nothing listens any more."""
    with Server(quietly(echo)) as server:
        with forward_to(server, tmp_path, Somewhere()) as forward:
            address, connection = forward.address, connect(forward)
            connection.sendall(b"stay")
            assert connection.recv(4) == b"stay"
        with connection, contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
        with pytest.raises(ConnectionError):
            socket.create_connection(address, timeout=5)

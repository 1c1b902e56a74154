"""Exec streams against a small API server on real sockets."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kubefunc.backends.kubernetes.api.exec import ExecStream, run
from kubefunc.backends.kubernetes.api.exec_errors import (
    ExecFailed,
    ExecRefused,
    ExecUnavailable,
    StreamClosed,
    StreamCut,
    StreamGarbled,
    StreamSilent,
    TransportError,
)
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.api.transfer import Outcome, ResultBuffer, ResultStream, upload
from tests.local.api_server import Handler, Peer, Request, Server, frame

RESULT = bytes(range(256)) * 40


def open_stream(api: Api, offset: int = 0, silence: float = 5.0) -> ResultStream:
    """A stream that reads from `offset`."""
    return ResultStream(api, "team", "pod-1", ["python3", "reader", str(offset)], silence=silence)


def offset_of(request: Request) -> int:
    """The offset that the command names."""
    return int([value for name, value in request.query if name == "command"][-1])


def said(result: bytes, offset: int = 0) -> bytes:
    """What the reader writes."""
    return b"..R" + struct.pack("!QQ", len(result), offset) + result[offset:]


def reader(request: Request, peer: Peer) -> None:
    """A reader that gives out RESULT and waits for the ACK."""
    peer.upgrade(request)
    peer.data(1, said(RESULT, offset_of(request)))
    assert peer.stdin(1) == b"A"
    peer.status(status="Success")
    peer.cut()


def test_a_result_arrives_and_is_acknowledged(connect: Callable[[Server], Api]) -> None:
    """The exec names Pod, container, command and all channels; the result comes whole; the ACK goes out."""
    beginnings: list[int] = []
    buffer = ResultBuffer()
    with Server(reader) as server, open_stream(connect(server)) as stream:
        outcome = stream.receive(buffer, lambda: beginnings.append(1))
        stream.ack()
    assert outcome is Outcome.RESULT
    assert bytes(buffer.data) == RESULT
    assert beginnings == [1]
    request = server.requests[0]
    assert request.path == "/api/v1/namespaces/team/pods/pod-1/exec"
    assert [value for name, value in request.query if name == "command"] == ["python3", "reader", "0"]
    assert dict(request.query)["container"] == "courier"
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["sec-websocket-protocol"] == "v5.channel.k8s.io, v4.channel.k8s.io"


def test_frames_that_come_with_the_upgrade_are_not_lost(connect: Callable[[Server], Api]) -> None:
    """A fast server's first frames share a packet with the headers of its 101."""

    def eager(request: Request, peer: Peer) -> None:
        empty = [frame(2, bytes([channel])) for channel in (0, 1, 2, 3)]
        peer.upgrade(request, "v4.channel.k8s.io", b"".join(empty) + frame(2, b"\1" + said(RESULT)))
        peer.wait_gone()

    buffer = ResultBuffer()
    with Server(eager) as server, open_stream(connect(server)) as stream:
        stream.receive(buffer)
    assert bytes(buffer.data) == RESULT


def test_no_result(connect: Callable[[Server], Api]) -> None:
    """The reader may say that there is none."""

    def none(request: Request, peer: Peer) -> None:
        peer.upgrade(request)
        peer.data(1, b".")
        peer.data(1, b"N")
        peer.wait_gone()

    with Server(none) as server, open_stream(connect(server)) as stream:
        assert stream.receive(ResultBuffer()) is Outcome.NO_RESULT


def test_a_cut_stream_is_resumed_where_it_broke(connect: Callable[[Server], Api]) -> None:
    """After a cut the next stream asks for the rest only, and the result is whole."""
    cuts = [3000, 9999]

    def flaky(request: Request, peer: Peer) -> None:
        if not cuts:
            return reader(request, peer)
        peer.upgrade(request)
        wire = frame(2, b"\1" + said(RESULT, offset_of(request)))
        peer.send(wire[: cuts.pop(0) - offset_of(request)])
        return peer.cut()

    buffer = ResultBuffer()
    offsets = []
    with Server(flaky) as server:
        api = connect(server)
        while not buffer.complete:
            offsets.append(buffer.received)
            try:
                with open_stream(api, buffer.received) as stream:
                    stream.receive(buffer)
                    stream.ack()
            except StreamCut:
                continue
    assert len(offsets) == 3
    assert 0 < offsets[1] < offsets[2] < len(RESULT)
    assert bytes(buffer.data) == RESULT


def test_exit_code_0_with_half_the_bytes_is_a_cut(connect: Callable[[Server], Api]) -> None:
    """Kubernetes may lose the end of stdout and report success (k8s#124571): the length tells."""

    def truncating(request: Request, peer: Peer) -> None:
        peer.upgrade(request)
        peer.data(1, said(RESULT)[:5000])
        peer.status(status="Success")
        peer.cut()

    buffer = ResultBuffer()
    with (
        Server(truncating) as server,
        open_stream(connect(server)) as stream,
        pytest.raises(StreamCut, match=f"of {len(RESULT)} bytes"),
    ):
        stream.receive(buffer)
    assert 0 < buffer.received < len(RESULT)


def test_silence_abandons_a_stream_and_pings_do_not_count(connect: Callable[[Server], Api]) -> None:
    """A proxy may keep the connection alive with pings while nobody is there behind it."""

    def dead(request: Request, peer: Peer) -> None:
        peer.upgrade(request)
        while True:
            peer.send(frame(9, b"still here"))
            time.sleep(0.1)

    with Server(dead) as server, open_stream(connect(server), silence=0.4) as stream:
        began = time.monotonic()  # not before: the first request of a process loads the client
        with pytest.raises(StreamSilent):
            stream.receive(ResultBuffer())
        assert 0.4 <= time.monotonic() - began < 2


def test_heartbeats_keep_a_stream_alive_and_pings_are_answered(connect: Callable[[Server], Api]) -> None:
    """A reader that waits longer than the silence allows says so; a ping gets its pong."""
    pongs = []

    def patient(request: Request, peer: Peer) -> None:
        peer.upgrade(request)
        for _ in range(8):
            peer.data(1, b".")
            time.sleep(0.1)
        peer.send(frame(9, b"hi"))
        pongs.append(peer.receive())
        peer.data(1, said(RESULT))
        peer.wait_gone()

    with Server(patient) as server, open_stream(connect(server), silence=0.4) as stream:
        assert stream.receive(ResultBuffer()) is Outcome.RESULT
    assert pongs == [(10, b"hi")]


@pytest.mark.parametrize("moment", ["before the upgrade", "while waiting", "while reading"])
def test_another_thread_can_end_a_stream_at_any_time(connect: Callable[[Server], Api], moment: str) -> None:
    """close() wakes the reader at once, also during the upgrade, which a busy kubelet delays."""

    def stuck(request: Request, peer: Peer) -> None:
        if moment != "before the upgrade":
            peer.upgrade(request)
            peer.data(1, b"." if moment == "while waiting" else said(RESULT)[:100])
        peer.wait_gone()

    with Server(stuck) as server:
        stream = open_stream(connect(server), silence=30)
        ended: list[tuple[float, type[BaseException]]] = []

        def read() -> None:
            try:
                with stream:
                    stream.receive(ResultBuffer())
            except TransportError as exc:
                ended.append((time.monotonic(), type(exc)))

        thread = threading.Thread(target=read)
        thread.start()
        while not server.requests:
            time.sleep(0.01)
        time.sleep(0.1)
        closed = time.monotonic()
        stream.close()
        thread.join(5)
    assert [kind for _, kind in ended] == [StreamClosed]
    assert ended[0][0] - closed < 0.5


FORBIDDEN = 'pods "p" is forbidden: User "u" cannot create resource "pods/exec" in API group ""'


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda request, peer: peer.refuse(403, "Forbidden", FORBIDDEN), ExecRefused),
        (lambda request, peer: peer.refuse(404, "NotFound", 'pods "pod-1" not found'), ExecUnavailable),
        (
            lambda request, peer: peer.refuse(400, "BadRequest", "container courier is not valid"),
            ExecUnavailable,
        ),
        (lambda request, peer: peer.refuse(500, "InternalError", "dial tcp kubelet"), ExecUnavailable),
        (lambda request, peer: peer.cut(), StreamCut),
        (lambda request, peer: peer.json(200, {}), ExecUnavailable),
    ],
    ids=["forbidden", "no pod", "no container", "no kubelet", "cut", "no websocket"],
)
def test_an_upgrade_that_is_refused(
    connect: Callable[[Server], Api], answer: Handler, kind: type[TransportError]
) -> None:
    """Permission, absence and trouble are told apart, for what comes next differs."""
    with Server(answer) as server, pytest.raises(kind), open_stream(connect(server)):
        pass


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ({"status": "Failure", "reason": "InternalError", "message": "container not found"}, ExecUnavailable),
        ({"status": "Failure", "reason": "Forbidden", "message": "no", "code": 403}, ExecRefused),
        (
            {
                "status": "Failure",
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": "137"}]},
            },
            ExecFailed,
        ),
    ],
)
def test_a_refusal_after_the_upgrade(
    connect: Callable[[Server], Api], status: dict[str, Any], kind: type[TransportError]
) -> None:
    """From 1.30 on the API server upgrades first and asks the kubelet then: its no comes on a channel."""

    def late(request: Request, peer: Peer) -> None:
        peer.upgrade(request)
        peer.data(2, b"Killed\n")
        text = json.dumps(status).encode()
        peer.data(3, text[:20])
        peer.send(frame(2, b"\3" + text[20:]) + frame(8, b""))
        peer.wait_gone()

    with Server(late) as server, open_stream(connect(server)) as stream, pytest.raises(kind) as caught:
        stream.receive(ResultBuffer())
    if isinstance(caught.value, ExecFailed):
        assert (caught.value.exit_code, caught.value.stderr) == (137, b"Killed\n")


def test_noise_instead_of_a_result(connect: Callable[[Server], Api]) -> None:
    """An image whose shell prints a banner: an error, not a result."""

    def noisy(request: Request, peer: Peer) -> None:
        peer.upgrade(request)
        peer.data(1, b"Welcome!\n")
        peer.wait_gone()

    with (
        Server(noisy) as server,
        open_stream(connect(server)) as stream,
        pytest.raises(StreamGarbled, match="Welcome!"),
    ):
        stream.receive(ResultBuffer())


def test_streams_give_their_connections_back(connect: Callable[[Server], Api]) -> None:
    """100 streams one after the other leave a pool that still has all its connections."""
    with Server(reader) as server:
        api = connect(server)
        for _ in range(100):
            buffer = ResultBuffer()
            with open_stream(api) as stream:
                stream.receive(buffer)
                stream.ack()
            assert buffer.complete


# -- the other way, and small commands


def take_upload(got: list[bytes]) -> Handler:
    """A command that takes an upload."""

    def handle(request: Request, peer: Peer) -> None:
        peer.upgrade(request)
        text = peer.stdin(8)
        (size,) = struct.unpack("!Q", text[:8])
        body = text[8:] + (peer.stdin(size - len(text) + 8) if size > len(text) - 8 else b"")
        got.append(body)
        peer.data(1, b"K")
        peer.status(status="Success")
        peer.cut()

    return handle


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 3_000_001])
def test_an_upload_arrives_whole(connect: Callable[[Server], Api], size: int) -> None:
    """The length goes first; the command's word that it has all of it ends the upload."""
    data = os.urandom(size)
    got: list[bytes] = []
    with Server(take_upload(got)) as server:
        upload(connect(server), "team", "pod-1", ["take"], data)
    assert got == [data]


def test_an_upload_to_a_command_that_fails(connect: Callable[[Server], Api]) -> None:
    """What the command said on stderr is the error, not the broken pipe."""

    def full(request: Request, peer: Peer) -> None:
        peer.upgrade(request)
        peer.stdin(8)
        peer.data(2, b"No space left on device")
        peer.status(
            status="Failure",
            reason="NonZeroExitCode",
            details={"causes": [{"reason": "ExitCode", "message": "1"}]},
        )
        peer.cut()

    with Server(full) as server, pytest.raises((ExecFailed, StreamCut)) as caught:
        upload(connect(server), "team", "pod-1", ["take"], bytes(20_000_000))
    assert isinstance(caught.value, ExecFailed) is ("No space" in str(caught.value))


def test_a_small_command(connect: Callable[[Server], Api]) -> None:
    """run() gives back stdout, also what comes after the exit status."""

    def late(request: Request, peer: Peer) -> None:
        peer.upgrade(request)
        peer.data(1, b"one ")
        peer.status(status="Success")
        peer.data(1, b"two")
        peer.cut()

    with Server(late) as server:
        assert run(connect(server), "team", "pod-1", ["cat"], container="main") == b"one two"
    assert dict(server.requests[0].query)["container"] == "main"


def test_stdin_after_the_end(connect: Callable[[Server], Api]) -> None:
    """Writing to a stream that was closed says so."""

    def idle(request: Request, peer: Peer) -> None:
        peer.upgrade(request)
        peer.wait_gone()

    with Server(idle) as server, ExecStream(connect(server), "team", "pod-1", ["cat"]) as stream:
        stream.close()
        with pytest.raises(StreamClosed):
            stream.send(b"x")


# -- speed

BIG = """
import sys, struct
sys.path.insert(0, sys.argv[1])
from tests.local.api_server import Server, frame
SIZE = 100 << 20
block = frame(2, b"\\1" + bytes(range(256)) * 128)
def serve(request, peer):
    peer.upgrade(request)
    peer.data(1, b"R" + struct.pack("!QQ", SIZE, 0))
    for _ in range(SIZE // 32768 // 8):
        peer.send(block * 8)
    peer.wait_gone()
with Server(serve) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def test_100_mib_come_fast_and_cost_their_own_size_in_memory(connect: Callable[[Server], Api], tmp_path: Path) -> None:
    """A second of the client's CPU reads more than 300 MiB; peak memory grows by at most 1.3 x the result.

    The server is another process, and CPU is measured, not time: other work on the machine does not count.
    """
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", BIG, root], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        fake = type("Elsewhere", (), {"url": process.stdout.readline().strip()})
        api = connect(fake)  # type: ignore[arg-type]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        speeds = [timed(api) for _ in range(3)]
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    finally:
        process.communicate()
    assert max(speeds) > 300
    assert grown < 130


def timed(api: Api) -> float:
    """MiB per CPU second of one transfer."""
    buffer = ResultBuffer()
    began = time.process_time()
    with open_stream(api) as stream:
        stream.receive(buffer)
        took = time.process_time() - began
    assert buffer.complete
    assert buffer.data[-256:] == bytes(range(256))
    return 100 / took

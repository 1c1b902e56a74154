"""Exec streams: reading results, uploading large inputs, small commands.

`kubernetes.stream` loses frames (client-python#2414, #2650) or joins them in quadratic time (37.0.2), and
exec itself may drop the end of stdout and still report exit 0 (k8s#124571). So the frames are read here,
straight from the socket,
and nothing counts as received that has not been counted: the far end says how much comes, waits for our word,
and can begin again at any offset.

What the reader and the uploader in the Pod say is told in :mod:`kubefunc.runner`.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from kubefunc.backends.kubernetes.api.errors import UNUSABLE, ApiError, ConnectionFailed
from kubefunc.backends.kubernetes.objects.fields import whole_number
from kubefunc.runner import (
    COURIER,
    FOLLOW_DATA,
    FOLLOW_END,
    READER_ACK,
    READER_HEARTBEAT,
    READER_NOTHING,
    READER_RESULT,
    UPLOAD_DONE,
)
from kubefunc.runner.protocol import pipes

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from kubefunc.backends.kubernetes.api.requests import Api
    from kubefunc.backends.kubernetes.api.streams import Websocket

# v5 adds a way to close stdin alone, from API server 1.30 on; nothing here needs it (k8s#89899).
SUBPROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR = range(4)
PING, CLOSE = -1, -2

SILENCE = 30.0
UPLOAD_CHUNK = 64 * 1024
_SCRATCH = 256 * 1024
_STDERR_LIMIT = 64 * 1024
_STRAGGLERS = 2.0
_NOT_BODY = 128 * 1024  # bytes at a result's end that may be its header, of which the body's digest knows nothing


class TransportError(Exception):
    """An exec stream did not do what it was opened for."""


class ExecRefused(TransportError):
    """The credentials lack ``pods/exec`` (get and create)."""


class ExecUnavailable(TransportError):
    """The Pod or its container is absent or not running, or the kubelet cannot be reached."""


class StreamCut(TransportError):
    """The stream ended before everything had come."""


class StreamSilent(TransportError):
    """Nothing came for too long."""


class StreamClosed(TransportError):
    """``close()`` was called."""


class StreamGarbled(TransportError):
    """The far end does not follow the protocol."""


class ExecFailed(TransportError):
    """The command ended with an exit code other than 0.

    Attributes:
        exit_code: of the command.
        stderr: what it wrote there, at most the first 64 KiB.
    """

    def __init__(self, exit_code: int, stderr: bytes) -> None:
        super().__init__(f"the command exited with {exit_code}: {stderr.decode('utf-8', 'replace').strip()}")
        self.exit_code = exit_code
        self.stderr = stderr


class Outcome(enum.Enum):
    """How a stream ended well."""

    RESULT = "result"
    NO_RESULT = "no result"


class ResultBuffer:
    """One result, as much of it as has come; survives a cut stream and is given to the next one.

    It grows as the bytes come: a length that is announced costs no memory, and none is filled twice.

    Attributes:
        data: what has come.
        total: the length, once known.
    """

    def __init__(self) -> None:
        self.data = bytearray()
        self.total: int | None = None
        self._digest = hashlib.sha256()
        self._digested = 0

    @property
    def received(self) -> int:
        """How many bytes have come."""
        return len(self.data)

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return self.total is not None and self.received == self.total

    def announce(self, total: int, offset: int) -> None:
        """The far end says what comes: bytes `offset` to `total`."""
        if offset != self.received or (self.total is not None and total != self.total) or offset > total:
            raise StreamGarbled(
                f"bytes {offset} to {total} were announced, after {self.received} of {self.total} had come"
            )
        self.total = total

    def add(self, piece: memoryview) -> None:
        """The next bytes."""
        end = self.received + len(piece)
        if self.total is not None and end > self.total:
            raise StreamGarbled(f"{end} bytes came where {self.total} were announced")
        try:
            self.data += piece
        except MemoryError:
            raise StreamGarbled(f"no room for more than {self.received} bytes of {self.total}") from None
        if end - self._digested > 2 * _NOT_BODY:
            self._take_digest(end - _NOT_BODY)

    def sha256(self, size: int) -> str:
        """The digest of the first so many bytes. Most of it was taken while they came."""
        if self._digested > size:  # what follows them is larger than is usual
            self._digest, self._digested = hashlib.sha256(), 0
        self._take_digest(size)
        return self._digest.hexdigest()

    def _take_digest(self, end: int) -> None:
        with memoryview(self.data) as view:
            self._digest.update(view[self._digested : end])
        self._digested = end


_HEADS = {READER_RESULT: pipes.READER_HEAD.size, FOLLOW_DATA: pipes.LENGTH.size, FOLLOW_END: pipes.UPLOAD_HEAD.size}


class Intake:
    """The reader's protocol, fed with what comes on stdout in pieces of any size. Pure."""

    def __init__(self, buffer: ResultBuffer) -> None:
        self.buffer = buffer
        self.outcome: Outcome | None = None
        self._letter = b""
        self._head = bytearray()
        self._left = 0
        self._announced = False

    @property
    def begun(self) -> bool:
        """The far end has stopped waiting: it has said ``N`` or what comes."""
        return self._announced or self.outcome is not None

    def feed(self, piece: memoryview) -> None:
        """Take in a piece. Raises StreamGarbled."""
        if self.outcome is not None:
            if len(piece):
                raise StreamGarbled(f"{len(piece)} bytes came after the end")
            return
        while len(piece) and self.outcome is None:
            piece = self._next(piece)
        if len(piece):
            raise StreamGarbled(f"{len(piece)} bytes came after the end")

    def _next(self, piece: memoryview) -> memoryview:
        """Take in what stands first; the rest."""
        if self._left:
            taken = piece[: self._left]
            self.buffer.add(taken)
            self._left -= len(taken)
            self._end_whole()
            return piece[len(taken) :]
        if not self._letter:
            return self._wait(piece)
        missing = _HEADS[self._letter] - len(self._head)
        self._head += piece[:missing]
        if len(self._head) == _HEADS[self._letter]:
            self._begin()
        return piece[missing:]

    def _wait(self, piece: memoryview) -> memoryview:
        """Skip heartbeats, and take the letter that ends the wait."""
        waited = bytes(piece).lstrip(READER_HEARTBEAT)
        if not waited:
            return piece[len(piece) :]
        letter = waited[:1]
        if letter == READER_NOTHING:
            self.outcome = Outcome.NO_RESULT
        elif letter in _HEADS:
            self._letter = letter
        else:
            raise StreamGarbled(f"expected '.', 'N', 'R', 'D' or 'E', not {waited[:60]!r}")
        return piece[len(piece) - len(waited) + 1 :]

    def _begin(self) -> None:
        """A letter and its numbers are there."""
        letter, head = self._letter, bytes(self._head)
        if letter == READER_RESULT:
            total, offset = pipes.READER_HEAD.unpack(head)
            self.buffer.announce(total, offset)
            self._left = total - offset
        elif letter == FOLLOW_DATA:
            (self._left,) = pipes.LENGTH.unpack(head)
        else:
            (total,) = pipes.UPLOAD_HEAD.unpack(head)
            if total != self.buffer.received:
                raise StreamGarbled(f"{self.buffer.received} bytes came, and {total} were written")
            self.buffer.announce(total, total)
        self._announced = True
        self._letter = b""
        self._head.clear()
        self._end_whole()

    def _end_whole(self) -> None:
        if self.buffer.complete:
            self.outcome = Outcome.RESULT


class FrameParser:
    """Websocket frames of a server, taken apart as the bytes come. Pure.

    Pieces of a message are handed on as they are, without waiting for its end: a frame of any size costs no
    memory.
    """

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        self._opcode = 0
        self._fin = True
        self._control: bytearray | None = None
        self._channel: int | None = None

    def feed(self, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """``(channel, piece)`` for each piece of data in `data`; PING and CLOSE as channels with their
        payload.

        Raises StreamGarbled for what is no frame. The pieces are views of `data`.
        """
        position, size = 0, len(data)
        while position < size:
            if not self._left:
                position = self._take_head(data, position)
                if not self._left:
                    yield from self._empty_control()
                    continue
            if position == size:
                return
            if self._control is not None:
                position = self._take_control(data, position)
                if not self._left:
                    yield self._opcode_channel(), memoryview(bytes(self._control))
                    self._control = None
                continue
            if self._channel is None:
                self._channel = data[position]
                position += 1
                self._left -= 1
            end = min(size, position + self._left)
            if end > position:
                yield self._channel, data[position:end]
            self._left -= end - position
            position = end
            if not self._left and self._fin:
                self._channel = None

    def _take_head(self, data: memoryview, position: int) -> int:
        """Collect a frame's header; sets `_left` once it is whole and the frame has a payload."""
        head = self._head
        need = _head_size(head)
        take = min(need - len(head), len(data) - position)
        head += data[position : position + take]
        position += take
        need = _head_size(head)
        if len(head) < need:
            return position if position == len(data) else self._take_head(data, position)
        self._begin(head)
        head.clear()
        return position

    def _begin(self, head: bytearray) -> None:
        if head[1] & 0x80 or head[0] & 0x70:
            raise StreamGarbled(f"not a frame of a server: {bytes(head)!r}")
        self._opcode = head[0] & 0x0F
        length = head[1]
        if length == 126:
            (length,) = struct.unpack("!H", head[2:4])
        elif length == 127:
            (length,) = struct.unpack("!Q", head[2:10])
        if self._opcode >= 8:
            if length > 125:
                raise StreamGarbled(f"a control frame of {length} bytes")
            self._control = bytearray()
        else:
            self._fin = bool(head[0] & 0x80)
            if not length and self._fin:
                self._channel = None
        self._left = length

    def _empty_control(self) -> Iterator[tuple[int, memoryview]]:
        if self._control is not None:
            self._control = None
            yield self._opcode_channel(), memoryview(b"")

    def _take_control(self, data: memoryview, position: int) -> int:
        control = self._control
        end = min(len(data), position + self._left)
        if control is not None:
            control += data[position:end]
        self._left -= end - position
        return end

    def _opcode_channel(self) -> int:
        return {8: CLOSE, 9: PING}.get(self._opcode, -self._opcode)


def _head_size(head: bytearray) -> int:
    if len(head) < 2:
        return 2
    return {126: 4, 127: 10}.get(head[1] & 0x7F, 2)


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """A frame as clients send it."""
    size = len(payload)
    mask = os.urandom(4)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    # One XOR of two big integers: a loop over the bytes would be 100 times slower.
    pattern = (mask * (size // 4 + 1))[:size]
    hidden = int.from_bytes(payload, "little") ^ int.from_bytes(pattern, "little")
    return head + mask + hidden.to_bytes(size, "little")


class ExecStream:
    """One command in a container, with its channels. Used by one thread; ``close()`` by any."""

    def __init__(
        self,
        api: Api,
        namespace: str,
        pod: str,
        command: Sequence[str],
        container: str = COURIER,
        silence: float = SILENCE,
    ) -> None:
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/exec"
        query = [("container", container), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
        query += [("command", word) for word in command]
        self._socket: Websocket = api.websocket(path, query, SUBPROTOCOLS, timeout=silence)
        self._silence = silence
        self._parser = FrameParser()
        self._status = bytearray()
        self._stderr = bytearray()
        self._heard = False

    def open(self) -> None:
        """Connect. Raises ExecRefused, ExecUnavailable, StreamCut or StreamClosed."""
        try:
            self._socket.open()
        except ApiError as exc:
            if exc.status in (401, 403):
                raise ExecRefused(exc.message) from exc
            raise ExecUnavailable(f"{exc.status} {exc.message}") from exc
        except UNUSABLE as exc:  # the credentials could not be renewed just now
            raise StreamCut(str(exc)) from exc
        except ConnectionFailed as exc:
            if self._socket.closed:
                raise StreamClosed("closed while connecting") from exc
            if exc.reason == "timeout":
                raise StreamSilent(str(exc)) from exc
            if exc.reason == "unreadable":  # a proxy that knows no websockets, perhaps
                raise ExecUnavailable(str(exc)) from exc
            raise StreamCut(str(exc)) from exc

    def close(self) -> None:
        """End the stream at once, from any thread: whoever reads gets StreamClosed."""
        self._socket.close()

    def release(self) -> None:
        """Say goodbye and give the connection back: by the thread that reads."""
        try:
            self._socket.set_timeout(1.0)
            self._socket.send(masked_frame(8, struct.pack("!H", 1000)))
        except OSError:
            pass  # the other side has gone first
        self._socket.release()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def send(self, data: bytes | memoryview) -> None:
        """Write to the command's stdin. Raises StreamCut, StreamSilent or StreamClosed."""
        try:
            self._socket.send(masked_frame(2, bytes([STDIN]) + data))
        except TimeoutError as exc:
            raise StreamSilent(f"nothing was taken for {self._silence:g} s") from exc
        except OSError as exc:
            raise self._cut(exc) from exc

    def stdout(self) -> Iterator[memoryview]:
        """What the command writes, in pieces that are valid until the next one is asked for.

        Ends when the command has ended with exit code 0. Raises the TransportError that says what happened
        otherwise.
        """
        for channel, piece in self._pieces():
            if channel == STDOUT:
                self._heard = True
                yield piece
            elif channel == STDERR:
                self._stderr += piece[: _STDERR_LIMIT - len(self._stderr)]
            elif channel == ERROR:
                self._status += piece
                # Channels are not in order among each other: stdout's last bytes may come after the verdict.
                if self._verdict() is not None:
                    self._socket.set_timeout(_STRAGGLERS)
        self._judge()

    def _pieces(self) -> Iterator[tuple[int, memoryview]]:
        """All channels' pieces until the end of the stream."""
        scratch = memoryview(bytearray(_SCRATCH))
        alive = time.monotonic()
        while count := self._read(scratch):
            for channel, piece in self._parser.feed(scratch[:count]):
                if channel == CLOSE:
                    return
                if channel == PING:
                    self._pong(bytes(piece))
                elif channel >= 0:
                    alive = time.monotonic()
                    yield channel, piece
            # Pings of a proxy are no sign of life of the command.
            if time.monotonic() - alive > self._silence:
                raise StreamSilent(f"nothing came for {self._silence:g} s")

    def _read(self, scratch: memoryview) -> int:
        """What has come, into `scratch`; 0 at the end, also at a rude one after the verdict."""
        try:
            return self._socket.read_into(scratch)
        except TimeoutError as exc:
            if self._verdict() is None:
                raise StreamSilent(f"nothing came for {self._silence:g} s") from exc
        except OSError as exc:
            if self._verdict() is None:
                raise self._cut(exc) from exc
        return 0

    def _pong(self, payload: bytes) -> None:
        try:
            self._socket.send(masked_frame(10, payload))
        except OSError as exc:
            raise self._cut(exc) from exc

    def _cut(self, exc: OSError) -> TransportError:
        if self._socket.closed:
            return StreamClosed("closed")
        return StreamCut(str(exc) or type(exc).__name__)

    def _verdict(self) -> dict[str, Any] | None:
        """The Status that the kubelet sends when the command has ended, once all of it is there."""
        try:
            status = json.loads(self._status)
        except ValueError:
            return None
        return status if isinstance(status, dict) else None

    def _judge(self) -> None:
        """After the stream's end: return if the command has ended well."""
        if self._socket.closed:
            raise StreamClosed("closed")
        verdict = self._verdict()
        if verdict is None:
            raise StreamCut("the stream ended before the command did")
        if verdict.get("status") == "Success":
            return
        message = str(verdict.get("message") or "")
        if verdict.get("reason") == "NonZeroExitCode":
            raise ExecFailed(_exit_code(verdict), bytes(self._stderr))
        if verdict.get("code") == 403 or verdict.get("reason") == "Forbidden":
            raise ExecRefused(message)
        # From 1.30 on the API server upgrades first and asks the kubelet then: its refusals come this way.
        if self._heard:
            raise StreamCut(message)
        raise ExecUnavailable(message)


def _exit_code(verdict: dict[str, Any]) -> int:
    causes = (verdict.get("details") or {}).get("causes") or ()
    codes = [cause.get("message") for cause in causes if cause.get("reason") == "ExitCode"]
    number = whole_number(str(codes[0])) if codes else None
    return 1 if number is None else number


def _nothing() -> None:
    return None


class ResultStream(ExecStream):
    """One exec of the reader, from which one result is received.

    After a cut, make a new one whose command names ``buffer.received`` as the offset, and go on with the same
    buffer.
    """

    def receive(self, buffer: ResultBuffer, on_first_byte: Callable[[], None] = _nothing) -> Outcome:
        """Wait for the result and read it into `buffer`.

        Args:
            on_first_byte: called once, when the reader has stopped waiting and the result begins.

        Raises:
            TransportError: see its subclasses; `buffer` keeps what has come.
        """
        intake = Intake(buffer)
        told = False
        for piece in self.stdout():
            intake.feed(piece)
            if not told and intake.begun:
                told = True
                on_first_byte()
            if intake.outcome is not None:
                return intake.outcome
        # k8s#124571: stdout cut short, and exit code 0.
        raise StreamCut(f"the reader ended after {buffer.received} of {buffer.total} bytes")

    def ack(self, linger: float = 2.0) -> None:
        """Tell the reader that the result is safe, and wait up to `linger` seconds for its end.

        The connection must outlive the byte: what a client sent just before it hung up may never arrive.
        Raises StreamCut or StreamClosed when the byte could not be sent.
        """
        self.send(READER_ACK)
        self._socket.set_timeout(linger)
        try:
            for _ in self.stdout():
                pass
        except TransportError:
            return  # the byte is out; how the reader then ends is no news


def upload(
    api: Api,
    namespace: str,
    pod: str,
    command: Sequence[str],
    data: bytes | bytearray | memoryview,
    *,
    container: str = COURIER,
    silence: float = SILENCE,
) -> None:
    """Send `data` to a command that takes it on stdin, and wait until it says that it has all of it.

    Raises:
        TransportError: see its subclasses.
    """
    view = memoryview(data).cast("B")
    with ExecStream(api, namespace, pod, command, container, silence) as stream:
        try:
            stream.send(struct.pack("!Q", len(view)))
            for start in range(0, len(view), UPLOAD_CHUNK):
                stream.send(view[start : start + UPLOAD_CHUNK])
        except StreamCut:
            # The command has ended first, or never began: what it said is better news than a broken pipe.
            for _ in stream.stdout():
                pass
            raise
        for piece in stream.stdout():
            if bytes(piece[:1]) == UPLOAD_DONE:
                return
            raise StreamGarbled(f"expected 'K', not {bytes(piece[:60])!r}")
        raise StreamCut("the command ended without taking the data")


def run(
    api: Api,
    namespace: str,
    pod: str,
    command: Sequence[str],
    *,
    container: str = COURIER,
    silence: float = SILENCE,
) -> bytes:
    """The stdout of a short command.

    Raises:
        ExecFailed: it ended with another exit code than 0.
        TransportError: see its subclasses.
    """
    with ExecStream(api, namespace, pod, command, container, silence) as stream:
        return b"".join(bytes(piece) for piece in stream.stdout())

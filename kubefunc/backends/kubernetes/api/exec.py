"""Exec: one command in a container, with its stdin, stdout, stderr and exit code."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from kubefunc.backends.kubernetes.api.errors import UNUSABLE, ApiError, ConnectionFailed
from kubefunc.backends.kubernetes.api.exec_errors import (
    ExecFailed,
    ExecRefused,
    ExecUnavailable,
    StreamClosed,
    StreamCut,
    StreamSilent,
    TransportError,
)
from kubefunc.backends.kubernetes.api.frames import (
    BINARY,
    CLOSE,
    CLOSING,
    NORMAL,
    PING,
    PONG,
    FrameParser,
    masked_frame,
)
from kubefunc.backends.kubernetes.objects.fields import whole_number
from kubefunc.backends.kubernetes.objects.paths import pod_path
from kubefunc.runner import COURIER

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from kubefunc.backends.kubernetes.api.requests import Api
    from kubefunc.backends.kubernetes.api.streams import Websocket

# v5 adds a way to close stdin alone, from API server 1.30 on; nothing here needs it (k8s#89899).
SUBPROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR = range(4)

SILENCE = 30.0
_SCRATCH = 256 * 1024
_STDERR_LIMIT = 64 * 1024
STRAGGLERS = 2.0  # seconds


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
        path = pod_path(namespace, pod, "exec")
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
        """End the stream at once, from any thread. Its readers get StreamClosed."""
        self._socket.close()

    def release(self) -> None:
        """Say goodbye and give the connection back: by the thread that reads."""
        try:
            self._socket.set_timeout(1.0)
            self._socket.send(masked_frame(CLOSING, NORMAL))
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
            self._socket.send(masked_frame(BINARY, bytes([STDIN]) + data))
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
            self._note(channel, piece)
            if channel == STDOUT:
                yield piece
        self._judge()

    def _note(self, channel: int, piece: memoryview) -> None:
        """Keep what a piece tells of the command's end."""
        if channel == STDOUT:
            self._heard = True
        elif channel == STDERR:
            self._stderr += piece[: _STDERR_LIMIT - len(self._stderr)]
        elif channel == ERROR:
            self._status += piece
            if self._verdict() is not None:
                self._await_stragglers()

    def _await_stragglers(self) -> None:
        """Channels are not in order among each other: stdout's last bytes may come after the verdict."""
        self._socket.set_timeout(STRAGGLERS)

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

    def _parse(self, data: memoryview) -> tuple[bytes, bool]:
        """Stdout's share of what one read has brought, and whether the stream ends with it."""
        heard, ended = bytearray(), not data
        for channel, piece in self._parser.feed(data):
            self._note(channel, piece)
            if channel == STDOUT:
                heard += piece
            elif channel == PING:
                self._pong(bytes(piece))
            elif channel == CLOSE:
                ended = True
        return bytes(heard), ended

    def raise_end(self) -> NoReturn:
        """The command has ended. Raises TransportError: the class says how."""
        self._judge()
        raise StreamCut("the command has ended")

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
            self._socket.send(masked_frame(PONG, payload))
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

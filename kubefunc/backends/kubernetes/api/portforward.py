"""One TCP connection to a port of a Pod, through the API server.

Kubernetes' websocket protocol for it: a connection carries one port here, as two channels, data and error. Each begins
with the port's number. The error channel says why the far end could not connect; then the connection ends. There is no
way to close one direction alone.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from kubefunc.backends.kubernetes.api.errors import UNUSABLE, ApiError, ConnectionFailed
from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused, ExecUnavailable, StreamClosed, StreamCut
from kubefunc.backends.kubernetes.api.frames import BINARY, CLOSE, PING, PONG, FrameParser, masked_frame
from kubefunc.backends.kubernetes.api.streams import NOT_NOW
from kubefunc.backends.kubernetes.objects.paths import pod_path

if TYPE_CHECKING:
    from kubefunc.backends.kubernetes.api.requests import Api
    from kubefunc.backends.kubernetes.api.streams import Websocket

SUBPROTOCOLS = ("v4.channel.k8s.io",)
DATA, ERROR = range(2)
_OPENING = 30.0
_SCRATCH = 64 * 1024
_PORT_SIZE = 2


class PortStream:
    """A connection to one port of one Pod, which does not block once it is open. Used by one thread.

    Attributes:
        refusal: why the Pod's end could not be connected, in the kubelet's words; empty while it is.
        ended: whether nothing more will come.
    """

    def __init__(self, api: Api, namespace: str, pod: str, port: int) -> None:
        path = pod_path(namespace, pod, "portforward")
        self._socket: Websocket = api.websocket(path, [("ports", str(port))], SUBPROTOCOLS, timeout=_OPENING)
        self._parser = FrameParser()
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._heads = {DATA: _PORT_SIZE, ERROR: _PORT_SIZE}  # bytes of the port's number that are still to come
        self._words = bytearray()
        self._unsent = bytearray()
        self._received = bytearray()
        self.ended = False

    def open(self) -> None:
        """Connect, and wait for the kubelet's first words.

        Raises:
            ExecRefused: the credentials lack ``pods/portforward``.
            ExecUnavailable: the Pod is not there, or does not run.
            StreamCut: the connection was lost.
            StreamClosed: :meth:`close` was called.
        """
        try:
            self._socket.open()
            deadline = time.monotonic() + _OPENING
            while any(self._heads.values()) and not self.ended and time.monotonic() < deadline:
                self._take_in(self._socket.read_into(self._scratch))
            self._socket.set_timeout(0.0)
        except ApiError as error:
            raise _opening_error(error) from error
        except UNUSABLE as error:
            raise StreamCut(str(error)) from error
        except (ConnectionFailed, OSError) as error:
            if self._socket.closed:
                raise StreamClosed("closed while connecting") from error
            raise StreamCut(str(error)) from error
        if any(self._heads.values()) and not self.refusal:
            raise ExecUnavailable("the kubelet ended the connection")

    def close(self) -> None:
        """End it, from any thread."""
        self._socket.close()

    def release(self) -> None:
        """Give the connection back, by the thread that uses it."""
        self._socket.release()

    def fileno(self) -> int:
        """The socket to wait for."""
        return self._socket.fileno()

    @property
    def refusal(self) -> str:
        return self._words.decode("utf-8", "replace").strip()

    @property
    def has_buffered(self) -> bool:
        """Whether bytes are here already that no wait for the socket would tell of."""
        return bool(self._received) or self._socket.has_buffered()

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""
        return len(self._unsent)

    def send(self, data: bytes) -> None:
        """Queue this for the Pod; :meth:`flush` sends it."""
        self._unsent += masked_frame(BINARY, bytes([DATA]) + data)

    def flush(self) -> None:
        """Send what the network takes now. Raises OSError."""
        while self._unsent:
            try:
                sent = self._socket.send_some(self._unsent)
            except NOT_NOW:
                return
            del self._unsent[:sent]

    def receive(self) -> bytes:
        """What has come from the Pod, at most one read; empty where nothing has, see ``ended``. Raises OSError."""
        if not self.ended:
            with contextlib.suppress(*NOT_NOW):
                self._take_in(self._socket.read_into(self._scratch))
        received = bytes(self._received)
        self._received.clear()
        return received

    def _take_in(self, count: int) -> None:
        if not count:
            self.ended = True
            return
        for channel, piece in self._parser.feed(self._scratch[:count]):
            if channel == CLOSE:
                self.ended = True
            elif channel == PING:
                self._unsent += masked_frame(PONG, bytes(piece))
            elif channel in self._heads:
                self._take(channel, piece)

    def _take(self, channel: int, piece: memoryview) -> None:
        skipped = min(self._heads[channel], len(piece))
        self._heads[channel] -= skipped
        (self._received if channel == DATA else self._words).extend(piece[skipped:])


def _opening_error(error: ApiError) -> Exception:
    if error.status in (401, 403):
        return ExecRefused(error.message)
    return ExecUnavailable(f"{error.status} {error.message}")

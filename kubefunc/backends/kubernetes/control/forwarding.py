"""A local port that leads to a port of a call's Pods, through the API server."""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from kubefunc.backends.base import Places
from kubefunc.backends.kubernetes.api.errors import ApiError, as_error
from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused, ExecUnavailable, TransportError
from kubefunc.backends.kubernetes.api.portforward import PortStream
from kubefunc.backends.kubernetes.api.relay import Relay
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.errors import PortForwardError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

log = logging.getLogger("kubefunc.kubernetes.forward")

CONNECTIONS: Final = 200
"""Local connections at once. Each has a connection to the API server: further ones wait."""
_LISTENS_WITHIN: Final = 15.0  # seconds that a connection waits for a Pod that listens
_AGAIN: Final = 0.25
_LOOK: Final = 0.5


class Forward:
    """Implements :class:`kubefunc.backends.base.Forward`: listens from entering its context to leaving it."""

    def __init__(self, api: Api, namespace: str, port: int, places: Places) -> None:
        """``api``: for this alone, with a pool of its own: it is closed at the end."""
        self._api = api
        self._namespace = namespace
        self._port = port
        self._places = places
        self._turn = itertools.count()
        self._lock = threading.RLock()
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._closed = False
        self._listener: socket.socket | None = None
        self.trouble = ""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        if self._listener is None:
            raise RuntimeError("nothing listens before the context is entered")
        host, port = self._listener.getsockname()
        return host, port

    def __enter__(self) -> Self:
        try:
            self._check()
            listener = self._listener = socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS)
        except BaseException:
            self._end()
            raise
        threading.Thread(target=self._accept, args=(listener,), name="kubefunc-forward", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._closed = True
            connections = list(self._open)
        for each in connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        if self._listener is not None:
            with contextlib.suppress(OSError):  # not all systems can do that to one that listens
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        self._api.close()

    def _check(self) -> None:
        """Find out now, and not at the first connection, whether the cluster lets ports be forwarded."""
        stream = self._opened(time.monotonic() + _LISTENS_WITHIN)
        stream.close()
        stream.release()

    def _opened(self, deadline: float) -> PortStream:
        """A stream to a Pod that runs now, or within the time.

        Raises:
            KubefuncError: there is none, or the cluster refuses.
        """
        why = "it does not run"
        while not self._closed:
            for pod in self._pods():
                stream = PortStream(self._api, self._namespace, pod, self._port)
                try:
                    stream.open()
                except ExecRefused as error:
                    stream.release()
                    raise _refused(error) from error
                except TransportError as error:
                    stream.release()
                    why = str(error)
                    continue
                return stream
            if self._places.ended() or time.monotonic() > deadline:
                break
            time.sleep(_AGAIN)
        raise PortForwardError(f"The port {self._port} of {self._places.name} cannot be reached: {why}.")

    def _pods(self) -> Iterator[str]:
        """Those that run, another one first each time."""
        pods = sorted(self._places.pods())
        first = next(self._turn) % len(pods) if pods else 0
        return iter(pods[first:] + pods[:first])

    # -- connections

    def _accept(self, listener: socket.socket) -> None:
        listener.settimeout(_LOOK)  # on some systems nothing that another thread does to it wakes this one
        while not self._closed:
            try:
                local, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self._room.acquire()
            threading.Thread(target=self._serve, args=(local,), name="kubefunc-forwarded", daemon=True).start()

    def _serve(self, local: socket.socket) -> None:
        with self._lock:
            self._open.add(local)
        try:
            self._relay(Relay(local))
        except Exception as error:  # noqa: BLE001 - whatever it is, the local end must not wait for ever
            self._note(str(error))
        finally:
            with self._lock:
                self._open.discard(local)
            local.close()
            self._room.release()

    def _relay(self, relay: Relay) -> None:
        """Through one stream after another, until a Pod listens."""
        deadline = time.monotonic() + _LISTENS_WITHIN
        while not self._closed:
            stream = self._opened(deadline)
            try:
                relay.run(stream)
            finally:
                stream.close()
                stream.release()
            if not stream.refusal:
                return
            if not relay.can_try_again or self._places.ended() or time.monotonic() > deadline:
                raise ExecUnavailable(f"nothing listens on port {self._port} of {self._places.name}: {stream.refusal}")
            time.sleep(_AGAIN)

    def _note(self, trouble: str) -> None:
        if not self._closed:
            self.trouble = trouble
            log.info("%s: port %d: %s", self._places.name, self._port, trouble)


def _refused(error: ExecRefused) -> Exception:
    cause = error.__cause__
    return as_error(cause) if isinstance(cause, ApiError) else error

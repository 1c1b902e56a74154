"""The files (:class:`kubefunc.File`) of calls, on their way to warm workers and back: those of one pool."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from kubefunc.backends.kubernetes.threads import Workers

if TYPE_CHECKING:
    from kubefunc.backends.kubernetes.api.requests import Api
    from kubefunc.backends.kubernetes.warm.batch import Batch
    from kubefunc.backends.kubernetes.warm.transfers import Courier

STREAMS = 6  # at once, in each direction


class FileTransfers:
    """Carries them in threads of its own. Most pools never have a file: nothing is made before the first one."""

    def __init__(self, connect: Callable[[int], Api]) -> None:
        """``connect``: the API server, by so many connections at most."""
        self._connect = connect
        self._lock = threading.RLock()
        self._api: Api | None = None
        self._up = Workers("kubefunc-files-up", STREAMS)
        self._down = Workers("kubefunc-files-down", STREAMS)
        self._sending: set[str] = set()

    def send(self, worker: Courier, batch: Batch) -> None:
        """Send what a batch needs that this worker has been given, and has not got."""
        with self._lock:
            if batch.id in self._sending:
                return
            self._sending.add(batch.id)
        self._up.do(functools.partial(self._send, worker, batch))

    def _send(self, worker: Courier, batch: Batch) -> None:
        from kubefunc.backends.kubernetes.warm.transfers import send_files

        try:
            send_files(self._open(), worker, batch)
        finally:
            with self._lock:
                self._sending.discard(batch.id)

    def fetch(self, worker: Courier, batch: Batch) -> None:
        """Fetch what a batch has returned, and then finish it."""
        self._down.do(functools.partial(self._fetch, worker, batch))

    def _fetch(self, worker: Courier, batch: Batch) -> None:
        from kubefunc.backends.kubernetes.warm.transfers import fetch_returned

        fetch_returned(self._open(), worker, batch)

    def _open(self) -> Api:
        with self._lock:
            if self._api is None:
                self._api = self._connect(2 * STREAMS)
            return self._api

    def close(self) -> None:
        """No stream is needed any more."""
        with self._lock:
            if self._api is not None:
                self._api.close()

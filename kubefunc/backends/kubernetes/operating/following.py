"""Logs as they are printed: one stream for each Pod, until the call has ended."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

from kubefunc.backends.kubernetes.api.errors import TROUBLE, ConnectionFailed
from kubefunc.backends.kubernetes.api.requests import Api, ApiError
from kubefunc.backends.kubernetes.objects.paths import log_path
from kubefunc.backends.kubernetes.operating.logs import as_pieces, log_query
from kubefunc.backends.kubernetes.results.output import printed
from kubefunc.backends.operations import LogPiece, LogWish, Operations, StoredCall, StoredPod

LOOK_AGAIN = 1.0  # seconds between two looks for Pods that have started
WAKE = 0.1
SAY_FIRST = 3.0  # seconds without a Pod that runs, before a line says what is waited for
SAY_AGAIN = 30.0
MOST_STREAMS = 20  # half of the connections that a client may have; further Pods are followed as others end
QUEUED = 1000  # pieces: a terminal that is stopped must not fill the memory
_IDLE = 4 * 3600.0  # the kubelet's own limit for a stream without a byte
_CUTS = 5  # in a row and without a byte between them


class Follower:
    """Follows the Pods of one call. Its threads are daemons: Ctrl-C needs to wait for none."""

    def __init__(
        self, api: Api, operations: Operations, call: StoredCall, wish: LogWish, tell: Callable[[str], None]
    ) -> None:
        self._api = api
        self._operations = operations
        self._call = call
        self._wish = wish
        self._tell = tell
        self._pieces: queue.Queue[LogPiece | Exception] = queue.Queue(QUEUED)
        self._streams: dict[str, threading.Thread] = {}

    def pieces(self) -> Iterator[LogPiece]:
        """What the Pods print, until the call has ended or is gone."""
        call: StoredCall | None = self._call
        said = time.monotonic() + SAY_FIRST - SAY_AGAIN
        while call is not None:
            self._follow_started(call)
            is_over = self._is_over(call)
            yield from self._printed_until(time.monotonic() + LOOK_AGAIN, is_over=is_over)
            if self._is_streaming:
                said = time.monotonic()
                if call.shape == "single" or is_over:
                    continue
            elif is_over:
                return
            call = self._operations.find(self._call.namespace, self._call.id)
            if call is not None and not call.is_finished and time.monotonic() - said > SAY_AGAIN:
                said = time.monotonic()
                self._tell(self._operations.explain(call).message)
        while self._is_streaming:
            yield from self._printed_until(time.monotonic() + LOOK_AGAIN, is_over=True)

    @property
    def _is_streaming(self) -> bool:
        return not self._pieces.empty() or any(thread.is_alive() for thread in self._streams.values())

    def _is_over(self, call: StoredCall) -> bool:
        return call.is_finished and all(pod.name in self._streams for pod in call.pods if _has_started(pod))

    def _follow_started(self, call: StoredCall) -> None:
        for pod in call.pods:
            room = sum(thread.is_alive() for thread in self._streams.values()) < MOST_STREAMS
            if room and _has_started(pod) and pod.name not in self._streams:
                thread = threading.Thread(target=self._stream, args=(pod,), name="kubefunc-logs", daemon=True)
                self._streams[pod.name] = thread
                thread.start()

    def _printed_until(self, end: float, *, is_over: bool) -> Iterator[LogPiece]:
        """What comes until then; if the call is over, until its streams have ended."""
        while (left := end - time.monotonic()) > 0 and not (is_over and not self._is_streaming):
            try:
                piece = self._pieces.get(timeout=min(left, WAKE))
            except queue.Empty:
                continue
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def _stream(self, pod: StoredPod) -> None:
        try:
            for piece in as_pieces(self._call, pod, self._insist(pod)):
                self._pieces.put(piece)
        except TROUBLE as error:
            self._pieces.put(error)

    def _insist(self, pod: StoredPod) -> Iterator[bytes]:
        """The log of one Pod. After a cut it is read again from its start, and what came before is left out."""
        passed = cuts = 0
        while True:
            skip = passed
            try:
                path = log_path(self._call.namespace, pod.name)
                with self._api.stream_bytes(path, log_query(self._wish), idle_timeout=_IDLE) as stream:
                    for data in printed(stream):
                        new = data[skip:]
                        skip = max(0, skip - len(data))
                        if new:
                            passed, cuts = passed + len(new), 0
                            yield new
                return
            except ApiError as error:
                if error.not_found or error.not_started:
                    return
                raise
            except ConnectionFailed:
                cuts += 1
                if cuts > _CUTS or (passed and (self._wish.tail is not None or self._wish.since is not None)):
                    raise
                time.sleep(cuts * LOOK_AGAIN)


def _has_started(pod: StoredPod) -> bool:
    return pod.started != ""

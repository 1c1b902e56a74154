"""One call, or one item of a map, on its way through a pool."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kubefunc.backends.base import Lost, Sink, Whereabouts
from kubefunc.errors import KubefuncError
from kubefunc.runner.protocol.records import Record

if TYPE_CHECKING:
    from kubefunc.backends.kubernetes.warm.parcel import Parcel

OUTPUT_KEPT = 1 << 20  # bytes, for logs()


class Run:
    """What is known of it.

    Attributes:
        parcel: what it is a part of.
        call: the id of the call or map.
        index: of the item; 0 of a call.
        over: nobody waits for it any more.
    """

    __slots__ = ("_changed", "_output", "_printed", "_sink", "call", "index", "over", "parcel")

    def __init__(self, parcel: Parcel, index: int, sink: Sink, changed: threading.Condition) -> None:
        """``changed`` is for all runs of a map: there may be very many."""
        self.parcel = parcel
        self.call = parcel.submission.call
        self.index = index
        self.over = False
        self._sink = sink
        self._printed = 0
        self._output = b""
        self._changed = changed

    @property
    def size(self) -> int:
        """Bytes of its own arguments."""
        return len(self.parcel.items.get(self.index, b""))

    @property
    def has_lost_a_worker(self) -> bool:
        """Whether a worker has gone while it ran there, or waited in a batch."""
        return self.parcel.submission.disruptions > 0

    @property
    def settled(self) -> bool:
        """Whether it has its outcome by now, or was cancelled."""
        return not self._sink.missing([self.index])

    def is_wanted(self) -> bool:
        """Asked when a worker is given it: whether it is still to run."""
        return not self.over and not self.settled

    def print(self, data: bytes) -> None:
        """It has printed this."""
        with self._changed:
            self._output = (self._output + data)[-OUTPUT_KEPT:]
            self._printed += len(data)
            self._changed.notify_all()
        self._sink.output([self.index], data)

    # -- what those who wait for it are told

    def moved(self, where: Whereabouts, indexes: Sequence[int] = ()) -> None:
        """It waits, or runs; or these items of the same submission do."""
        self._sink.moved(indexes or [self.index], where)

    def take(self, outcomes: Sequence[Record]) -> None:
        """These are outcomes of the same submission."""
        self._sink.take(outcomes)

    def fail(self, error: KubefuncError) -> None:
        """There will be no outcome."""
        self._sink.fail([self.index], error)
        self.end()

    def lost(self, error: KubefuncError, indexes: Sequence[int]) -> None:
        """The worker of these items of the same submission has gone: they run again, or get this error."""
        self._sink.lost(indexes, Lost(error))

    def end(self) -> None:
        """It has its outcome, or nobody wants it any more."""
        with self._changed:
            self.over = True
            self._changed.notify_all()

    def logs(self, follow: bool) -> Iterator[bytes]:
        """What it has printed, of a lot the end."""
        given = 0
        while True:
            with self._changed:
                first = self._printed - len(self._output)
                piece = bytes(self._output[max(0, given - first) :])
                given = self._printed
                if not piece and (self.over or not follow):
                    return
                if not piece:
                    self._changed.wait(1.0)
            if piece:
                yield piece

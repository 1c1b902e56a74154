"""A backend that does nothing by itself: a test plays the cluster by hand."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.envelope import Envelope, record_of, verify
from kubefunc.errors import KubefuncError
from kubefunc.options import Options
from kubefunc.payload import Packer
from kubefunc.runner import RAISED, VALUE
from kubefunc.runner.execution import exceptions
from kubefunc.runner.protocol import wire
from kubefunc.runner.protocol.records import Record

KEY = b"k" * 32


def value_envelope(value: object, call: str = "f-abcdefgh", **header: Any) -> Envelope:
    """A verified envelope with this value."""
    known = {"outcome": VALUE, "call": call, "printed": 0, "attempts": 1, **header}
    return verify(wire.seal(known, pickle.dumps(value), KEY), KEY, call)


def error_envelope(code: str, detail: dict[str, Any], call: str = "f-abcdefgh") -> Envelope:
    """A verified envelope of an error that travels as a code."""
    header = {"outcome": "error", "code": code, "detail": detail, "call": call, "printed": 0, "attempts": 1}
    return verify(wire.seal(header, b"", KEY), KEY, call)


def value_record(index: int, value: object, started: float = 1.0, finished: float = 2.0) -> Record:
    """The outcome of an item that returned this."""
    return Record(index, started, finished, 1, None, pickle.dumps(value))


def raised_record(index: int, error: BaseException) -> Record:
    """The outcome of an item that raised this."""
    nodes, body = exceptions.encode(error, pickle.dumps)
    header = {"outcome": RAISED, "nodes": nodes, "traceback": exceptions.traceback_text(error)}
    return Record(index, 1.0, 2.0, 1, header, body)


class OneItem:
    """The sink of a single call, for a test that plays the backend: item 0 is meant."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    @property
    def settled(self) -> bool:
        return self.sink.settled

    def moved(self, where: Whereabouts) -> None:
        self.sink.moved((0,), where)

    def output(self, data: bytes) -> None:
        self.sink.output((0,), data)

    def deliver(self, envelope: Envelope) -> None:
        self.sink.take([record_of(envelope)])

    def fail(self, error: KubefuncError) -> None:
        self.sink.fail(None, error)


class HandBackend:
    """Remembers what it was asked."""

    name = "by hand"

    def __init__(self) -> None:
        self.packer = Packer.for_local()
        self.submitted: list[tuple[Submission, Sink]] = []
        self.maps: list[tuple[Submission, Sink]] = []
        self.known_maps: dict[str, Submission] = {}  # which another process has made
        self.cancelled: list[str] = []
        self.discarded: list[str] = []
        self.closed: list[str] = []
        self.late_output: list[tuple[Sequence[int], bytes]] = []  # of maps: comes behind the last outcome

    def introduce(self, options: Options) -> str:
        return "by hand"

    def submit(self, submission: Submission, sink: Sink) -> None:
        (self.maps if submission.shape == "map" else self.submitted).append((submission, sink))

    def attach(self, call: str, sink: Sink) -> None: ...

    def attach_map(self, call: str, sink: Sink) -> None: ...

    def read_map(self, call: str) -> Submission:
        return self.known_maps[call]

    def address(self, call: str) -> str:
        return f"somewhere/{call}"

    def cancel(self, call: str) -> None:
        self.cancelled.append(call)

    def discard(self, call: str) -> None:
        self.discarded.append(call)

    def logs(self, call: str, follow: bool) -> Iterator[bytes]:
        yield from (b"one\ntw", b"o\nlast" if follow else b"o\n")

    def hear_out(self, call: str, seconds: float) -> None:
        for submission, sink in self.maps:
            while submission.call == call and self.late_output:
                sink.output(*self.late_output.pop())

    def forget(self) -> None: ...

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        self.closed += unfinished
        return []

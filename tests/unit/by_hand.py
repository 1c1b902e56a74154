"""A backend that does nothing by itself: a test plays the cluster by hand."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kubefunc.backends.base import OpenWork, Shape, Sink, Submission, Traits, Whereabouts, Work
from kubefunc.envelope import Envelope, record_of, verify
from kubefunc.errors import KubefuncError
from kubefunc.options import ConfigMapKey, Options, SecretKey
from kubefunc.packing.payload import Packer
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


class HandWork:
    """What a test's backend gives for a submission."""

    def __init__(self, backend: HandBackend, call: str) -> None:
        self._backend = backend
        self._call = call

    def address(self) -> str:
        return f"somewhere/{self._call}"

    def publication(self) -> ConfigMapKey | SecretKey | None:
        return None  # nobody attaches to it

    def publish(self, to: ConfigMapKey | SecretKey, content: str | bytes) -> bool:
        return False

    def outlives_program(self) -> bool:
        return False

    def cancel(self) -> None:
        self._backend.cancelled.append(self._call)

    def discard(self) -> None:
        self._backend.discarded.append(self._call)

    def logs(self, follow: bool) -> Iterator[bytes]:
        yield from (b"one\ntw", b"o\nlast" if follow else b"o\n")

    def read(self) -> Submission:
        return self._backend.known_maps[self._call]

    def drain(self, seconds: float) -> None:
        for submission, sink in self._backend.maps:
            while submission.call == self._call and self._backend.late_output:
                sink.output(*self._backend.late_output.pop())


class HandBackend:
    """Remembers what it was asked."""

    traits = Traits("by hand", outlives_program=False, workers=None)

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

    def submit(self, submission: Submission, sink: Sink) -> Work:
        (self.maps if submission.shape == "map" else self.submitted).append((submission, sink))
        return HandWork(self, submission.call)

    def open(self, submission: Submission, sink: Sink, workers: int, claim: Callable[[int], bool]) -> OpenWork:
        raise NotImplementedError

    def attach(self, call: str, shape: Shape, sink: Sink) -> Work:
        return HandWork(self, call)

    def forget(self) -> None: ...

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        self.closed += unfinished
        return []

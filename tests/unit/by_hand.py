"""A backend that does nothing by itself: a test plays the cluster by hand."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from kubefunc.backends.base import Sink, Submission
from kubefunc.envelope import Envelope, verify
from kubefunc.options import Options
from kubefunc.payload import Packer
from kubefunc.runner import VALUE, wire

KEY = b"k" * 32


def value_envelope(value: object, call: str = "f-abcdefgh", **header: Any) -> Envelope:
    """A verified envelope with this value."""
    known = {"outcome": VALUE, "call": call, "printed": 0, "attempts": 1, **header}
    return verify(wire.seal(known, pickle.dumps(value), KEY), KEY, call)


def error_envelope(code: str, detail: dict[str, Any], call: str = "f-abcdefgh") -> Envelope:
    """A verified envelope of an error that travels as a code."""
    header = {"outcome": "error", "code": code, "detail": detail, "call": call, "printed": 0, "attempts": 1}
    return verify(wire.seal(header, b"", KEY), KEY, call)


class HandBackend:
    """Remembers what it was asked."""

    name = "by hand"

    def __init__(self) -> None:
        self.packer = Packer.for_local()
        self.submitted: list[tuple[Submission, Sink]] = []
        self.cancelled: list[str] = []
        self.discarded: list[str] = []
        self.closed: list[str] = []

    def introduce(self, options: Options) -> str:
        return "by hand"

    def submit(self, submission: Submission, sink: Sink) -> None:
        self.submitted.append((submission, sink))

    def attach(self, call: str, sink: Sink) -> None: ...

    def cancel(self, call: str) -> None:
        self.cancelled.append(call)

    def discard(self, call: str) -> None:
        self.discarded.append(call)

    def logs(self, call: str, follow: bool) -> Iterator[bytes]:
        yield from (b"one\ntw", b"o\nlast" if follow else b"o\n")

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        self.closed += unfinished
        return []

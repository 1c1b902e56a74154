"""What a function that its caller does not trust has sent: read without unpickling anything, and made fit to print.

Such a function has the key of its call. It can sign anything, so a signature says nothing here: each byte is an
attacker's. Values are JSON within limits (:mod:`kubefunc.runner.execution.plain` writes them), exceptions are texts.
"""

from __future__ import annotations

import binascii
import codecs
import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kubefunc import errors
from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import Envelope, Raised, Returned, not_understood
from kubefunc.errors import KubefuncError
from kubefunc.reading.failures import error_of
from kubefunc.runner import ERROR, PLAIN_DEPTH, PLAIN_LIMIT, PLAIN_TEXT, RAISED, VALUE
from kubefunc.runner.protocol.records import Record

if TYPE_CHECKING:
    from kubefunc.backends.base import Lost, Sink, Whereabouts

T = TypeVar("T")
OUTPUT_LIMIT: Final = 4 * 1024 * 1024  # bytes of output that are shown and kept, of each item
_MOST_DIGITS: Final = 4300  # Python's own limit, whatever this program has set it to: reading more takes long
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
# All that moves the cursor, changes how a terminal works, or lets a line look like another one: C0 and C1 controls,
# line and paragraph separators, and what turns the direction of writing.
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


# --- values


class NotPlain(ValueError):
    """A value that is not JSON as our runner writes it."""


def decode(body: bytes | bytearray | memoryview) -> object:
    """The value in this JSON.

    >>> decode(b'{"loss":[0.5,null]}')
    {'loss': [0.5, None]}

    Raises:
        NotPlain: it is too large, nested too deeply, has a key twice, or is no JSON.
    """
    if len(body) > PLAIN_LIMIT:
        raise NotPlain(f"it has {len(body):,} bytes, and {PLAIN_LIMIT:,} are allowed")
    data = bytes(body)
    if _depth(data) > PLAIN_DEPTH + 1:  # before it is parsed: a parser that recurses may crash
        raise NotPlain(f"it is nested more than {PLAIN_DEPTH} levels deep")
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_int=_int,
            parse_float=_float,
        )
    except (ValueError, RecursionError) as error:
        raise NotPlain(f"it is not JSON as kubefunc writes it ({printable(str(error))[:200]})") from None


def _depth(data: bytes) -> int:
    deepest = depth = 0
    for bracket in _STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        if bracket in b"[{":
            depth += 1
            if depth > deepest:
                deepest = depth
        else:
            depth -= 1
    return deepest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotPlain("a key stands twice in one object")
    return found


def _no_constant(name: str) -> object:
    raise NotPlain(f"{name} is no number of JSON")


def _int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise NotPlain(f"an int has {len(text)} digits")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise NotPlain("a number is too large")
    return number


# --- what is printed


def printable(text: str) -> str:
    r"""The text with control characters shown as escapes, so that it cannot move a terminal's cursor.

    >>> printable("safe\x1b[2Jtext\n")
    'safe\\x1b[2Jtext\n'
    """
    return _CONTROL.sub(_escaped, text.replace("\r\n", "\n"))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class PrintableOutput:
    """A stream of output, made printable piece by piece, and cut off at a limit."""

    def __init__(self, limit: int = OUTPUT_LIMIT) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._left = limit
        self._limit = limit

    def feed(self, data: bytes) -> bytes:
        """What may be shown of it."""
        if self._left <= 0:
            return b""
        text = printable(self._decoder.decode(data[: self._left]))
        self._left -= len(data)
        if self._left <= 0:
            text += f"\n[kubefunc: more than {self._limit:,} bytes of output: the rest is not shown]\n"
        return text.encode("utf-8", "replace")


def printable_output(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same for all pieces of a log."""
    output = PrintableOutput()
    for piece in pieces:
        yield output.feed(piece)


def printable_lines(lines: Iterable[str]) -> tuple[str, ...]:
    """Lines for an error's text, each of a bearable length."""
    return tuple(printable(line)[:2000] for line in lines)


# --- outcomes


def outcome(envelope: Envelope, known: Diagnosis) -> Returned | Raised:
    """What the function returned or raised. Nothing is unpickled, and this raises nothing."""
    header = envelope.header
    try:
        if header["outcome"] == VALUE:
            return Returned(decode(envelope.body))
        if header["outcome"] == RAISED:
            return Raised(_remote_error(header, known))
        error = error_of(header, known)
        if header.get("nodes"):
            error.__cause__ = _remote_error(header, known)
        return Raised(error)
    except Exception as error:  # noqa: BLE001 - a header may say anything
        return Raised(not_understood(envelope, known, NotPlain(printable(str(error))[:500])))


def _remote_error(header: Mapping[str, Any], known: Diagnosis) -> errors.RemoteError:
    node = header["nodes"][0]
    kind, message, traceback = (_text(each) for each in (node["type"], node["message"], header["traceback"]))
    said = f"{kind}: {message}" if message else kind
    told = dataclasses.replace(known, reason="Raised", message=f"The function raised {said}")
    error = errors.RemoteError(said, type_name=kind, text=message, traceback=traceback, diagnosis=told)
    if traceback:
        error.__cause__ = errors.RemoteTraceback(traceback)
    return error


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _cleaned(value: Any, levels: int = 5) -> Any:
    """A part of a header with printable texts of a bearable length, and no more in it than ours have."""
    if isinstance(value, str):
        return printable(value[:PLAIN_TEXT])
    if isinstance(value, dict):
        return {printable(name[:200]): _cleaned(each, levels - 1) for name, each in _some(value.items(), levels)}
    if isinstance(value, list):
        return [_cleaned(each, levels - 1) for each in _some(value, levels)]
    return value


def _some(parts: Iterable[T], levels: int) -> Iterator[T]:
    return itertools.islice(parts, 100 if levels > 0 else 0)


def _cleaned_header(header: Mapping[str, Any]) -> dict[str, Any]:
    output = header.get("output")
    cleaned: dict[str, Any] = _cleaned({name: value for name, value in header.items() if name != "output"})
    if isinstance(output, str):
        cleaned["output"] = _cleaned_output(output)
    return cleaned


def _cleaned_output(encoded: str) -> str:
    try:
        data = binascii.a2b_base64(encoded[:PLAIN_TEXT])
    except (binascii.Error, ValueError):
        return ""
    return binascii.b2a_base64(PrintableOutput().feed(data), newline=False).decode()


class UntrustedSink:
    """Stands before the sink of an untrusted function's submission: marks outcomes, and makes texts printable."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._outputs: dict[int, PrintableOutput] = {}  # by the first of the items that print

    @property
    def settled(self) -> bool:
        """As the sink itself."""
        return self._sink.settled

    def missing(self, indexes: Iterable[int]) -> list[int]:
        """As the sink itself."""
        return self._sink.missing(indexes)

    def has_failures(self, indexes: Iterable[int]) -> bool:
        """As the sink itself."""
        return self._sink.has_failures(indexes)

    def opened(self, count: int, function: str) -> None:
        """As the sink itself."""
        self._sink.opened(count, function)

    def moved(self, indexes: Sequence[int], where: Whereabouts) -> None:
        """As the sink itself."""
        self._sink.moved(indexes, where)

    def output(self, indexes: Sequence[int], data: bytes) -> None:
        """Pass on what may be shown."""
        shown = self._outputs.setdefault(indexes[0] if indexes else -1, PrintableOutput()).feed(data)
        if shown:
            self._sink.output(indexes, shown)

    def take(self, outcomes: Sequence[Record]) -> None:
        """Pass outcomes on, marked as such of which nothing is unpickled."""
        self._sink.take([marked(record) for record in outcomes])

    def fail(self, indexes: Sequence[int] | None, error: KubefuncError) -> None:
        """As the sink itself."""
        self._sink.fail(indexes, error)

    def lost(self, indexes: Sequence[int], how: Lost) -> None:
        """As the sink itself."""
        self._sink.lost(indexes, how)

    def later(self, indexes: Iterable[int]) -> Sink:
        """A sink like this one, for a later attempt."""
        return UntrustedSink(self._sink.later(indexes))


def marked(record: Record) -> Record:
    """The outcome as one of which nothing is unpickled."""
    header = {"outcome": VALUE} if record.header is None else record.header
    if header.get("outcome") not in (VALUE, RAISED, ERROR):
        header = {"outcome": ERROR}
    marked = Record(
        record.index, record.started, record.finished, record.attempts, _cleaned_header(header), record.body
    )
    marked.is_plain = True
    return marked

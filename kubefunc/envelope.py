"""Reading a result: HMAC, size and sha256 first, unpickling only then."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kubefunc import errors
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.reading.exceptions import completed, rebuilt
from kubefunc.reading.unpickling import Buffer, loads
from kubefunc.runner import (
    CHUNK,
    ENVELOPE_MAGIC,
    ERROR,
    RAISED,
    VALUE,
)
from kubefunc.runner.execution import causes
from kubefunc.runner.execution.exceptions import add_note, text_of
from kubefunc.runner.protocol import wire
from kubefunc.runner.protocol.records import Record

if TYPE_CHECKING:
    from kubefunc.landing import Landing


@dataclass(frozen=True)
class Envelope:
    """A verified envelope. The body is a view of the bytes that arrived, not a copy.

    Attributes:
        files: those that belong to its value.
    """

    header: Mapping[str, Any]
    body: memoryview
    files: Landing | None = None

    @property
    def printed(self) -> int:
        """How many bytes the function printed, over all attempts."""
        printed = self.header.get("printed")
        return printed if isinstance(printed, int) else 0

    @property
    def output(self) -> bytes | None:
        """The last of what it printed, or None where this envelope came without (as a termination message does)."""
        encoded = self.header.get("output")
        if encoded is None:
            return None
        try:
            return binascii.a2b_base64(encoded)
        except (ValueError, TypeError):  # signed by a function that wrote its envelope itself
            return b""


@dataclass(frozen=True)
class Returned:
    """The function's value."""

    value: Any


@dataclass(frozen=True)
class Raised:
    """The function's own exception, or the error that stands for how it ended."""

    error: BaseException


class Unread:
    """An outcome that nobody has asked for yet: it is unpickled once, in the thread that asks first.

    Attributes:
        is_value: the function returned a value, as far as is known before that is unpickled.
    """

    def __init__(
        self, load: Callable[[], Returned | Raised], *, is_value: bool, lock: AbstractContextManager[Any] | None = None
    ) -> None:
        self.is_value = is_value
        self._load: Callable[[], Returned | Raised] | None = load
        self._ended: Returned | Raised | None = None
        self._lock = threading.RLock() if lock is None else lock

    def open(self) -> Returned | Raised:
        """What it is: the same object each time."""
        if self._ended is not None:
            return self._ended
        with self._lock:
            if self._ended is None and self._load is not None:
                self._ended = self._loaded(self._load)
                self._load = None  # and with it the bytes
        assert self._ended is not None
        return self._ended

    def _loaded(self, load: Callable[[], Returned | Raised]) -> Returned | Raised:
        ended = load()
        if self.is_value and isinstance(ended, Raised) and isinstance(ended.error.__cause__, KeyboardInterrupt):
            raise ended.error.__cause__  # Ctrl-C while the value loaded: it is there for the next who asks
        return ended


def verify(data: Buffer, key: bytes, call: str, sha256: Callable[[int], str] | None = None) -> Envelope:
    """Check an envelope in one pass, without unpickling anything.

    Args:
        sha256: gives the digest of the first so many bytes of ``data``, for one who has taken it while they came.

    Raises:
        ResultCorruptedError: it is cut, changed, signed with another key, or belongs to another call.
    """
    header, body = _opened(data, key, call)
    if header.get("size") != len(body):
        raise corrupted(call, f"{len(body)} bytes arrived, {header.get('size')} were written")
    if header.get("sha256") != (sha256(len(body)) if sha256 is not None else hashlib.sha256(body).hexdigest()):
        raise corrupted(call, "its sha256 is not that of the bytes written")
    return Envelope(header, body)


def verify_chunk(rest: Buffer, key: bytes, call: str, chunk: int, blocks: int) -> Envelope:
    """Check what follows the blocks of a chunk, of which so many have come and were right.

    It is the end of the chunk's envelope, or the whole envelope of an error that holds for each of its items.

    Raises:
        ResultCorruptedError: it is cut, changed, signed with another key, or belongs to another chunk.
    """
    header, body = _opened(rest, key, call)
    if header.get("chunk") != chunk:
        raise corrupted(call, f"it belongs to the chunk {header.get('chunk')}, not {chunk}")
    if header["outcome"] != CHUNK:
        return verify(rest, key, call)
    if header.get("blocks") != blocks or len(body):
        raise corrupted(call, f"{blocks} blocks of its chunk {chunk} arrived, {header.get('blocks')} were written")
    return Envelope(header, body)


def _opened(data: Buffer, key: bytes, call: str) -> tuple[dict[str, Any], memoryview]:
    """Header and body of an envelope that was signed for this call; the body is not checked yet."""
    view = memoryview(data).cast("B")
    if len(view) < wire.FOOTER_SIZE or bytes(view[-len(ENVELOPE_MAGIC) :]) != ENVELOPE_MAGIC:
        raise corrupted(call, f"its {len(view)} bytes do not end as a result does: it was cut")
    footer = view[-wire.FOOTER_SIZE :]
    (header_size,) = wire.LENGTH.unpack_from(footer)
    end = len(view) - wire.FOOTER_SIZE
    if header_size > end:
        raise corrupted(call, "its header is longer than the whole")
    encoded = bytes(view[end - header_size : end])
    mac = bytes(footer[wire.LENGTH.size : wire.LENGTH.size + wire.MAC_SIZE])
    if not hmac.compare_digest(mac, wire.mac(key, encoded)):
        raise corrupted(call, "its signature (HMAC) is not this call's")
    return _header(encoded, call), view[: end - header_size]


def _header(encoded: bytes, call: str) -> dict[str, Any]:
    """A header that was signed: by the runner, or by a function that has taken the key, and may write anything."""
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise corrupted(call, "its header does not parse") from error
    if not isinstance(header, dict):
        raise corrupted(call, "its header is no mapping")
    if header.get("call") != call:
        raise corrupted(call, f"it belongs to the call {header.get('call')!r}")
    if header.get("outcome") not in (VALUE, RAISED, ERROR, CHUNK):
        raise corrupted(call, f"it has the unknown outcome {header.get('outcome')!r}")
    return header


def corrupted(call: str, what: str) -> errors.ResultCorruptedError:
    """The error for bytes that are not what the Pod wrote."""
    message = f"The result of {call} arrived damaged: {what}. Nothing of it was unpickled."
    advice = "Run the call again; if it happens twice, something between here and the Pod changes bytes."
    diagnosis = Diagnosis("ResultCorrupted", message, advice, Phase.FETCHING, call)
    return errors.ResultCorruptedError(str(diagnosis), diagnosis=diagnosis)


def outcome(envelope: Envelope, diagnosis: Diagnosis) -> Returned | Raised:
    """What the function returned or raised, whatever stands in the envelope: this itself raises nothing.

    ``diagnosis`` says what is known of the call: it is completed here.
    """
    try:
        return _outcome(envelope, diagnosis)
    except BaseException as error:  # noqa: BLE001 - a header may say anything, and an exception's class do anything
        return Raised(not_understood(envelope, diagnosis, error))


def is_value(record: Record) -> bool:
    """Whether the function returned, and this Python may read what. Nothing is unpickled to know."""
    header = record.header
    return header is None or (header.get("outcome") == VALUE and _is_of_this_python(header))


def record_of(envelope: Envelope, index: int = 0) -> Record:
    """What came of a single call, as the outcome of an item."""
    header = dict(envelope.header)
    started, finished, attempts = (header.get(name) for name in ("started", "finished", "attempts"))
    record = Record(
        index,
        started if isinstance(started, float) else 0.0,
        finished if isinstance(finished, float) else time.time(),
        attempts if type(attempts) is int else 1,
        header,
        envelope.body,
    )
    record.files = envelope.files
    return record


def not_understood(envelope: Envelope, known: Diagnosis, error: BaseException) -> errors.ResultCorruptedError:
    """The error for an outcome that was signed, and so is this call's, but that this version cannot read."""
    told = completed(
        known,
        "ResultNotUnderstood",
        f"The outcome of the call cannot be read ({type(error).__name__}: {text_of(error)}); it is "
        f"{envelope.header.get('outcome')!r}, code {envelope.header.get('code')!r}.",
        "Use the same version of kubefunc that started the call. If it is the same, please report this.",
    )
    failure = errors.ResultCorruptedError(str(told), diagnosis=told)
    failure.__cause__ = error
    return failure


def python_mismatch(there: str, known: Diagnosis) -> errors.PythonMismatchError:
    """The error for results that this process must not unpickle: pickled code of another minor version may crash it."""
    here = "{}.{}".format(*sys.version_info)
    told = completed(
        known,
        "PythonMismatch",
        f"The call runs on Python {there}, and so its result is pickled; this program runs on Python {here}. "
        "Nothing of it was unpickled: pickled code does not work across minor versions.",
        f"Attach to it from Python {there}.",
    )
    return errors.PythonMismatchError(str(told), diagnosis=told)


def _is_of_this_python(header: Mapping[str, Any]) -> bool:
    """Processes of this machine do not say: they are of this Python."""
    return header.get("python") in (None, "{}.{}".format(*sys.version_info))


def _outcome(envelope: Envelope, diagnosis: Diagnosis) -> Returned | Raised:
    header = envelope.header
    if header["outcome"] == ERROR and not header.get("nodes"):  # nothing to unpickle: any Python may read it
        return Raised(_error(envelope, diagnosis))
    if not _is_of_this_python(header):
        return Raised(python_mismatch(str(header["python"]), diagnosis))
    if header["outcome"] == VALUE:
        return _returned(envelope, diagnosis)
    if header["outcome"] == RAISED:
        from kubefunc.reading.failures import how_to_have  # here, as it stays out of what travels

        error = rebuilt(envelope.header, envelope.body, diagnosis)
        missing = header.get("missing") or {}
        advice = how_to_have(missing, diagnosis)
        if advice and causes.FILE not in missing:  # which may be as the function expects it
            add_note(error, f"kubefunc: {advice}")
        return Raised(error)
    return Raised(_error(envelope, diagnosis))


def _returned(envelope: Envelope, diagnosis: Diagnosis) -> Returned | Raised:
    return returned(envelope.body, lambda: diagnosis, envelope.files)


def returned(body: Buffer, diagnosis: Callable[[], Diagnosis], files: Landing | None = None) -> Returned | Raised:
    """The value in this pickle; what is known of its call is asked only where it cannot be unpickled."""
    try:
        return Returned(loads(body, None if files is None else files.locate))
    except BaseException as error:  # noqa: BLE001 - a class may raise what it likes, and this thread must go on
        told = completed(
            diagnosis(),
            "ResultUnreadable",
            f"The function returned, but its value cannot be unpickled here: {type(error).__name__}: {text_of(error)}.",
            "Install here what the value's class needs, or return plain data (numbers, text, lists, dicts).",
        )
        failure = errors.SerializationError(str(told), diagnosis=told)
        failure.__cause__ = error
        return Raised(failure)


def _error(envelope: Envelope, diagnosis: Diagnosis) -> BaseException:
    from kubefunc.reading.failures import error_of

    error = error_of(envelope.header, diagnosis)
    if envelope.header.get("nodes"):
        error.__cause__ = rebuilt(envelope.header, envelope.body, diagnosis)
    return error

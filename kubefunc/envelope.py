"""Reading a result: HMAC, size and sha256 first, unpickling only then."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import os
import re
import signal as signals
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from kubefunc import errors
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.reading.exceptions import completed, rebuilt
from kubefunc.reading.unpickling import Buffer, loads
from kubefunc.runner import (
    CHUNK,
    CODE_DIED,
    CODE_EXIT,
    CODE_FAULT,
    CODE_LOAD,
    CODE_NOT_JSON,
    CODE_OOM,
    CODE_PACKAGES,
    CODE_PYTHON,
    CODE_STORAGE,
    CODE_TIMEOUT,
    CODE_UNPICKLABLE,
    CODE_UPLOAD,
    ENVELOPE_MAGIC,
    ERROR,
    EXIT_BROKEN,
    OUT_DIR,
    RAISED,
    VALUE,
)
from kubefunc.runner.execution import causes
from kubefunc.runner.execution.exceptions import add_note, text_of
from kubefunc.runner.protocol import wire
from kubefunc.runner.protocol.records import Record


@dataclass(frozen=True)
class Envelope:
    """A verified envelope. The body is a view of the bytes that arrived, not a copy."""

    header: Mapping[str, Any]
    body: memoryview

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
    return Record(
        index,
        started if isinstance(started, float) else 0.0,
        finished if isinstance(finished, float) else time.time(),
        attempts if type(attempts) is int else 1,
        header,
        envelope.body,
    )


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
        error = rebuilt(envelope.header, envelope.body, diagnosis)
        missing = header.get("missing") or {}
        advice = _how_to_have(missing, diagnosis)
        if advice and causes.FILE not in missing:  # which may be as the function expects it
            add_note(error, f"kubefunc: {advice}")
        return Raised(error)
    return Raised(_error(envelope, diagnosis))


def _returned(envelope: Envelope, diagnosis: Diagnosis) -> Returned | Raised:
    return returned(envelope.body, lambda: diagnosis)


def returned(body: Buffer, diagnosis: Callable[[], Diagnosis]) -> Returned | Raised:
    """The value in this pickle; what is known of its call is asked only where it cannot be unpickled."""
    try:
        return Returned(loads(body))
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


# -- errors that travelled as codes


def error_of(header: Mapping[str, Any], diagnosis: Diagnosis) -> errors.KubefuncError:
    """The error that travelled as this code and detail. Nothing is unpickled."""
    return _ERRORS[header["code"]](header["detail"], diagnosis)


def _error(envelope: Envelope, diagnosis: Diagnosis) -> BaseException:
    error = error_of(envelope.header, diagnosis)
    if envelope.header.get("nodes"):
        error.__cause__ = rebuilt(envelope.header, envelope.body, diagnosis)
    return error


def _python(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    told = completed(
        known,
        "PythonMismatch",
        f"The function was pickled by Python {detail['there']}, but its image has Python {detail['here']}: "
        "pickled code does not work across minor versions.",
        f"Use an image with Python {detail['there']} (image='python:{detail['there']}-slim'), "
        f"or run this program with Python {detail['here']}.",
    )
    return errors.PythonMismatchError(str(told), diagnosis=told)


def _load(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    cause = detail.get("cause") or "the cause is shown above"
    message = f"The function could not be loaded in the place where it should run: {cause}."
    advice = _how_to_have(detail, known) or "Compare the versions of the packages here and in the image."
    if causes.MODULE in detail:
        told = completed(known, "MissingModule", message, advice)
        return errors.MissingModuleError(str(told), name=str(detail[causes.MODULE]), diagnosis=told)
    told = completed(known, "LoadFailed", message, advice)
    return errors.SerializationError(str(told), diagnosis=told)


def _how_to_have(missing: Mapping[str, Any], known: Diagnosis) -> str:
    """What helps against the lack of this in a Pod; nothing where it is not that."""
    if known.namespace is None and known.pod is None:  # a process of this machine has what is here
        return ""
    if causes.MODULE in missing:
        from kubefunc.packages.missing import distribution_for  # only when it is needed

        package = distribution_for(str(missing[causes.MODULE]).partition(".")[0])
        return (
            f"Let the Pod install it, packages=[{package!r}], or use an image that has it, image=... Your own code is "
            "sent automatically if it is outside site-packages."
        )
    if causes.VARIABLE in missing:
        name = missing[causes.VARIABLE]
        return (
            f"Your environment variables are not sent. Pass this one, env={{{name!r}: ...}}, or read it inside the "
            "function and not while its module is imported."
        )
    if causes.FILE in missing:
        return (
            f"{missing[causes.FILE]!r} is not in the Pod: only files inside your own packages are sent. Put it there, "
            "pass its content as an argument, or mount a volume (pod_template=...)."
        )
    return ""


def _unpicklable(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    told = completed(
        known,
        "ResultUnpicklable",
        f"The function returned a value that cannot be pickled: {detail['path']} is a {detail['type']} "
        f"({detail['message']}).",
        "Return plain data: read the file, fetch the rows, or turn the generator into a list first.",
    )
    return errors.SerializationError(str(told), diagnosis=told)


def _not_json(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    told = completed(
        known,
        "ResultNotJson",
        f"The function returned a value that cannot travel as JSON: {detail['path']} is of type {detail['type']} "
        f"({detail['message']}).",
        "With untrusted=True a function returns numbers, text, True, False, None, and lists and dicts of these (keys "
        "are text). Convert the value in the function, or write it to a volume.",
    )
    return errors.SerializationError(str(told), diagnosis=told)


def _exit(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    said = detail.get("text") or detail["exit_code"]
    told = completed(
        known,
        "Exit",
        f"The function raised {detail['type']}({'' if said is None else repr(said)}) instead of returning.",
        "Return a value or raise an ordinary exception: sys.exit() and similar end a process, not a function.",
    )
    return errors.RemoteExitError(str(told), exit_code=detail["exit_code"], diagnosis=told)


def _timeout(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    stacks = own_frames(str(detail.get("stacks") or ""))
    message = f"The function ran longer than its timeout of {detail['timeout']:g} s and was stopped."
    told = completed(known, "Timeout", message, "Raise timeout=, or look at the stacks below to see what it was doing.")
    return errors.CallTimeoutError(str(told) + (f"\n\n{stacks}" if stacks else ""), diagnosis=told)


_RUNNER_FRAME = re.compile(r'^  File "(?:[^"]*/)?kubefunc\.pyz/|^  File "<frozen runpy>"')


def own_frames(stacks: str) -> str:
    """The stacks of all threads as the faulthandler wrote them, without the runner's frames below the function's."""
    lines = stacks.splitlines()
    kept = (line for line in lines if not _RUNNER_FRAME.match(line) and not line.startswith("Timeout ("))
    return "\n".join(kept).strip()


def _died(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    number, exit_code = detail.get("signal"), detail.get("exit_code")
    if number is not None:
        how = f"was killed by signal {number} ({signal_name(number)})"
        advice = "The last output may show where. A crash in a C extension prints its stack there."
    elif exit_code == EXIT_BROKEN:
        how = f"ended with exit code {exit_code} without returning"
        advice = "If the output ends in a traceback of kubefunc, this is a bug in kubefunc: please report it."
    else:
        how = f"ended itself with exit code {exit_code} without returning"
        advice = "Look for os._exit() or a library that ends the process."
    told = completed(known, "WorkerDied", f"The function's process {how}.", advice, exit_code=exit_code, signal=number)
    return errors.WorkerDiedError(str(told), exit_code=exit_code, signal=number, diagnosis=told)


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return "unknown"


def _out_of_memory(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    limit = detail.get("limit")
    size = f" of {limit / 2**20:,.0f} MiB" if limit else ""
    told = completed(
        known,
        "OOMKilled",
        f"The function used more memory than its limit{size}, and the kernel killed it.",
        'Raise memory=, or let retries raise it: retries=3, memory=("1Gi", "8Gi").',
        signal=9,
    )
    return errors.OutOfMemoryError(str(told), diagnosis=told)


def _upload(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    told = completed(
        known,
        "UploadMissing",
        f"The arguments did not arrive in the Pod within {detail['waited']:g} s. (They are too large for a Secret, so "
        "your program sends them to the running Pod.)",
        "Keep your program running until the Pod has started, or put the data on a volume and pass its path.",
    )
    return errors.PodConfigError(str(told), diagnosis=told)


def _fault(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    told = completed(
        known,
        "RunnerFault",
        f"kubefunc itself failed in the function's process and could not send the result: {detail['error']}.",
        "If the Pod's memory is full, give the call more: memory=. Otherwise this is a bug in kubefunc: please report "
        "it with the traceback above.",
    )
    error = errors.ResultLostError(str(told), diagnosis=told)
    error.__cause__ = errors.RemoteTraceback(str(detail["traceback"]))
    return error


def _storage(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    path = str(detail["path"])
    what = {
        "full": f"the file system of {path} is full",
        "removed": f"the folder {os.path.dirname(path)} was removed while the function ran",
        "limited": f"{path} would exceed this process's limit for the size of a file",
    }.get(detail["kind"], f"{path} cannot be written")
    told = completed(
        known,
        "ResultNotStored",
        f"The function ended, but its result or exception is lost: {what} ({detail['message']}).",
        _room_for(path, str(detail["kind"])),
    )
    return errors.ResultLostError(str(told), diagnosis=told)


def _room_for(path: str, kind: str) -> str:
    if kind == "limited":
        return "Raise the limit (RLIMIT_FSIZE, `ulimit -f`). The function, or what started this program, has set it."
    if kind == "removed":
        return "Do not delete the folders kubefunc-* in the temporary directory while their program runs."
    if path.startswith(OUT_DIR):
        return "Write less to disk, or request ephemeral-storage in pod_template= to get a node with room."
    if kind == "full":
        return "Free some space there, or set TMPDIR to a directory that has room before you start the program."
    return "Set TMPDIR to a directory that works and that you may write to before you start the program."


def _packages(detail: Mapping[str, Any], known: Diagnosis) -> errors.KubefuncError:
    from kubefunc.packages.failures import failure  # only when it is needed

    found = failure(detail, "{}.{}".format(*sys.version_info))
    told = completed(known, found.reason, found.message, found.advice, log_tail=found.output)
    return errors.PackageInstallError(str(told), diagnosis=told)


_ERRORS = {
    CODE_PACKAGES: _packages,
    CODE_STORAGE: _storage,
    CODE_PYTHON: _python,
    CODE_LOAD: _load,
    CODE_UNPICKLABLE: _unpicklable,
    CODE_EXIT: _exit,
    CODE_TIMEOUT: _timeout,
    CODE_DIED: _died,
    CODE_OOM: _out_of_memory,
    CODE_NOT_JSON: _not_json,
    CODE_UPLOAD: _upload,
    CODE_FAULT: _fault,
}

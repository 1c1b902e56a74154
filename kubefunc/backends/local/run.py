"""One call on this machine, and what starts processes for it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from kubefunc.backends.base import Sink, Submission
from kubefunc.backends.local.environment import function_environment
from kubefunc.backends.local.launch import working_directory
from kubefunc.backends.local.values import LocalValues
from kubefunc.backends.runner_specs import gang_spec, runner_spec
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.envelope import record_of, verify
from kubefunc.errors import ResultCorruptedError, ResultLostError, WorkerDiedError
from kubefunc.landing import Landing
from kubefunc.packing.modules import search_path
from kubefunc.runner import STREAM
from kubefunc.runner.execution.request import LARGE_RESULT, OUTPUT, RESULT, join_request

_NOT_STARTED = "no process could be started for it"
LIMIT = "Free memory or end other processes, or raise the limit on processes (ulimit -u)."
LOOPBACK = "127.0.0.1"
SINGLE = (0,)  # the items of a call
INLINE = 64 * 1024  # bytes: larger payloads go to a file, so that no send ever waits for its reader


def usable_cpus() -> int:
    """The CPUs that this process may use."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Run:
    """One call from submission to its end.

    Attributes:
        request: what its process is to be told (:class:`kubefunc.runner.execution.request.Request`).
        answer: the envelope, once it is there.
        cancelled: whether nobody wants the answer any more.
        over: set when all is said and its files are gone.
    """

    def __init__(self, submission: Submission, sink: Sink, directory: Path, environ: Mapping[str, str]) -> None:
        self.submission = submission
        self.sink = sink
        self.answer: bytes | None = None
        self.cancelled = False
        self.over = threading.Event()
        self._directory = directory
        self._log: BinaryIO | None = None
        self._values = None if submission.values is None else LocalValues(submission.values, self.file(STREAM))
        self.request = self._made_request(environ)

    @property
    def call(self) -> str:
        return self.submission.call

    def file(self, name: str) -> Path:
        return self._directory / f"{self.call}.{name}"

    def _made_request(self, environ: Mapping[str, str]) -> bytes:
        """Its surroundings are the caller's at this moment."""
        submission = self.submission
        payload = submission.payload.data
        if self._has_payload_file:
            write_file(self.file("payload"), payload)
        header = request_header(submission, self._directory, environ)
        header["payload"] = str(self.file("payload")) if self._has_payload_file else None
        return join_request(header, b"" if self._has_payload_file else payload)

    @property
    def _has_payload_file(self) -> bool:
        return len(self.submission.payload.data) > INLINE

    # -- news of it

    def started(self) -> None:
        """Its process is about to be given it.

        Raises:
            OSError: no thread can be started.
        """
        if self._values is not None:
            self._values.follow()

    def heard(self, letter: bytes, content: bytes) -> None:
        """Take in what its process says."""
        if letter == OUTPUT:
            self._output(content)
        elif letter == RESULT:
            self.answer = content
        elif letter == LARGE_RESULT:
            self.answer = self.file("body").read_bytes()

    def _output(self, data: bytes) -> None:
        """Keep it for ``logs()``, then pass it on. A full disk is no reason to lose the call."""
        with contextlib.suppress(OSError):
            if self._log is None:
                self._log = open(self.file("log"), "ab", buffering=0)  # noqa: SIM115 - open while the call runs
            self._log.write(data)
        self.sink.output(SINGLE, data)

    def settle(self, lost: str) -> None:
        """It has ended: tell its answer; without one, ``lost`` says in words what became of its process."""
        damage = None if self._values is None else self._values.finish()
        self._clean_up()
        if damage is not None:
            self.sink.fail(None, damage)
        elif self.answer is not None:
            try:
                envelope = verify(self.answer, self.submission.key, self.call)
                record = record_of(envelope)
                record.files = Landing.of_record(record.header, str(self.file("body")))
            except ResultCorruptedError as error:
                self.sink.fail(None, error)
            except OSError as error:
                self.sink.fail(None, no_room(self.call, error))
            else:
                self.sink.take([record])
        elif not self.cancelled:
            self.sink.fail(None, _died(self.call, lost))

    def _clean_up(self) -> None:
        """What it left on disk goes. What it printed the call itself keeps."""
        if self._log is not None:
            self._log.close()
            self.file("log").unlink(missing_ok=True)
        if self._has_payload_file:
            self.file("payload").unlink(missing_ok=True)
        if self.submission.payload.code_size:
            shutil.rmtree(self.file("code"), ignore_errors=True)
        if self.submission.options.timeout is not None:
            self.file("stacks").unlink(missing_ok=True)
        self.file("body").unlink(missing_ok=True)
        if self._values is not None:
            shutil.rmtree(self.file(STREAM), ignore_errors=True)
        self.over.set()


Ended = Callable[[Run, str], None]  # the run, and what became of its process where there is no answer


class Processes(Protocol):
    """Starts processes for runs and watches them; tells the run what they say, and the backend when they end.

    Made from the directory for the calls' files and the callable that is told of ends, which no method here calls.
    """

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment that its processes begin with."""
        ...

    def warm(self) -> None:
        """A call is being packed: start what can be started before it comes.

        Raises:
            OSError: no process can be started.
        """
        ...

    def start(self, run: Run) -> None:
        """Begin the run in a fresh process; returns at once.

        Raises:
            OSError: no process can be started.
        """
        ...

    def end(self, run: Run) -> None:
        """Ask its process to end, and make it end soon after. No effect on a run that is not running."""
        ...

    def new_pool(self) -> socket.socket:
        """Start a pool for the workers of a map: our end of its socket (:mod:`kubefunc.runner.local.pool`).

        Raises:
            OSError: none can be started.
        """
        ...

    def close(self, until: float) -> None:
        """Let no process stay, by this monotonic time."""
        ...

    def forget(self) -> None:
        """In a forked child: let go of what was inherited, and touch nothing of the parent's."""
        ...


def _gang_of(submission: Submission) -> dict[str, object] | None:
    """Ranks on this machine: they meet at ports that are free now."""
    if submission.options.gang is None:
        return None
    with socket.create_server((LOOPBACK, 0)) as one, socket.create_server((LOOPBACK, 0)) as other:
        meeting, master = one.getsockname()[1], other.getsockname()[1]
    return gang_spec([LOOPBACK] * submission.count, meeting, master, apart=False)


def request_header(submission: Submission, directory: Path, environ: Mapping[str, str]) -> dict[str, object]:
    """What a process is told: how to run, and the caller's surroundings at this moment."""
    options = submission.options
    wanted = function_environment(os.environ, {name: str(value) for name, value in options.env.items()})
    return {
        "spec": runner_spec(submission).replace(gang=_gang_of(submission)).as_json(),
        "key": submission.key.hex(),
        "directory": str(directory),
        "cwd": working_directory(),
        "path": search_path(),
        "set": dict(wanted.items() - environ.items()),
        "unset": list(environ.keys() - wanted.keys()),
    }


def write_file(path: Path, data: bytes) -> None:
    """Write what a call is sent.

    Raises:
        OSError: it cannot be written; the message says where, and nothing is left there.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        why = f"{error.strerror} (the arguments of calls are written there; set TMPDIR to use another directory)"
        raise OSError(error.errno, why, str(path)) from error


def not_started(why: object) -> str:
    """What became of a call's process where there was none."""
    return f"{_NOT_STARTED} ({why})"


def no_room(call: str, error: OSError) -> ResultLostError:
    """The error for files of a result that cannot be moved to where their ``File`` keeps them."""
    told = Diagnosis(
        "FileNotStored",
        f"The function returned a file, and it cannot be kept on this machine: {error}.",
        "Free some space there, or set TMPDIR to a folder that has room before you start the program.",
        Phase.FINISHED,
        call,
    )
    return ResultLostError(str(told), diagnosis=told)


def _died(call: str, why: str) -> WorkerDiedError:
    stopped = (
        "Something on this machine stopped it: a person, or the kernel when memory ran out (see dmesg). Call again."
    )
    told = Diagnosis(
        "WorkerDied",
        f"The call was lost before its function ended: {why}.",
        LIMIT if why.startswith(_NOT_STARTED) else stopped,
        Phase.FINISHED,
        call,
    )
    return WorkerDiedError(str(told), diagnosis=told)

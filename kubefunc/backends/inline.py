"""A backend for tests: each call runs in this process, at once, before ``.remote()`` returns.

Function, arguments and results are pickled as for any other backend, so that what cannot travel is found. What needs a
process of its own is not there: ``timeout`` and ``memory`` have no effect, and a crash takes this process along.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path

from kubefunc.backends.base import Access, OpenWork, Shape, Sink, Submission, Traits, Whereabouts, Work
from kubefunc.backends.runner_specs import runner_spec
from kubefunc.diagnosis import Phase
from kubefunc.errors import ConfigurationError, NestedCallError, SerializationError
from kubefunc.landing import Landing
from kubefunc.options import ConfigMapKey, Options, SecretKey
from kubefunc.packing.payload import Packer
from kubefunc.runner import ENV_ATTEMPT, ENV_CALL, ENV_DISRUPTIONS, ENV_INDEX, ENV_NESTED, STREAM, VALUE
from kubefunc.runner.execution import child, reports
from kubefunc.runner.execution.streaming import Outlet
from kubefunc.runner.execution.values import of_stream
from kubefunc.runner.protocol.records import Record

SINGLE = 0


class InlineBackend:
    """Implements :class:`kubefunc.backends.base.Backend`.

    Calls of several threads run one after another, as their variables are those of the process. So a function must not
    wait for threads of its own that make calls.
    """

    def __init__(self) -> None:
        self._packer = Packer.for_local()
        self._one = threading.Lock()
        self._inside: set[int] = set()  # the threads that run a function, and may call another
        self._running: list[Submission] = []

    @property
    def traits(self) -> Traits:
        return Traits("inline", outlives_program=False, workers=None)

    @property
    def packer(self) -> Packer:
        return self._packer

    def introduce(self, options: Options) -> str:
        return "calls run in this process"

    def submit(self, submission: Submission, sink: Sink) -> Work:
        if submission.options.gang is not None:
            raise ConfigurationError("gang=: the ranks of a gang run at the same time, and here each call runs alone.")
        if submission.options.detach:
            raise ConfigurationError("detach=True: a call that runs in this process has ended before it could be left.")
        with contextlib.nullcontext() if threading.get_ident() in self._inside else self._one:
            if self._running and self._running[-1].options.service_account is None:
                raise NestedCallError(
                    f"A remote call from inside the call {self._running[-1].call}: in a Pod it would have no "
                    "credentials. Call the function directly, f(x), or give the outer call service_account=...."
                )
            self._running.append(submission)
            try:
                with _environment(_variables(submission)), _directory() as directory:
                    _in_thread_below_a_loop(lambda: self._run(submission, sink, directory))
            finally:
                self._running.pop()
        return EndedWork(submission.call)

    def _run(self, submission: Submission, sink: Sink, directory: Path) -> None:
        me = threading.get_ident()
        outermost = me not in self._inside
        self._inside.add(me)
        try:
            _run(submission, sink, directory)
        finally:
            if outermost:
                self._inside.discard(me)

    def open(self, submission: Submission, sink: Sink, workers: int, claim: Callable[[int], bool]) -> OpenWork:
        raise ConfigurationError("Calls that run in this process have no workers.")

    def attach(self, call: str, shape: Shape, sink: Sink) -> Work:
        raise ConfigurationError(f"attach({call!r}): calls that run in this process end before anybody can attach.")

    def forget(self) -> None:
        """Nothing is inherited."""

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        return []


class EndedWork:
    """Implements :class:`kubefunc.backends.base.Work` for a call that ended before it could be asked anything."""

    def __init__(self, call: str) -> None:
        self._call = call

    def address(self) -> str:
        raise SerializationError(f"{self._call} ran in this process: no other process can have a handle of it.")

    def outlives_program(self) -> bool:
        return False

    def cancel(self) -> None:
        """It has ended."""

    def discard(self) -> None:
        """Nothing of it is kept."""

    def logs(self, follow: bool) -> Iterator[bytes]:
        """Nothing: it printed to this process's own output."""
        return iter(())

    def access(self) -> Access:
        raise ConfigurationError(f"{self._call} ran in this process and has ended: nothing listens on its ports.")

    def drain(self, seconds: float) -> None:
        """All is printed."""

    def publication(self) -> ConfigMapKey | SecretKey | None:
        return None  # nobody attaches to it

    def publish(self, to: ConfigMapKey | SecretKey, content: str | bytes) -> bool:
        return False

    def read(self) -> Submission:
        raise ConfigurationError(f"The map {self._call} ran in this process: nothing of it is kept.")


# --- running ---


def _run(submission: Submission, sink: Sink, directory: Path) -> None:
    single = submission.shape == "single"
    items = {SINGLE: b""} if single else submission.items
    form = child.form_of(runner_spec(submission))
    try:
        function, args, kwargs, retry_exceptions = child.load(submission.payload.data, str(directory / "code"))
    except BaseException as error:  # noqa: BLE001 - by what the caller's modules do
        outcome = child.cannot_load(error, lambda: reports.Body(str(directory / "body")), form)
        for index in sink.missing(items):
            sink.take([_record(index, time.time(), 1, outcome, directory)])
        return
    outlet = _outlet(submission, directory, form)
    if outlet is not None:
        function = outlet.over(function)
    for index in sink.missing(items):
        if sink.settled:  # by the failure of the one before, or it was cancelled
            return
        sink.moved([index], Whereabouts(Phase.RUNNING))

        def call(index: int = index) -> child.Outcome:
            own = () if single else pickle.loads(items[index])
            header, body = child.invoke(
                function, (*args, *own), kwargs, retry_exceptions, lambda: reports.Body(str(directory / "body")), form
            )
            return header if outlet is None else outlet.completed(header), body

        ended = _attempts(submission, index, call, directory)
        _hand_values_over(submission, directory)
        sink.take([ended])


def _outlet(submission: Submission, directory: Path, form: child.Form) -> Outlet | None:
    """Where the values of a generator function go: without a limit, as nobody takes them before it has ended."""
    if submission.values is None:
        return None
    spec = runner_spec(submission).replace(stream={"ahead": sys.maxsize, "bytes": sys.maxsize})
    return Outlet(str(directory / STREAM), spec, submission.key, of_stream(form))


def _hand_values_over(submission: Submission, directory: Path) -> None:
    if submission.values is None:
        return
    while (file := directory / STREAM / str(submission.values.received)).exists():
        submission.values.feed(file.read_bytes())


def _attempts(submission: Submission, index: int, call: Callable[[], child.Outcome], directory: Path) -> Record:
    """Run an item until it succeeds, or has no attempt left. There is no pause between attempts."""
    last = submission.options.retries + 1
    number = submission.used + 1
    while True:
        os.environ[ENV_ATTEMPT] = str(number)
        if submission.shape == "map":
            os.environ[ENV_INDEX] = str(index)
        started = time.time()
        header, body = child.reported(call)
        if number >= last or not header.get("retry"):
            return _record(index, started, number, (header, body), directory)
        number += 1


def _record(index: int, started: float, attempt: int, outcome: child.Outcome, directory: Path) -> Record:
    header, body = outcome
    content = body.content()
    if not body.in_memory:
        content = (directory / "body").read_bytes()
        (directory / "body").unlink()
    is_plain = header["outcome"] == VALUE and not header.get("files") and "streamed" not in header
    told = None if is_plain else json.loads(json.dumps(header))
    record = Record(index, started, time.time(), attempt, told, content)
    record.files = Landing.of_record(told, body.path)
    return record


def _in_thread_below_a_loop(work: Callable[[], None]) -> None:
    """An ``async def`` function runs in an event loop of its own, which no thread can have inside another."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        work()
        return
    thread = threading.Thread(target=work, name="kubefunc-inline")
    thread.start()
    thread.join()


# --- surroundings ---


def _variables(submission: Submission) -> dict[str, str | None]:
    """What the function sees of its call; None: not set."""
    options = submission.options
    own = {name: str(value) for name, value in options.env.items()}
    return {
        **own,
        ENV_CALL: submission.call,
        ENV_ATTEMPT: str(submission.used + 1),
        ENV_DISRUPTIONS: str(submission.disruptions),
        ENV_INDEX: None,
        ENV_NESTED: "1",  # the variable is there for other threads too, which are not inside this call
    }


@contextlib.contextmanager
def _environment(variables: Mapping[str, str | None]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def _directory() -> Generator[Path]:
    """For modules that travel, and large results. What loading it puts on sys.path is taken off again."""
    path = list(sys.path)
    with tempfile.TemporaryDirectory(prefix="kubefunc-inline-") as made:
        try:
            yield Path(made)
        finally:
            sys.path[:] = path

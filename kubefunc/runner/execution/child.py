"""One attempt, in the forked child: unpickle, call, pickle what came of it.

The child tells the supervisor through a pipe, in frames (:func:`kubefunc.runner.protocol.wire.frame`): ``S`` the
function starts now; ``B`` the result's body, unless it was large and stands in its file; ``F`` the function has
ended (JSON: the envelope's header as far as the child knows it); ``E`` the exit handlers have run and this process
ends now.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import pickle
import sys
import time
from types import CoroutineType, ModuleType

from kubefunc.runner import (
    CODE_EXIT,
    CODE_FAULT,
    CODE_LOAD,
    CODE_UPLOAD,
    ENV_ATTEMPT,
    ENV_CALL,
    ENV_DISRUPTIONS,
    ENV_NESTED,
    ERROR,
)
from kubefunc.runner.execution import attempts, causes, exceptions, memory, sigterm
from kubefunc.runner.execution.reports import (
    FRAME_BODY,
    FRAME_EXIT,
    FRAME_FINISH,
    FRAME_START,
    Body,
    BodyNotWritten,
    SealedBody,
    Settled,
    storage_error,
)
from kubefunc.runner.execution.sigterm import Terminated
from kubefunc.runner.execution.values import PICKLED as PICKLED
from kubefunc.runner.execution.values import SEALED, of_stream
from kubefunc.runner.execution.values import dumps as dumps
from kubefunc.runner.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from dataclasses import dataclass
    from mmap import mmap
    from typing import Any, NoReturn

    Loaded = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]
    from kubefunc.runner.execution.reports import Form as Form
    from kubefunc.runner.execution.reports import NewBody as NewBody
    from kubefunc.runner.execution.reports import Outcome as Outcome
    from kubefunc.runner.execution.streaming import Outlet
    from kubefunc.runner.protocol.spec import RunnerSpec
else:
    from kubefunc.runner.protocol.record import dataclass


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a child is to do, and where it may put what.

    Attributes:
        spec: how to run.
        attempt: counted from 1.
        payload: the bytes, or the path of a file that holds them.
        body: the path for a large body.
        stacks: the path for the stacks at a timeout.
        code: the directory for the caller's modules.
        files: what the paths of the files of its arguments begin with.
        item: of an item of a map, its pickled positional arguments.
        stream: the directory for the values of a generator function.
        key: the call's key, which signs these values.
    """

    spec: RunnerSpec
    attempt: int
    payload: bytes | str
    body: str
    stacks: str
    code: str
    files: str = ""
    item: bytes | None = None
    stream: str = ""
    key: bytes = b""

    def load(self) -> Loaded:
        """What is to be called. Raises whatever the caller's modules and pickles raise."""
        return load(self.payload, self.code, lambda data: loads(data, self.files, self.spec))

    def outlet(self, form: Form) -> Outlet:
        """Where the values of a generator function go."""
        from kubefunc.runner.execution.streaming import Outlet  # most functions are no generators

        return Outlet(self.stream, self.spec, self.key, of_stream(form))


# What a function that makes calls itself needs more of than travels: the rest is in the image.
_ROOMS = "backends executors handles options outcomes packing reading testing"
TRAVELS_IN_PART = ("kubefunc", *(f"kubefunc.{room}" for room in _ROOMS.split()))


def renew_streams() -> None:
    """New sys.stdout and sys.stderr: those from the start may have been made for a terminal or file, or by Windows.

    A process that forks many has them already, and so have its children.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(getattr(sys, name), "name", None) == number:
            continue
        stream = open(
            number, "w", encoding="utf-8", errors="backslashreplace", newline="\n", buffering=1, closefd=False
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(job: Job, frames: int) -> None:
    """Run the call and report it: frames to the descriptor ``frames``, a large body to its file."""
    prepare(job.spec, job.attempt)
    try:
        header, body = reported(lambda: _call(job, frames))
    except Terminated:
        die_of_sigterm()
    sigterm.ignore()
    cancel_stacks(job.spec.timeout)
    _finish(frames, header, body)
    run_exit_handlers()
    wire.write_all(frames, wire.frame(FRAME_EXIT))


def reported(work: Callable[[], Outcome]) -> Outcome:
    """The outcome that the work gives; where it is this program that fails, an outcome that says so."""
    try:
        return work()
    except Terminated:
        raise
    except BaseException as error:
        import traceback

        text = exceptions.text_of(error)
        said = text if type(error) is BodyNotWritten else f"{exceptions.type_name(type(error))}: {text}"
        detail = {"error": said, "traceback": "".join(traceback.format_exception(error))}
        return attempts.error_header(CODE_FAULT, detail), Body(os.devnull)


def _call(job: Job, frames: int) -> Outcome:
    def new_body() -> Body:
        return SealedBody(job.body)

    form = form_of(job.spec)
    try:
        function, args, kwargs, retry_exceptions = job.load()
        if job.item is not None:
            args = (*args, *loads(job.item, job.files, job.spec))
    except Terminated:
        raise
    except BaseException as error:
        return cannot_load(error, new_body, form)
    work, outlet = function, None
    if job.spec.stream is not None:
        outlet = job.outlet(form)
        work = outlet.over(function)
    started = time.time()
    wire.write_all(frames, wire.frame(FRAME_START))
    arm_stacks(job.spec.timeout, job.stacks)
    header, body = invoke(work, args, kwargs, retry_exceptions, new_body, form)
    return {**(header if outlet is None else outlet.completed(header)), "started": started}, body


def form_of(spec: RunnerSpec) -> Form:
    """How a value and an exception of this call travel: as pickles, or as JSON where the caller does not trust it."""
    if not spec.untrusted:
        return SEALED if spec.seals_files else PICKLED
    from kubefunc.runner.execution import plain

    return plain.value, plain.raised


def cannot_load(error: BaseException, new_body: NewBody, form: Form) -> Outcome:
    """The outcome of a payload that does not unpickle here."""
    missing_file = getattr(error, "waited_for_file", None) if type(error).__name__ == "NotBrought" else None
    if missing_file is not None:
        return attempts.error_header(CODE_UPLOAD, missing_file), new_body()
    header, body = form[1](error, new_body)
    detail = {"cause": causes.told(error), **causes.missing_here(error)}
    return {**header, "outcome": ERROR, "code": CODE_LOAD, "detail": detail}, body


def invoke(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    retry_exceptions: Any,
    new_body: NewBody,
    form: Form,
) -> Outcome:
    """Call the function once, whatever comes of it."""
    try:
        return _invoke(function, args, kwargs, retry_exceptions, new_body, form)
    except BodyNotWritten as error:
        try:
            os.unlink(error.path)  # half of a result: to say so may need its room
        except OSError:
            pass
        return storage_error(error.path, error.cause), new_body()


def _invoke(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    retry_exceptions: Any,
    new_body: NewBody,
    form: Form,
) -> Outcome:
    as_value, as_raised = form
    try:
        value = function(*args, **kwargs)
        if type(value) is CoroutineType:
            import asyncio

            value = asyncio.run(value)
        return as_value(value, new_body)
    except (BodyNotWritten, Terminated):
        raise
    except Settled as settled:
        return settled.outcome
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        header, body = as_raised(error, new_body)
        header.update(outcome=ERROR, code=CODE_EXIT, detail=_exit_detail(error))
    except BaseException as error:
        header, body = as_raised(error, new_body)
        if attempts.may_retry(error, retry_exceptions):
            said = f"{exceptions.type_name(type(error))}: {exceptions.text_of(error)}"
            header.update(retry=True, error=attempts.short(said))
        missing = causes.missing_here(error)
        if missing:
            header["missing"] = missing
    return header, body


def _exit_detail(error: BaseException) -> dict[str, Any]:
    detail: dict[str, Any] = {"type": exceptions.type_name(type(error)), "exit_code": None}
    code: Any = vars(SystemExit)["code"].__get__(error) if issubclass(type(error), SystemExit) else None
    if code is not None and issubclass(type(code), int):
        detail["exit_code"] = int.__index__(code)
    elif code is not None:  # what Python does with anything else: print it, and exit with 1
        detail.update(exit_code=1, text=exceptions.text_of(code))
    return detail


def prepare(spec: RunnerSpec, attempt: int) -> None:
    """Make this forked process one for the caller's code."""
    os.environ[ENV_CALL] = spec.call
    os.environ[ENV_ATTEMPT] = str(attempt)
    os.environ[ENV_DISRUPTIONS] = str(spec.disruptions)
    if spec.nested:
        os.environ[ENV_NESTED] = "1"
        _open_to_installed_kubefunc()
    place = None if spec.packages is None else spec.packages.get("place")
    if place:
        from kubefunc.runner.execution import packages

        packages.activate(place)
    sys.argv = [spec.function]
    # What the caller defined in its __main__ arrives by value; this program's own __main__ is not theirs.
    sys.modules["__main__"] = ModuleType("__main__")
    # A crash in C code shows where; a function that replaces sys.stderr does not matter to it.
    faulthandler.enable(2)
    sigterm.raise_in_function()
    _flush_at_sudden_exit()
    if spec.logging is not None:
        from kubefunc.runner.execution import root_logger  # most calls need not wait for it

        root_logger.set_up(spec.logging)


def _flush_at_sudden_exit() -> None:
    """``os._exit()`` shows what was printed before it, as far as it goes through ``sys.stdout`` and ``sys.stderr``.

    Not in what the function forks: that has a copy of what its parent will print itself.
    """
    pid, leave = os.getpid(), os._exit

    def _exit(status: int) -> NoReturn:
        if os.getpid() == pid:
            flush()
        leave(status)

    os._exit = _exit


def die_of_sigterm() -> NoReturn:
    """End as a program does that has no handler, but after its exit handlers have run."""
    run_exit_handlers()
    sigterm.die()


def _open_to_installed_kubefunc() -> None:
    """A function that calls on needs what travels with no Pod, the backend: it is taken from the image's kubefunc."""
    import importlib
    import pkgutil

    for name in TRAVELS_IN_PART:
        package = importlib.import_module(name)
        package.__path__ = pkgutil.extend_path(package.__path__, name)


def arm_stacks(timeout: float | None, path: str) -> None:
    """At the timeout, every thread's stack goes to a file, even where the function holds the GIL."""
    if timeout is not None:
        stacks = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        faulthandler.dump_traceback_later(timeout, file=stacks)


def cancel_stacks(timeout: float | None) -> None:
    """The timeout has not come."""
    if timeout is not None:
        faulthandler.cancel_dump_traceback_later()


def wait_for_files(data: bytes | mmap, place: str, spec: RunnerSpec) -> None:
    """Return when the files of these arguments are there, or do not come (:func:`loads` says so then)."""
    if data[-1:] != pickle.STOP:
        from kubefunc.runner.execution import files  # most arguments have none

        files.wait(data, place, spec.pull_allowance)


def loads(data: bytes | memoryview | mmap, place: str, spec: RunnerSpec) -> Any:
    """Arguments, when their files are there."""
    if data[-1:] == pickle.STOP:
        return pickle.loads(data)
    from kubefunc.runner.execution import files

    files.wait(data, place, spec.pull_allowance)
    return files.loads(data, place, spec.pull_allowance)


def load(payload: bytes | str, code: str, unpickle: Callable[[Any], Any] = pickle.loads) -> Loaded:
    """Function, arguments, keyword arguments and the exceptions to retry; the caller's modules go to ``code``.

    Raises whatever the caller's modules and pickles raise.
    """
    if isinstance(payload, str):
        with open(payload, "rb") as file:
            payload = file.read()
    modules, call = wire.split_payload(payload)
    if modules:
        unpack(modules, code)
        sys.path.insert(0, code)
    return load_call(call, unpickle)


def load_call(call: bytes | memoryview, unpickle: Callable[[Any], Any] = pickle.loads) -> Loaded:
    """What the section ``call`` of a payload holds, once its modules can be imported."""
    reference, args, kwargs, retry_exceptions = unpickle(call)
    return _resolve(reference), args, kwargs, retry_exceptions


def unpack(code: bytes, where: str) -> None:
    """Put the caller's modules on disk: package data and __file__ work there as at home."""
    write_files(wire.split_files(code), where)


def write_files(files: Iterable[tuple[str, bool, bytes]], where: str, modified_at: int | None = None) -> None:
    """Write files into this directory, given by path, whether they are executable, and content.

    ``modified_at`` is the time that they are to have; None: now.
    """
    made = set()
    for name, executable, content in files:
        path = os.path.join(where, name)
        folder = os.path.dirname(path)
        if folder not in made:
            os.makedirs(folder, exist_ok=True)
            made.add(folder)
        with open(path, "wb", buffering=0) as file:
            wire.write_all(file.fileno(), content)
            if executable:
                os.chmod(path, 0o755)
            if modified_at is not None:
                os.utime(file.fileno(), (modified_at, modified_at))


def _resolve(reference: tuple[Any, ...]) -> Callable[..., Any]:
    if reference[0] == "value":
        function = reference[1]
    else:
        import importlib

        function = importlib.import_module(reference[1])
        for name in reference[2].split("."):
            function = getattr(function, name)
    return function  # type: ignore[no-any-return]


def _finish(frames: int, header: dict[str, Any], body: Body) -> None:
    flush()  # before the result: all that the function printed is in the pipe then
    header.update(finished=time.time(), peak_memory=memory.peak_memory())
    content = body.content()
    ended = wire.frame(FRAME_BODY, content) if body.in_memory else b""
    wire.write_all(frames, ended + wire.frame(FRAME_FINISH, json.dumps(header).encode()))


def run_exit_handlers() -> None:
    """What the caller's code has registered with atexit."""
    try:
        atexit._run_exitfuncs()
    except BaseException:
        import traceback

        traceback.print_exc()
    flush()


def flush() -> None:
    """All that was printed is in the pipe then."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError, RuntimeError):  # closed, replaced, or being written to
            pass

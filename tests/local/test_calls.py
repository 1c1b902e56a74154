"""A call on this machine, from its making to its result. Each test holds for both ways to start processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import functools
import io
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, as_completed, wait
from pathlib import Path
from typing import Any

import pytest

import kubefunc
from kubefunc import current, errors, remote
from kubefunc.runner.execution import attempts
from kubefunc.runner.execution.exceptions import get_field
from tests.local.pod import written
from tests.local.work import (
    Client,
    Empty,
    Frozen,
    KeywordOnly,
    LooksWrong,
    Scale,
    TwoArguments,
    Unpicklable,
    add,
    later,
    say,
    sleep,
)

pytestmark = pytest.mark.usefixtures("way")

WITHIN = 60  # seconds: for a machine that has much else to do


@contextlib.contextmanager
def captured() -> Iterator[io.StringIO]:
    """Another sys.stderr for a while, as a notebook does it."""
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        yield stream


def until(true: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)


# -- what can be called


def made() -> Any:
    """A closure."""
    secret = 42
    return remote(lambda x: secret + x)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (add, 12),
        (later, 3),
        (Scale(5).times, 10),
        (Scale.plus, 102),
        (Scale.power, 9),
        (made(), 44),
        (remote(lambda x: -x), -2),
        (remote(functools.partial(divmod, 7)), (3, 1)),
        (remote(Scale(4)), 8),
        (remote(abs), 2),
    ],
    ids="function async method static class closure lambda partial object builtin".split(),
)
def test_everything_that_can_be_called(function: Any, expected: object) -> None:
    """Each kind of callable gives remotely what it gives here."""
    assert function.remote(2).result(WITHIN) == expected


def test_arguments_by_position_and_name() -> None:
    """As in an ordinary call."""
    assert add.remote(1).result(WITHIN) == 11
    assert add.remote(a=1, b=2).result(WITHIN) == 3


def test_each_call_is_a_process_of_its_own() -> None:
    """What one call leaves in memory, no other call sees."""
    pids = {sleep.remote(0).result(WITHIN) for _ in range(5)}
    assert len(pids) == 5
    assert os.getpid() not in pids


@pytest.mark.parametrize("size", [0, 1, 2_000, 65_536, 1_000_000, 20_000_000])
def test_values_and_arguments_of_every_size(size: int) -> None:
    """Whatever the way that they take: in a frame, or by a file."""
    data = os.urandom(size)
    reverse = remote(lambda given: given[::-1])
    assert reverse.remote(data).result(WITHIN) == data[::-1]


@pytest.mark.parametrize("where", ["argument", "result"])
def test_100_megabytes(where: str) -> None:
    """Go there, and come back."""
    size = 100_000_000
    if where == "argument":
        assert remote(len).remote(bytes(size)).result(WITHIN) == size
    else:
        assert len(remote(lambda: bytes(size)).remote().result(WITHIN)) == size


def test_a_class_of_the_project_is_the_same_class() -> None:
    """Results can be used with isinstance."""
    assert isinstance(remote(lambda: Scale(2)).remote().result(WITHIN), Scale)


# -- exceptions


def failed(function: Callable[..., object], *args: object, **options: Any) -> BaseException:
    """How a call of it ends."""
    error = remote(function).options(**options).remote(*args).exception(60)
    assert error is not None
    return error


def remote_traceback(error: BaseException) -> str:
    """The text at the deepest end of the chain."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    assert isinstance(error, errors.RemoteTraceback)
    return str(error)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ZeroDivisionError("zero"),
        lambda: OSError(2, "no", "file"),
        lambda: TwoArguments(4, "no"),
        lambda: KeywordOnly(where="x"),
    ],
    ids=["builtin", "OSError", "two arguments", "keyword only"],
)
def test_an_exception_comes_back_as_itself(make: Callable[[], Exception]) -> None:
    """Its class, its text and its attributes, with the traceback of where it was raised."""

    def fail() -> None:
        raise make()

    back, here = failed(fail), make()
    assert type(back) is type(here)
    assert str(back) == str(here)
    back.__dict__.pop("__notes__", None)  # says which call it was
    assert back.__dict__ == here.__dict__
    assert "in fail" in remote_traceback(back)
    assert "kubefunc/runner" not in remote_traceback(back)


def test_cause_context_and_notes() -> None:
    """What pickle drops arrives."""

    def fail() -> None:
        try:
            {}["missing"]
        except KeyError as error:
            lost = ValueError("top")
            lost.__notes__ = ["look here"]  # type: ignore[attr-defined]
            raise lost from error

    back = failed(fail)
    assert isinstance(back.__cause__, KeyError)
    assert back.__notes__[0] == "look here"  # type: ignore[attr-defined]
    assert "missing" in remote_traceback(back)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="ExceptionGroup came with Python 3.11")
def test_a_group_of_exceptions() -> None:
    """``except*`` works on it."""

    def fail() -> None:
        raise ExceptionGroup("both", [KeywordOnly(where="a"), OSError(28, "full")])  # type: ignore[name-defined] # noqa: F821

    back: Any = failed(fail)
    assert [type(each) for each in back.exceptions] == [KeywordOnly, OSError]
    assert back.exceptions[1].errno == 28


def test_an_exception_that_cannot_be_pickled() -> None:
    """Its class and text are told."""

    def fail() -> None:
        class Stays(Exception):
            pass

        Stays.lock = threading.Lock()  # type: ignore[attr-defined]
        raise Stays("held")

    back = failed(fail)
    assert isinstance(back, errors.SerializationError)
    assert "Stays: held" in str(back)
    assert "in fail" in remote_traceback(back)


@pytest.mark.parametrize(
    "make",
    [Unpicklable, lambda: KeyError(object()), lambda: Frozen("k"), lambda: LooksWrong("x"), lambda: Empty()],
    ids=["text with an address", "argument without a text", "frozen", "raises when looked at", "false"],
)
def test_an_exception_that_is_hard_to_look_at_comes_back_as_itself(make: Callable[[], Exception]) -> None:
    """Whatever its class does with its text, its attributes and its truth: result() raises it."""

    def fail() -> None:
        raise make()

    call = remote(fail).remote()
    with pytest.raises(type(make())) as caught:
        call.result(WITHIN)
    assert "in fail" in str(get_field(caught.value, "__cause__"))


@pytest.mark.parametrize("code", [None, 3])
def test_an_exit_while_the_result_is_pickled(code: int | None) -> None:
    """It is what it is inside the function."""

    class Result:
        def __reduce__(self) -> str:
            sys.exit(code)

    error = failed(lambda: Result())
    assert isinstance(error, errors.RemoteExitError)
    assert error.exit_code == code
    assert "in __reduce__" in remote_traceback(error)


def test_ctrl_c_while_the_result_is_pickled() -> None:
    """The same for KeyboardInterrupt."""

    class Result:
        def __reduce__(self) -> str:
            raise KeyboardInterrupt

    error = failed(lambda: Result())
    assert isinstance(error, errors.RemoteExitError)
    assert "KeyboardInterrupt" in str(error)


def test_a_fault_of_kubefunc_is_told_as_one() -> None:
    """Not the function's fault, and no death of its process. Here the function breaks what packs exceptions."""

    def break_the_runner() -> None:
        from kubefunc.runner.execution import exceptions

        def fail(*_: object) -> None:
            raise LookupError("no such frame")

        exceptions.traceback_text = fail  # type: ignore[assignment]
        raise ValueError("the function's own")

    error = failed(break_the_runner)
    assert isinstance(error, errors.ResultLostError)
    assert "kubefunc itself failed" in str(error)
    assert "LookupError: no such frame" in str(error)
    assert "please report it" in str(error)
    assert "break_the_runner" in remote_traceback(error)  # the function's own error is in the traceback


def test_a_result_that_the_disk_does_not_take() -> None:
    """The error says what keeps it from being written, where, and what to do; not that kubefunc failed."""

    def fill_up() -> bytes:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return b"x" * 1_000_000

    error = failed(fill_up)
    assert isinstance(error, errors.ResultLostError)
    assert "kubefunc itself failed" not in str(error)
    assert "File too large" in str(error)
    assert "ulimit -f" in str(error)


def test_a_result_that_cannot_be_pickled() -> None:
    """The message has the path to what it is."""
    back = failed(lambda: {"rows": [1, Client()]})
    assert isinstance(back, errors.SerializationError)
    assert "result['rows'][1].session.lock" in str(back)


def test_an_argument_that_cannot_be_pickled() -> None:
    """Told at once, with the path, before anything is started."""
    with pytest.raises(errors.SerializationError, match=r"args\[1\]\.session\.lock is of type _thread\.lock"):
        add.remote(1, Client())  # type: ignore[arg-type]


def test_a_call_is_no_argument() -> None:
    """Its result is."""
    call = add.remote(1)
    with pytest.raises(errors.SerializationError, match=r"args\[0\].*pass call\.result\(\)"):
        add.remote(call)  # type: ignore[arg-type]
    assert add.remote(call.result(WITHIN)).result(WITHIN) == 21


# -- processes that end


def test_processes_that_the_function_forks_end_by_sigterm() -> None:
    """As they do in any program: ``terminate()`` of multiprocessing ends one at once."""

    def function() -> int | None:
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        process.terminate()
        process.join()
        return process.exitcode

    assert remote(function).remote().result(60) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("die", "exit_code", "number"),
    [
        (lambda: os._exit(3), 3, None),
        (lambda: os._exit(0), 0, None),
        (lambda: ctypes.string_at(0), None, signal.SIGSEGV),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), None, signal.SIGKILL),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), None, signal.SIGTERM),
        (lambda: os.abort(), None, signal.SIGABRT),
    ],
    ids=["exit 3", "exit 0", "SIGSEGV", "SIGKILL", "SIGTERM", "SIGABRT"],
)
def test_a_process_that_dies(die: Callable[[], object], exit_code: int | None, number: int | None) -> None:
    """The error says how, as text and as data, and shows the last output."""

    def function() -> None:
        print("last words", flush=True)
        die()

    error = failed(function)
    assert isinstance(error, errors.WorkerDiedError)
    assert (error.exit_code, error.signal) == (exit_code, number)
    assert error.diagnosis is not None
    assert "last words" in error.diagnosis.log_tail
    assert "last words" in str(error)


@pytest.mark.parametrize(("given", "exit_code"), [((4,), 4), ((), None), (("bye",), 1)])
def test_sys_exit(given: tuple[Any, ...], exit_code: int | None) -> None:
    """It ends the function, not the caller."""
    error = failed(lambda: sys.exit(*given))
    assert isinstance(error, errors.RemoteExitError)
    assert error.exit_code == exit_code


def test_a_timeout_shows_where_the_function_stood() -> None:
    """The stacks of its threads at that moment."""

    def stuck_here() -> None:
        threading.Event().wait()

    error = failed(stuck_here, timeout=0.3)
    assert isinstance(error, errors.CallTimeoutError)
    assert "timeout of 0.3 s" in str(error)
    assert "in stuck_here" in str(error)


def test_a_process_that_crashes_at_its_timeout_died_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python may crash while it writes the stacks of a thread that runs, before the process is killed."""
    monkeypatch.setattr(attempts, "STACKS_GRACE", WITHIN)  # as if that took long, where it is this process that kills

    def crashes() -> None:
        time.sleep(3)
        ctypes.string_at(0)

    assert isinstance(failed(crashes, timeout=1), errors.CallTimeoutError)


def test_a_timeout_is_for_each_attempt() -> None:
    """The next attempt has it anew."""

    def slow_at_first() -> int:
        time.sleep(60 if current.attempt() == 1 else 0)
        return current.attempt()

    assert remote(timeout=1, retries=1)(slow_at_first).remote().result(WITHIN) == 2


# -- retries


def test_retries_until_it_works() -> None:
    """A fresh process each time, after a pause; stats count the attempts."""

    def flaky() -> int:
        if current.attempt() < 3:
            raise OSError(f"attempt {current.attempt()}")
        return current.attempt()

    began = time.monotonic()
    call = remote(retries=2)(flaky).remote()
    assert call.result(WITHIN) == 3
    assert call.stats.attempts == 3
    assert time.monotonic() - began > 0.5 + 1.0  # half of 1 s and of 2 s is the least


def test_a_retry_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    """One line says which attempt begins, and why; the exception of the last one says how many there were."""

    def fail() -> None:
        print("no line end", end="")
        raise LookupError(f"in attempt {current.attempt()}\nand more")

    call = remote(fail, retries=2, retry_exceptions=(LookupError,)).remote()
    error = call.exception(60)
    assert error is not None
    lines = capsys.readouterr().err.splitlines()
    assert f"kubefunc: {call.id}: attempt 2 of 3 after LookupError: in attempt 1" in lines
    assert f"kubefunc: {call.id}: attempt 3 of 3 after LookupError: in attempt 2" in lines
    if sys.version_info >= (3, 11):
        assert error.__notes__ == [f"In the call {call.id} (attempt 3)."]


@pytest.mark.parametrize(
    ("die", "options", "why"),
    [
        (lambda: os._exit(3), {}, "its process ended with exit code 3"),
        (lambda: time.sleep(60), {"timeout": 0.5}, "its timeout of 0.5 s"),
    ],
    ids=["exit", "timeout"],
)
def test_a_retry_after_the_end_of_the_process_is_announced(
    die: Callable[[], object], options: dict[str, Any], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """However the attempt before has ended. The diagnosis says which attempt was the last."""

    def function() -> None:
        die()

    call = remote(function, retries=1, **options).remote()
    error = call.exception(60)
    assert isinstance(error, errors.KubefuncError)
    assert error.diagnosis is not None
    assert error.diagnosis.attempts == 2
    assert "attempt 2" in str(error)
    assert f"kubefunc: {call.id}: attempt 2 of 2 after {why}" in capsys.readouterr().err


def test_retries_end() -> None:
    """The last attempt's failure is the call's."""
    error = failed(lambda: os._exit(current.attempt()), retries=1)
    assert isinstance(error, errors.WorkerDiedError)
    assert error.exit_code == 2


def test_only_these_exceptions_are_tried_again() -> None:
    """``retry_exceptions`` says which; others are final."""

    def fail() -> None:
        raise OSError(current.attempt()) if current.attempt() == 1 else ValueError(current.attempt())

    error = failed(fail, retries=5, retry_exceptions=(OSError,))
    assert isinstance(error, ValueError)
    assert error.args == (2,)


class NoSuchStationError(errors.DoNotRetry):
    """An exception of a user's own that is final."""


def raise_final() -> None:
    """The exception itself."""
    raise NoSuchStationError(current.attempt())


def raise_from_final() -> None:
    """Another exception, with it as the cause."""
    raise OSError(current.attempt()) from NoSuchStationError()


def raise_after_final() -> None:
    """A further exception in between."""
    try:
        raise_from_final()
    except OSError as error:
        raise ValueError(current.attempt()) from error


@pytest.mark.parametrize("fail", [raise_final, raise_from_final, raise_after_final])
def test_what_says_do_not_retry_is_final(fail: Callable[[], None]) -> None:
    """An exception that derives from ``DoNotRetry``, or was raised ``from`` one, also through another."""
    error = failed(fail, retries=5)
    assert error.args == (1,)


def test_do_not_retry_while_another_is_handled_is_no_cause() -> None:
    """Only ``from`` counts: an exception that was handled, and has nothing to do with it, says nothing."""

    def fail() -> None:
        try:
            raise NoSuchStationError
        except NoSuchStationError:
            raise OSError(current.attempt())  # noqa: B904 - the point of this test

    assert failed(fail, retries=1).args == (2,)


# -- cancelling


def test_cancel_what_runs(tmp_path: Path) -> None:
    """True at once, waiters wake up, and the process is gone soon."""
    call = sleep.remote(600, tmp_path / "pid")
    until(written(tmp_path / "pid"))
    assert call.running()
    assert call.cancel()
    assert call.cancelled()
    with pytest.raises(CancelledError):
        call.result(WITHIN)
    wait([call], WITHIN)
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    """Whether there is such a process, zombies apart."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_cancel_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never runs, and the others do."""
    monkeypatch.setattr("kubefunc.backends.local.backend.AT_ONCE", 1)
    first = sleep.remote(600, tmp_path / "first")
    until((tmp_path / "first").exists)
    second = sleep.remote(0, tmp_path / "second")
    third = add.remote(1)
    assert not second.running()
    assert second.cancel()
    assert first.cancel()
    assert third.result(WITHIN) == 11
    assert not (tmp_path / "second").exists()


def test_a_done_call_cannot_be_cancelled() -> None:
    """Its result stays."""
    call = add.remote(1)
    assert call.result(WITHIN) == 11
    assert not call.cancel()
    assert call.result() == 11


def test_cancel_between_attempts(tmp_path: Path) -> None:
    """The pause before a new attempt is interrupted."""
    log = tmp_path / "log"

    def fail() -> None:
        with log.open("a") as file:
            file.write("x")
        raise OSError

    call = remote(retries=9)(fail).remote()
    until(written(log))
    call.cancel()
    time.sleep(1.5)
    assert len(log.read_text()) <= 2


# -- output


def test_output_arrives_live_on_the_current_stderr(tmp_path: Path) -> None:
    """While the function runs, whatever sys.stderr is now; stdout and stderr alike."""
    with captured() as stderr:
        go = tmp_path / "go"

        def speak() -> None:
            print("one")
            print("two", file=sys.stderr)
            os.system("echo three")
            while not go.exists():
                time.sleep(0.01)
            print("four, without newline", end="")

        call = remote(speak).remote()
        until(lambda: "three" in stderr.getvalue())
        assert not call.done()
        go.touch()
        call.result(WITHIN)
        lines = [line for line in stderr.getvalue().splitlines() if not line.startswith("kubefunc:")]
        assert sorted(lines[:3]) == ["one", "three", "two"]
        assert lines[3:] == ["four, without newline"]
        assert call.logs().endswith("four, without newline")


def test_broken_utf8_is_shown_as_far_as_it_can_be() -> None:
    """Characters that arrive in halves are whole; what is no character is replaced."""
    with captured() as stderr:

        def speak() -> None:
            for piece in (b"gr\xc3", b"\xbc\xc3", b"\x9fe \xff\n"):
                os.write(1, piece)
                time.sleep(0.05)

        call = remote(speak).remote()
        call.result(WITHIN)
        assert "gr\u00fc\u00dfe \ufffd\n" in stderr.getvalue()
        assert call.logs() == "gr\u00fc\u00dfe \ufffd\n"


def test_several_calls_are_told_apart(tmp_path: Path) -> None:
    """By a prefix with the id, as long as more than one is running."""
    with captured() as stderr:

        def speak(name: str) -> None:
            while not (tmp_path / "go").exists():
                time.sleep(0.01)
            print(name)
            while not (tmp_path / "end").exists():
                time.sleep(0.01)

        calls = [remote(speak).remote(name) for name in ("a", "b")]
        (tmp_path / "go").touch()
        until(lambda: stderr.getvalue().count("[speak-") == 2)
        (tmp_path / "end").touch()
        wait(calls, WITHIN)
        assert f"[{calls[0].id}] a\n" in stderr.getvalue()
        assert f"[{calls[1].id}] b\n" in stderr.getvalue()


def test_no_prefix_is_left_of_calls_that_were_cancelled_or_refused(tmp_path: Path) -> None:
    """The next call is alone again."""
    with captured() as stderr:
        call = sleep.remote(600, tmp_path / "pid")
        until(written(tmp_path / "pid"))
        call.cancel()
        with pytest.raises(errors.ConfigurationError):
            add.options(detach=True).remote(1)
        say.remote("alone\n").result(WITHIN)
        assert "\nalone\n" in "\n" + stderr.getvalue()


def test_verbose_false_keeps_the_terminal_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """logs() has it all the same; KUBEFUNC_VERBOSE says so for a whole program."""
    with captured() as stderr:
        call = say.options(verbose=False).remote("quiet\n")
        call.result(WITHIN)
        monkeypatch.setenv("KUBEFUNC_VERBOSE", "false")
        say.remote("quiet too\n").result(WITHIN)
        assert "quiet" not in stderr.getvalue()
        assert call.logs() == "quiet\n"


def test_logs_follow_to_the_end(tmp_path: Path) -> None:
    """Line by line while it runs, and the last line without its newline."""

    def speak() -> None:
        print("one", flush=True)
        while not (tmp_path / "go").exists():
            time.sleep(0.01)
        print("two\nlast", end="")

    call = remote(speak).options(verbose=False).remote()
    lines = call.logs(follow=True)
    assert next(lines) == "one"
    assert not call.done()
    (tmp_path / "go").touch()
    assert list(lines) == ["two", "last"]


def test_much_output_is_whole_and_in_order() -> None:
    """Three megabytes of lines."""

    def speak() -> None:
        for number in range(50_000):
            print(f"{number:060d}")

    call = remote(speak).options(verbose=False).remote()
    call.result(WITHIN)
    assert [int(line) for line in call.logs().splitlines()] == list(range(50_000))


class Hostile(io.StringIO):
    """A stream of someone's own that raises."""

    def write(self, text: str) -> int:
        raise RuntimeError("not now")


def test_a_stderr_that_raises_costs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be shown is not a reason to lose a result."""
    monkeypatch.setattr(sys, "stderr", Hostile())
    assert remote(lambda: print("x") or 5).remote().result(WITHIN) == 5


# -- surroundings


def test_it_runs_in_the_callers_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Working directory, environment and sys.path are those of the moment of the call."""

    def look() -> tuple[str, str | None, str | None, str | None, bool]:
        return (
            os.getcwd(),
            os.environ.get("MINE"),
            os.environ.get("OURS"),
            os.environ.get("HOME"),
            str(tmp_path) in sys.path,
        )

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OURS", "from the caller")
    monkeypatch.delenv("HOME")
    monkeypatch.syspath_prepend(str(tmp_path))
    call = remote(look).options(env={"MINE": "option"}).remote()
    assert call.result(WITHIN) == (str(tmp_path), "option", "from the caller", None, True)


def test_a_clean_environment_is_a_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    """``KUBEFUNC_LOCAL_CLEAN_ENV=1``: a function that needs a variable of the caller fails here as it does in a Pod."""

    def look() -> tuple[str | None, ...]:
        return tuple(os.environ.get(name) for name in ("MINE", "OURS", "PYTHONPATH", "LANG", "HOSTNAME"))

    monkeypatch.setenv("OURS", "from the caller")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("KUBEFUNC_LOCAL_CLEAN_ENV", "1")
    call = remote(look).options(env={"MINE": "option"}).remote()
    assert call.result(WITHIN) == ("option", None, None, "C.UTF-8", socket.gethostname())


def test_a_clean_environment_is_wanted_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another value is refused before anything starts."""
    monkeypatch.setenv("KUBEFUNC_LOCAL_CLEAN_ENV", "maybe")
    with pytest.raises(errors.ConfigurationError, match="KUBEFUNC_LOCAL_CLEAN_ENV='maybe' is neither yes nor no"):
        remote(len).remote([])


def test_nothing_is_replaced_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """``current.disruptions()`` is 0, also where the caller itself is a Pod that replaces others."""
    for name in ("KUBEFUNC_FAILURES", "KUBEFUNC_DISRUPTIONS"):
        monkeypatch.setenv(name, "3")
    assert remote(current.disruptions).remote().result(WITHIN) == 0


def test_nothing_to_read_on_stdin() -> None:
    """input() ends at once instead of taking the caller's keys."""
    assert remote(lambda: sys.stdin.read()).remote().result(WITHIN) == ""
    assert isinstance(failed(input), EOFError)


def test_a_call_knows_itself() -> None:
    """``kubefunc.current`` inside; sys.argv is not this program's."""
    call = remote(lambda: (current.call_id(), current.attempt(), sys.argv)).remote()
    assert call.result(WITHIN) == (call.id, 1, ["lambda"])
    assert current.call_id() is None


def test_exit_handlers_run() -> None:
    """What the function registered with atexit is done, and its output is there."""

    def register() -> int:
        import atexit

        atexit.register(print, "tidied up")
        return 1

    call = remote(register).options(verbose=False).remote()
    assert call.result(WITHIN) == 1
    assert call.logs() == "tidied up\n"


def test_a_thread_left_behind_does_not_keep_the_call() -> None:
    """The result is there when the function ends."""

    def leave() -> int:
        threading.Thread(target=time.sleep, args=(600,)).start()
        return 7

    assert remote(leave).remote().result(WITHIN) == 7


def test_stats() -> None:
    """Times, memory and attempts; no Pod."""
    call = sleep.remote(0.1)
    call.result(WITHIN)
    stats = call.stats
    assert stats.started is not None
    assert stats.finished is not None
    assert stats.queued <= stats.started <= stats.finished <= time.time()
    assert stats.finished - stats.started >= 0.1
    assert (stats.peak_memory or 0) > 1_000_000
    assert (stats.attempts, stats.pod, stats.node) == (1, None, None)


# -- what is refused


def test_nested_calls_are_refused() -> None:
    """With the two ways out; running in place works."""

    def outer(inner: Any) -> Any:
        assert inner(1) == 11
        return inner.remote(1).result()

    error = failed(outer, add)
    assert isinstance(error, errors.NestedCallError)
    assert "f(x)" in str(error)


def test_what_needs_a_cluster_is_refused() -> None:
    """Detached calls, keys of Secrets, and attaching."""
    with pytest.raises(errors.ConfigurationError, match="detach=True needs a cluster"):
        add.options(detach=True).remote(1)
    with pytest.raises(errors.ConfigurationError, match="needs a cluster"):
        kubefunc.attach("add-x7k2p5qax7k2p5qa")


# -- the Future


def test_the_tools_of_the_standard_library() -> None:
    """wait, as_completed, wrap_future and await take it for what it is."""
    calls = [add.remote(number) for number in range(4)]
    assert isinstance(calls[0], Future)
    assert sum(call.result() for call in as_completed(calls, WITHIN)) == 46
    assert wait(calls, WITHIN, FIRST_COMPLETED).done == set(calls)

    async def program() -> list[int]:
        return [await asyncio.wrap_future(add.remote(1)), await add.remote(2), *await asyncio.gather(later.remote(3))]

    assert asyncio.run(program()) == [11, 12, 4]


def test_wait_for_cancels(tmp_path: Path) -> None:
    """asyncio's timeout stops the process."""
    call = sleep.remote(600, tmp_path / "pid")
    until(written(tmp_path / "pid"))

    async def program() -> None:
        await asyncio.wait_for(call, 0.05)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(program())
    assert call.cancelled()
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid))


def test_waiting_in_a_callback_is_refused() -> None:
    """Callbacks run in one thread, which completes calls: a RuntimeError instead of a deadlock."""
    told: Future[tuple[str, str]] = Future()
    slow = sleep.remote(600)

    def callback(_: object) -> None:
        try:
            slow.result()
        except RuntimeError as error:
            told.set_result((threading.current_thread().name, str(error)))

    add.remote(1).add_done_callback(callback)
    name, text = told.result(WITHIN)
    assert name == "kubefunc-dispatcher"
    assert "callback" in text
    slow.cancel()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_exits_stops_no_other_call() -> None:
    """Whatever a callback raises, later calls end as they should."""
    with captured():
        call = add.remote(1)
        call.add_done_callback(lambda _: sys.exit("from a callback"))
        assert call.result(WITHIN) == 11
        assert add.remote(2).result(WITHIN) == 12


def test_a_result_that_is_not_there_in_time() -> None:
    """result(timeout=) raises the stdlib's error and stops nothing."""
    call = sleep.remote(1)
    with pytest.raises(concurrent.futures.TimeoutError):
        call.result(0.01)
    assert call.result(WITHIN) > 0


def test_threads_may_call_at_once() -> None:
    """Six threads, five calls each."""
    results: list[int] = []

    def work(base: int) -> None:
        results.extend(add.remote(base, number).result(WITHIN) for number in range(5))

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN)
    assert sorted(results) == sorted(100 * base + number for base in range(6) for number in range(5))


def test_ids_are_readable_and_unique() -> None:
    """The function's name and 80 bits of the hash of its key."""
    ids = {add.remote(1).id for _ in range(3)}
    assert len(ids) == 3
    assert all(re.fullmatch("add-[a-z2-7]{16}", each) for each in ids)


class Older:
    """The other order, which Python 3.13 has made useless."""

    @classmethod
    @remote
    def power(cls, x: int) -> int:
        """Bound before 3.13."""
        return 3**x


def test_remote_below_classmethod() -> None:
    """Works before Python 3.13; since then it is refused at once, with the order that works everywhere."""
    power: Any = Older.power
    if sys.version_info < (3, 13):
        assert power.remote(2).result(WITHIN) == 9
    else:
        with pytest.raises(errors.ConfigurationError, match="put @remote above @classmethod"):
            power.remote(2)


def test_a_class_method_has_the_class_that_it_was_asked_of() -> None:
    """A subclass, too; and options can be changed."""

    class Five(Scale):
        base = 5

    assert Five.power(2) == 25
    assert Five.power.remote(2).result(WITHIN) == 25
    assert Scale(1).power.options(retries=1).remote(2).result(WITHIN) == 9

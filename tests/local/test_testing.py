"""``kubefunc.testing``: calls in the test's own process, or on this machine; calls that fail."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kubefunc import Executor, attach, configure, current, errors, remote, testing
from kubefunc.session import session

SECONDS = 60


class Repeated:
    """Its square is large."""

    def __mul__(self, other: object) -> bytes:
        return b"x" * 1_000_000


class Shared:
    """Calls a function of this process: pickled, it is just a reference to it."""

    functions: ClassVar[dict[int, Callable[..., Any]]] = {}

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__name__ = "shared"
        self.key = id(function)
        self.functions[self.key] = function

    def __call__(self, *args: Any) -> Any:
        return self.functions[self.key](*args)


@remote
def square(x: Any) -> Any:
    """Something to call."""
    return x * x


@remote(retries=2, env={"MODE": "fast"})
def third_time() -> tuple[int, str | None, str | None]:
    """It succeeds in its last attempt."""
    if current.attempt() < 3:
        raise OSError(current.attempt())
    return current.attempt(), os.environ.get("MODE"), current.call_id()


@remote
async def later(x: int) -> int:
    """A coroutine function."""
    await asyncio.sleep(0)
    return x


# -- inline


def test_a_call_runs_in_this_process() -> None:
    """It has ended when ``.remote()`` returns, also where callbacks of other calls are still running."""
    resumed = threading.Event()

    def hold() -> None:
        resumed.wait(SECONDS)

    session().dispatcher.do(hold)
    try:
        with testing.inline():
            call = remote(os.getpid).remote()
            assert call.done()
            assert call.result() == os.getpid()
    finally:
        resumed.set()


def test_a_map_runs_in_this_process() -> None:
    """Each item by itself; one that fails leaves the others alone."""
    with testing.inline():
        results = square.map([1, "two", 3], return_exceptions=True).result()
    assert [results[0], results[2]] == [1, 9]
    assert isinstance(results[1], TypeError)


def test_a_map_that_fails_fast_runs_no_further_item_inline() -> None:
    """The items behind the failure are cancelled before they begin."""
    ran = []

    def inverse(n: int) -> float:
        ran.append(n)
        return 1 / n

    with testing.inline():
        started = remote(Shared(inverse)).map([1, 0, 2], fail_fast=True)
    with pytest.raises(ZeroDivisionError):
        started.result()
    assert ran == [1, 0]
    assert started.calls[2].cancelled()


def test_retries_and_env_work_inline_and_leave_nothing() -> None:
    """The function sees its call; afterwards this process's environment and sys.path are as before."""
    before = dict(os.environ), list(sys.path)
    with testing.inline():
        call = third_time.remote()
    assert call.result() == (3, "fast", call.id)
    assert (dict(os.environ), list(sys.path)) == before


def test_an_index_is_known_in_a_map_alone() -> None:
    """``current.index()``: of an item, and None in a call."""

    def index(_: int) -> int | None:
        return current.index()

    with testing.inline():
        assert remote(index).map([7, 7]).result() == [0, 1]
        assert remote(index).remote(7).result() is None


def test_what_cannot_travel_is_found_inline() -> None:
    """Arguments before the call, results after it: both are pickled as ever."""
    with testing.inline():
        with pytest.raises(errors.SerializationError, match="lock"):
            square.remote(threading.Lock())
        error = remote(lambda: threading.Lock()).remote().exception()
    assert isinstance(error, errors.SerializationError)


def test_arguments_are_copies_inline() -> None:
    """As in a Pod: what the function changes, it changes there."""

    def clear(values: list[int]) -> int:
        values.clear()
        return len(values)

    mine = [1, 2]
    with testing.inline():
        assert remote(clear).remote(mine).result() == 0
    assert mine == [1, 2]


def test_large_results_travel_inline() -> None:
    """Also those that go through a file."""
    with testing.inline():
        assert square.remote(10**5).result() == 10**10
        assert len(square.remote(Repeated()).result()) == 1_000_000


def test_async_functions_work_inline() -> None:
    """From plain code, and inside an event loop."""

    async def main() -> int:
        return await later.remote(2)

    with testing.inline():
        assert later.remote(1).result() == 1
        assert asyncio.run(main()) == 2


def test_an_executor_works_inline() -> None:
    """Its tasks run here, as calls."""
    with testing.inline(), Executor() as executor:
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
        assert executor.submit(os.getpid).result() == os.getpid()


def test_calls_of_threads_run_one_after_another_inline() -> None:
    """Each sees its own variables."""

    def mine(name: str) -> bool:
        return os.environ["NAME"] == name

    seen: list[bool] = []
    with testing.inline():
        threads = [
            threading.Thread(target=lambda n=str(n): seen.append(remote(env={"NAME": n})(mine).remote(n).result()))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == [True] * 8


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (lambda: square.options(detach=True).remote(1), "detach=True"),
        (lambda: attach("square-abc"), "attach"),
    ],
)
def test_what_inline_cannot_do_is_refused(what: Any, says: str) -> None:
    """What needs a call that goes on by itself."""
    with testing.inline(), pytest.raises(errors.ConfigurationError, match=says):
        what()


def test_a_nested_call_needs_an_account_inline_too() -> None:
    """As in a Pod, which has no credentials without one."""

    def outer(x: int) -> int:
        return square.remote(x).result() + 1  # type: ignore[no-any-return]

    with testing.inline():
        assert isinstance(remote(outer).remote(2).exception(), errors.NestedCallError)
        assert remote(service_account="kubefunc")(outer).remote(2).result() == 5


def test_async_functions_call_each_other_inline() -> None:
    """A call inside a call inside an event loop: no thread waits for another."""

    async def outer(x: int) -> int:
        return await later.remote(x) + later.remote(x).result()

    async def main() -> int:
        return await remote(service_account="kubefunc")(outer).remote(2)

    with testing.inline():
        assert asyncio.run(main()) == 4


def test_options_are_checked_inline() -> None:
    """As by configure()."""
    wrong: Any = {"tiemout": 1}
    with pytest.raises(errors.ConfigurationError, match="testing: there is no option 'tiemout'"):
        testing.inline(**wrong).__enter__()


# -- local


def test_local_needs_no_cluster_and_uses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is configured: each call has a process of its own."""
    monkeypatch.setenv("KUBEFUNC_BACKEND", "kubernetes")
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    with testing.local(timeout=SECONDS):
        assert remote(os.getpid).remote().result() != os.getpid()
        with testing.inline():
            assert remote(os.getpid).remote().result() == os.getpid()
        assert remote(os.getpid).remote().result() != os.getpid()


def test_local_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Unless it is asked to: a test's own output stays readable."""
    with testing.local():
        remote(print).remote("hidden").result(SECONDS)
    assert capfd.readouterr().err == ""
    with testing.local(verbose=True):
        remote(print).remote("shown").result(SECONDS)
    assert "shown" in capfd.readouterr().err


def test_defaults_of_the_program_come_back() -> None:
    """What configure() had set."""
    configure(backend="local", verbose=False, retries=1)
    try:
        with testing.inline(retries=2):
            assert third_time.options(env={"MODE": "slow"}).remote().result()[0] == 3
        attempts = remote(current.attempt).remote().result(SECONDS)
        assert attempts == 1
        with testing.inline():
            assert isinstance(remote(third_time.function).remote().exception(), OSError)
    finally:
        configure(verbose=True, retries=0)


# -- fail


@pytest.mark.parametrize("error", [errors.WorkerDiedError("killed by signal 11"), KeyError("no such station")])
def test_the_next_calls_fail_so(error: Exception) -> None:
    """With an error of kubefunc's, or one that the function might raise; those after them run."""
    with testing.inline(), testing.fail(square, error, times=2):
        ended = [square.remote(n).exception() for n in range(3)]
    assert [type(each) for each in ended] == [type(error), type(error), type(None)]
    assert str(ended[0]).startswith(str(error))


def test_other_functions_do_not_fail() -> None:
    """Only the one that was named, and only inside."""
    with testing.inline():
        with testing.fail(square, OSError(), times=9):
            assert later.remote(1).result() == 1
        assert square.remote(1).result() == 1


def test_items_of_a_map_fail() -> None:
    """The first ones; all of them, if there are not more."""
    with testing.inline():
        with testing.fail(square, errors.EvictedError("disk"), times=2):
            results = square.map(range(4), return_exceptions=True).result()
        assert [type(each) for each in results] == [errors.EvictedError, errors.EvictedError, int, int]
        with testing.fail(square, errors.EvictedError("disk"), times=2):
            results = square.map(range(2), return_exceptions=True).result()
        assert [type(each) for each in results] == [errors.EvictedError] * 2


def test_the_client_acts_on_an_injected_error() -> None:
    """Where there is a ceiling for memory, a further attempt gets more; it is the next that may fail."""
    big = square.options(memory=("1Gi", "4Gi"), retries=2)
    with testing.inline(), testing.fail(square, errors.PodLostError("the node is gone"), times=1):
        assert big.remote(3).result() == 9


def test_calls_fail_on_this_machine_too() -> None:
    """The same over processes, and for the tasks of an executor."""
    with testing.local(), testing.fail(square, errors.WorkerDiedError("killed"), times=1):
        assert isinstance(square.remote(1).exception(SECONDS), errors.WorkerDiedError)
        assert square.remote(2).result(SECONDS) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((len, OSError()), "is not remote"),
        ((square, OSError), "an instance"),
        ((square, OSError(), 0), "times=0"),
        ((square, OSError(), True), "times=True"),
    ],
)
def test_an_injection_that_makes_no_sense_is_refused(arguments: Any, says: str) -> None:
    """Each names the argument and what to give."""
    with pytest.raises(errors.ConfigurationError, match=says), testing.fail(*arguments):
        pass


# -- fixtures


def test_the_fixtures_work(tmp_path: Path, clean_env: dict[str, str]) -> None:
    """In a project of its own, with what a user would write."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["kubefunc.testing.fixtures"]\n')
    (tmp_path / "test_it.py").write_text(
        "import os\n"
        "from kubefunc import remote\n"
        "def test_inline(kubefunc_inline):\n"
        "    assert remote(os.getpid).remote().result() == os.getpid()\n"
        "def test_local(kubefunc_local):\n"
        "    assert remote(os.getpid).remote().result() != os.getpid()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ended = subprocess.run(command, env=clean_env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "2 passed" in ended.stdout, ended.stdout + ended.stderr

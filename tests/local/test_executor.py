"""kubefunc.Executor on this machine: what programs expect of a concurrent.futures.Executor."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kubefunc
from kubefunc import Executor, errors, remote
from tests.conftest import ROOT

SECONDS = 60


@pytest.fixture(autouse=True)
def here() -> Iterator[None]:
    """On this machine, silently."""
    kubefunc.configure(backend="local", verbose=False)
    yield
    kubefunc.configure(verbose=True)


def test_submit_and_map() -> None:
    """Functions and lambdas alike; results of map in order."""
    with Executor(2) as executor:
        assert executor.submit(pow, 2, 5).result(SECONDS) == 32
        assert executor.submit(lambda *, x: x + 1, x=1).result(SECONDS) == 2
        assert list(executor.map(lambda a, b: a * b, range(50), range(50))) == [n * n for n in range(50)]
        assert executor.submit(remote(len), "abc").result(SECONDS) == 3


def test_processes_are_persistent_and_no_more_than_asked_for() -> None:
    """Tasks share them."""
    with Executor(2) as executor:
        pids = set(executor.map(lambda _: os.getpid(), range(100)))
    assert len(pids) <= 2
    assert os.getpid() not in pids


def test_an_exception_is_the_tasks_own() -> None:
    """A task that fails disturbs no other; a process that dies neither."""

    def fails(how: str) -> str:
        if how == "raise":
            raise KeyError("mine")
        if how == "die":
            os._exit(3)
        return how

    with Executor(1) as executor:
        tasks = [executor.submit(fails, how) for how in ("a", "raise", "b", "die", "c")]
        assert isinstance(tasks[1].exception(SECONDS), KeyError)
        assert isinstance(tasks[3].exception(SECONDS), errors.WorkerDiedError)
        assert [tasks[n].result(SECONDS) for n in (0, 2, 4)] == ["a", "b", "c"]


def test_what_has_not_begun_can_be_cancelled() -> None:
    """What runs cannot, as the standard library has it."""
    with Executor(1) as executor:
        tasks = [executor.submit(time.sleep, 0.2) for _ in range(20)]
        assert tasks[-1].cancel()
        tasks[0].result(SECONDS)
        executor.shutdown(cancel_futures=True)
        assert all(task.done() for task in tasks)
        assert sum(task.cancelled() for task in tasks) > 2
        assert all(task.cancelled() or task.exception() is None for task in tasks)


def test_a_shutdown_takes_back_what_lies_ready_for_a_process() -> None:
    """It counted as begun, and nobody has begun it."""
    executor = Executor(2)
    tasks = [executor.submit(time.sleep, 1) for _ in range(8)]
    time.sleep(0.5)
    assert sum(task.running() for task in tasks) == 4
    executor.shutdown(cancel_futures=True)
    assert [task.cancelled() for task in tasks] == [False] * 2 + [True] * 6
    assert all(task.done() for task in tasks)


def test_an_initializer_that_cannot_be_sent_is_told_where_it_is_given() -> None:
    """With the path to the culprit; not by the first task."""
    with pytest.raises(errors.SerializationError, match=r"initargs\[0\]\['lock'\]"):
        Executor(2, initializer=print, initargs=({"lock": threading.Lock()},))


def test_a_task_has_begun_where_a_worker_is_free_for_it() -> None:
    """Also while that worker still starts: a shutdown that cancels leaves such a task its result."""
    executor = Executor(2)
    tasks = [executor.submit(pow, 2, n) for n in range(10)]
    assert [task.running() or task.done() for task in tasks[:2]] == [True, True]
    executor.shutdown(cancel_futures=True)
    assert [task.result(SECONDS) for task in tasks[:2]] == [1, 2]


def test_map_times_out_and_cancels_the_rest() -> None:
    """The timeout counts from the call of map."""
    with Executor(1) as executor:
        results = executor.map(time.sleep, [0, *[2] * 20], timeout=1)
        with pytest.raises(concurrent.futures.TimeoutError):
            list(results)
        started = time.monotonic()
    assert time.monotonic() - started < 20  # most of them were cancelled


def test_terminate_workers_ends_what_runs(tmp_path: Path) -> None:
    """Nothing is waited for: neither by shutdown() nor at exit. Tasks that had not begun are cancelled."""

    def begin_and_stay() -> None:
        (tmp_path / str(os.getpid())).touch()
        time.sleep(600)

    executor = Executor(2)
    tasks = [executor.submit(begin_and_stay) for _ in range(20)]
    while not list(tmp_path.iterdir()):
        time.sleep(0.01)
    executor.terminate_workers()
    concurrent.futures.wait(tasks, SECONDS)
    assert all(task.done() for task in tasks)
    assert any(task.cancelled() for task in tasks)
    with pytest.raises(concurrent.futures.CancelledError):
        tasks[0].result()
    executor.shutdown()
    while any(Path("/proc", process.name).exists() for process in tmp_path.iterdir()):
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(pow, 1, 1)


def test_results_of_a_map_are_their_takers_alone() -> None:
    """The iterator keeps none: a long map of large results takes no more memory than one of them."""
    import weakref

    with Executor(1) as executor:
        for result in executor.map(set, [[1], [2], [3]]):
            gone = weakref.ref(result)
            del result
            assert gone() is None


def test_at_exit_nothing_is_accepted(clean_env: dict[str, str]) -> None:
    """Not even by an executor that was never used before; with the standard library's words."""
    program = """
    import atexit
    atexit.register(lambda: executor.submit(pow, 1, 1))
    from kubefunc import Executor
    executor = Executor(1)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=clean_env, capture_output=True, text=True, timeout=SECONDS
    )
    assert "RuntimeError: cannot schedule new futures after interpreter shutdown" in result.stderr


def test_after_shutdown_nothing_is_accepted() -> None:
    """With the standard library's words."""
    executor = Executor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(pow, 1, 1)


def test_shutdown_waits_for_tasks_and_processes() -> None:
    """When it returns, all have ended."""
    executor = Executor(2)
    tasks = [executor.submit(os.getpid) for _ in range(4)]
    executor.shutdown()
    assert all(task.done() for task in tasks)
    assert not any(Path(f"/proc/{task.result()}/cmdline").exists() for task in tasks)


def test_a_late_shutdown_touches_no_file_opened_since(tmp_path: Path) -> None:
    """What woke the tasks' thread is closed, and the number of its descriptor is another's."""
    executor = Executor(1)
    executor.submit(os.getpid)
    executor.shutdown()
    files = [(tmp_path / str(n)).open("wb", buffering=0) for n in range(30)]
    executor.shutdown(cancel_futures=True)
    executor.terminate_workers()
    for file in files:
        file.close()
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [0] * 30


def test_the_initializer_runs_once_in_each_process() -> None:
    """Before its first task."""

    def initialize(where: str) -> None:
        sys.modules["prepared"] = type(sys)("prepared")
        sys.modules["prepared"].where = [*getattr(sys.modules["prepared"], "where", []), where]  # type: ignore[attr-defined]

    def prepared(_: int) -> object:
        return sys.modules["prepared"].where

    with Executor(2, initializer=initialize, initargs=("here",)) as executor:
        assert list(executor.map(prepared, range(10))) == [["here"]] * 10


def test_an_initializer_that_fails_breaks_the_executor() -> None:
    """Its tasks say why, and no further one is accepted."""

    def initialize() -> None:
        raise OSError("no licence")

    with Executor(1, initializer=initialize) as executor:
        with pytest.raises(concurrent.futures.BrokenExecutor, match="no licence") as raised:
            executor.submit(pow, 1, 1).result(SECONDS)
        assert isinstance(raised.value.__cause__, OSError)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            executor.submit(pow, 1, 1)


EDITING = """
import importlib, os, pathlib, sys, time
from concurrent.futures import wait
import kubefunc
pathlib.Path("job").mkdir()
pathlib.Path("job/__init__.py").write_text("")
pathlib.Path("job/inner.py").write_text("VALUE = 'old'\\n")
pathlib.Path("job/tasks.py").write_text(
    "import os, time\\ndef value(_=0):\\n    from job import inner\\n    return inner.VALUE, os.getpid()\\n"
    "def slow(_=0):\\n    time.sleep(1)\\n    return value()\\n"
)
sys.path.insert(0, os.getcwd())
from job import tasks
executor = kubefunc.Executor(1, verbose=False)
first, pid = executor.submit(tasks.value).result(30)
assert first == "old"
assert executor.submit(tasks.value).result(30) == ("old", pid)
pathlib.Path("job/data.txt").write_text("no code")
time.sleep(0.3)
assert executor.submit(tasks.value).result(30) == ("old", pid)
before = executor.submit(tasks.slow)
pathlib.Path("job/inner.py").write_text("VALUE = 'edited'\\n")
HOW
now, other = executor.submit(tasks.value).result(30)
assert (now, other != pid) == ("edited", True), (now, other, pid)
assert list(executor.map(tasks.value, [1, 2])) == [("edited", other)] * 2
assert before.result(30)[1] == pid
executor.shutdown()
for each in (pid, other):
    try:
        os.kill(each, 0)
    except ProcessLookupError:
        continue
    raise SystemExit("a process is left")
print("ok")
"""


@pytest.mark.parametrize("how", ["time.sleep(0.3)", "import job.inner; importlib.reload(job.inner)"])
def test_tasks_run_the_code_as_it_is_when_they_are_submitted(
    how: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    """An edited module of a notebook's session is not the one that a process of before has loaded."""
    (tmp_path / "program.py").write_text(EDITING.replace("HOW", how))
    done = subprocess.run(
        [sys.executable, "program.py"],
        env={**clean_env, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "ok\n", done.stderr
    assert done.stderr.count("job/inner.py has changed: the Executor's next tasks run in new processes") == 1


def test_options_apply_to_all_tasks() -> None:
    """As for @remote: here the environment, and new attempts."""

    def attempt() -> tuple[str, str]:
        if os.environ["KUBEFUNC_ATTEMPT"] == "1":
            raise OSError("first try")
        return os.environ["GIVEN"], os.environ["KUBEFUNC_ATTEMPT"]

    with Executor(1, env={"GIVEN": "x"}, retries=1) as executor:
        assert executor.submit(attempt).result(SECONDS) == ("x", "2")


def test_bad_arguments_are_refused_at_once() -> None:
    """The standard library's errors for its own parameters, ours for ours."""
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        Executor(0)
    with pytest.raises(TypeError, match="initializer must be a callable"):
        Executor(initializer=1)  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigurationError, match="there is no option 'memmory'"):
        Executor(memmory="1Gi")  # type: ignore[call-arg]
    with Executor(1) as executor:
        with pytest.raises(errors.SerializationError, match=r"args\[0\] is of type _thread\.lock"):
            executor.submit(id, threading.Lock())
        with pytest.raises(ValueError, match="chunksize must be >= 1"):
            executor.map(id, [1], chunksize=0)


def test_an_event_loop_runs_functions_in_it() -> None:
    """loop.run_in_executor, the loop stays free meanwhile."""

    async def program() -> list[int]:
        loop = asyncio.get_running_loop()
        with Executor(2) as executor:
            return await asyncio.gather(*(loop.run_in_executor(executor, pow, n, 2) for n in range(5)))

    assert asyncio.run(program()) == [0, 1, 4, 9, 16]


def test_exit_waits_for_tasks(tmp_path: Path, clean_env: dict[str, str]) -> None:
    """As with the standard library's executors: a program that ends without shutdown() loses nothing."""
    program = """
        import time
        from pathlib import Path
        import kubefunc
        kubefunc.configure(backend="local", verbose=False)

        def task(n):
            time.sleep(0.2)
            Path(f"done.{n}").touch()

        executor = kubefunc.Executor(1)
        for n in range(4):
            executor.submit(task, n)
    """
    env = {**clean_env, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, env=env, timeout=SECONDS, check=True)
    assert sorted(file.name for file in tmp_path.glob("done.*")) == [f"done.{n}" for n in range(4)]


def test_inside_a_call_it_is_refused() -> None:
    """As f.remote() is."""

    def nests() -> object:
        return Executor(1).submit(pow, 1, 1)

    with Executor(1) as executor, pytest.raises(errors.NestedCallError):
        executor.submit(nests).result(SECONDS)

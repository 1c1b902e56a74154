"""Maps on this machine: workers take item after item; what fails, fails alone; nothing outlives the client."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import kubefunc
from kubefunc import current, errors, remote
from kubefunc.backends.local.workers import Seat
from kubefunc.function import RemoteFunction
from tests.conftest import ROOT
from tests.local.work import Frozen, LooksWrong

SECONDS = 60  # that anything here may take on a loaded machine


@pytest.fixture(autouse=True)
def here() -> Iterator[None]:
    """On this machine, silently."""
    kubefunc.configure(backend="local", verbose=False)
    yield
    kubefunc.configure(verbose=True)


def mapped(function: Callable[..., Any], **options: Any) -> RemoteFunction[..., Any]:
    """A function of this file, by value: workers need not import it."""
    return remote(**options)(function) if options else remote(function)


def test_results_are_in_order_and_a_worker_runs_many_items() -> None:
    """Processes are persistent: there are far fewer of them than items."""

    def square(x: int) -> tuple[int, int]:
        return x * x, os.getpid()

    results = mapped(square).map(range(200)).result(SECONDS)
    assert [value for value, _ in results] == [n * n for n in range(200)]
    pids = {pid for _, pid in results}
    assert os.getpid() not in pids
    assert len(pids) <= len(os.sched_getaffinity(0))


def test_max_parallelism_caps_the_workers() -> None:
    """One worker, if no more are wanted."""

    def where(x: int) -> int:
        return os.getpid()

    assert len(set(mapped(where).map(range(20), max_parallelism=1))) == 1


def test_several_iterables_shared_keywords_and_tuples() -> None:
    """As the builtin's map and itertools' starmap."""

    def power(base: int, exponent: int, *, plus: int = 0) -> int:
        return base**exponent + plus

    assert list(mapped(power).map([2, 3], [3, 2], kwargs={"plus": 1})) == [9, 10]
    assert list(mapped(power).starmap([(2, 5), (3, 3)])) == [32, 27]


def test_async_functions_run_to_completion() -> None:
    """Each item has its own loop."""

    async def double(x: int) -> int:
        return 2 * x

    assert list(mapped(double).map(range(3))) == [0, 2, 4]


def test_large_arguments_and_results() -> None:
    """Whatever their size; what is small goes another way than what is large."""

    def echo(data: bytes) -> bytes:
        return data

    sizes = [0, 1, 65_000, 65_537, 300_000, 5_000_000]
    values = [os.urandom(size) for size in sizes]
    assert list(mapped(echo).map(values)) == values


def test_what_fails_fails_alone() -> None:
    """An exception, an exit, a crash, a value that cannot be pickled: each costs its item only."""

    def fails(how: str) -> object:
        if how == "raise":
            raise KeyError("mine")
        if how == "exit":
            sys.exit(3)
        if how == "die":
            os._exit(7)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "lock":
            return threading.Lock()
        return how

    hows = ["a", "raise", "b", "exit", "c", "die", "d", "kill", "e", "lock", "f"]
    got = mapped(fails).map(hows, return_exceptions=True).result(SECONDS)
    kinds = [each if isinstance(each, str) else type(each).__name__ for each in got]
    assert kinds == [
        *("a", "KeyError", "b", "RemoteExitError", "c", "WorkerDiedError", "d", "WorkerDiedError", "e"),
        *("SerializationError", "f"),
    ]
    died = got[5]
    assert isinstance(died, errors.WorkerDiedError)
    assert died.exit_code == 7
    assert isinstance(got[7], errors.WorkerDiedError)
    assert got[7].signal == signal.SIGKILL


def test_exceptions_that_are_hard_to_look_at_cost_their_item_only() -> None:
    """A frozen one, one that is false, one that raises whatever it is asked: in maps and executors."""

    def fails(kind: type[BaseException]) -> None:
        raise kind("x")

    kinds = [Frozen, LooksWrong, KeyError]
    got = mapped(fails).map([*kinds, KeyboardInterrupt], return_exceptions=True).result(SECONDS)
    assert list(map(type, got)) == [*kinds, errors.RemoteExitError]
    with kubefunc.Executor(1) as executor:
        futures = [executor.submit(fails, kind) for kind in kinds]
        for kind, future in zip(kinds, futures, strict=True):
            with pytest.raises(kind):
                future.result(SECONDS)


def test_an_item_that_fails_is_tried_again_while_others_run(tmp_path: Path) -> None:
    """retries count for each item; deaths count too; no worker waits for the back-off."""

    def sometimes(n: int, place: str) -> str:
        mark = Path(place, str(n))
        first = not mark.exists()
        mark.touch()
        if first and n == 1:
            raise OSError("first try")
        if first and n == 2:
            os._exit(1)
        return os.environ["KUBEFUNC_ATTEMPT"]

    got = mapped(sometimes, retries=1).map(range(6), kwargs={"place": str(tmp_path)})
    assert got.result(SECONDS) == ["1", "2", "2", "1", "1", "1"]
    assert got.calls[1].stats.attempts == 2


def test_only_the_exceptions_named_are_tried_again(tmp_path: Path) -> None:
    """As for a call."""

    def counts(place: str) -> None:
        with open(place, "a") as file:
            file.write(".")
        raise ValueError

    place = tmp_path / "tries"
    got = mapped(counts, retries=3, retry_exceptions=KeyError).map([str(place)], return_exceptions=True).result(SECONDS)
    assert isinstance(got[0], ValueError)
    assert place.read_text() == "."


def test_an_item_that_says_do_not_retry_is_final() -> None:
    """It ends in its first attempt; another goes on to its last."""

    def fails(final: bool) -> None:
        raise errors.DoNotRetry(current.attempt()) if final else OSError(current.attempt())

    got = mapped(fails, retries=1).map([True, False], return_exceptions=True).result(SECONDS)
    assert [each.args for each in got] == [(1,), (2,)]


def test_the_timeout_is_each_items_own() -> None:
    """An item that takes too long is stopped, with its stacks; the others have all their time."""

    def naps(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    got = mapped(naps, timeout=1.0).map([0.0, 600.0, 0.1, 0.2], return_exceptions=True).result(SECONDS)
    assert [got[0], *got[2:]] == [0.0, 0.1, 0.2]
    assert isinstance(got[1], errors.CallTimeoutError)
    assert "in naps" in str(got[1])


def test_a_slow_item_holds_nothing_back() -> None:
    """Whoever is free takes the next; results appear while the slow one runs."""

    def naps(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    started = mapped(naps).map([5.0, *[0.0] * 50], max_parallelism=2)
    pairs = started.as_completed()
    first = [next(pairs)[0] for _ in range(50)] if len(os.sched_getaffinity(0)) > 1 else []
    assert 0 not in first
    assert started.progress.running <= 1
    started.cancel()


def test_a_function_that_does_not_load_fails_every_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own reason, once, instead of for ever."""
    (tmp_path / "only_here.py").write_text(
        "import os\nif 'WORKS' not in os.environ: raise ImportError('not there')\ndef f(x): return x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("WORKS", "1")
    only_here: Any = __import__("only_here")
    monkeypatch.delenv("WORKS")
    got = remote(only_here.f).map(range(5), return_exceptions=True).result(SECONDS)
    assert {type(each) for each in got} == {errors.SerializationError}
    assert isinstance(got[0].__cause__, ImportError)


def test_what_items_print_is_theirs() -> None:
    """It arrives while they run, and is kept for each of them, even where many run in one process."""

    def prints(n: int) -> None:
        print("item", n)
        os.write(1, b"and more\n")

    done = mapped(prints).map(range(10))
    done.result(SECONDS)
    assert [call.logs() for call in done.calls] == [f"item {n}\nand more\n" for n in range(10)]
    assert done.logs() == "".join(f"item {n}\nand more\n" for n in range(10))


def test_surroundings_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory, the environment and sys.path are the caller's, and what the options say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINE", "1")
    monkeypatch.syspath_prepend("/somewhere/else")

    def surroundings(_: int) -> tuple[object, ...]:
        return os.getcwd(), os.environ["MINE"], os.environ["GIVEN"], "/somewhere/else" in sys.path

    got = mapped(surroundings, env={"GIVEN": "2"}).map([1])
    assert list(got) == [(str(tmp_path), "1", "2", True)]


def test_an_item_knows_its_place() -> None:
    """The map's id, its own index, and which attempt this is."""

    def place(_: int) -> tuple[object, ...]:
        return kubefunc.current.call_id(), kubefunc.current.index(), kubefunc.current.attempt()

    done = mapped(place).map("ab")
    assert list(done) == [(done.id, 0, 1), (done.id, 1, 1)]
    assert kubefunc.current.index() is None


def test_items_of_this_machine_are_never_those_of_a_replaced_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """``current.disruptions()`` is 0, also where the caller itself is a Pod that replaces others."""
    monkeypatch.setenv("KUBEFUNC_DISRUPTIONS", "3")
    assert remote(lambda _: kubefunc.current.disruptions()).map([1, 2]).result(60) == [0, 0]


def test_a_map_in_a_map_is_refused() -> None:
    """As a nested call is, with the ways out."""

    def nests(x: int) -> object:
        return list(remote(len).map(["a"]))

    got = mapped(nests).map([1], return_exceptions=True).result(SECONDS)
    assert isinstance(got[0], errors.NestedCallError)


def test_cancel_stops_what_runs() -> None:
    """The workers end, SIGTERM first; what is there stays."""

    def naps(seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    started = mapped(naps).map([0.0, 600.0, 600.0, 600.0])
    pid = next(iter(started))
    assert started.cancel()
    assert not _lives_on(pid)
    with pytest.raises(concurrent.futures.CancelledError):
        started.result(SECONDS)


def test_fail_fast_ends_what_runs_and_what_waits(tmp_path: Path) -> None:
    """The failure is raised at once, though items before it are not done; their processes end."""
    begun = tmp_path / "begun"

    def fails_or_naps(number: int) -> None:
        if number == 0:
            begun.write_text(str(os.getpid()))
            time.sleep(600)
        while not begun.exists() or not begun.read_text():
            time.sleep(0.01)
        raise LookupError(number)

    started = mapped(fails_or_naps).map(range(6), fail_fast=True, max_parallelism=2)
    with pytest.raises(LookupError) as failure:
        started.result(SECONDS)
    assert failure.value.args == (started.progress.stopped_by,)
    assert started.calls[0].cancelled()
    assert not _lives_on(int(begun.read_text()))
    assert started.progress.ended == 6


def test_fail_fast_waits_for_the_retries_of_an_item(tmp_path: Path) -> None:
    """An attempt that fails is no failure of the item."""

    def second_time(number: int) -> int:
        if current.attempt() == 1:
            raise LookupError(number)
        return number

    assert mapped(second_time, retries=1).map(range(3), fail_fast=True).result(SECONDS) == [0, 1, 2]


def test_futures_of_a_map_work_with_the_standard_library() -> None:
    """as_completed and callbacks, as for calls."""

    def square(x: int) -> int:
        return x * x

    done = concurrent.futures.as_completed(mapped(square).map(range(20)).calls, timeout=SECONDS)
    assert sorted(call.result() for call in done) == [n * n for n in range(20)]


def test_retry_failed_runs_what_failed_again(tmp_path: Path) -> None:
    """What succeeded is not run twice."""

    def once(n: int, place: str) -> int:
        with open(Path(place, f"tries.{n}"), "a") as file:
            file.write(".")
        if n == 1 and not Path(place, "repaired").exists():
            raise OSError("not yet")
        return n

    done = mapped(once).map(range(3), kwargs={"place": str(tmp_path)})
    with pytest.raises(OSError, match="not yet"):
        done.result(SECONDS)
    (tmp_path / "repaired").touch()
    assert done.retry_failed().result(SECONDS) == [0, 1, 2]
    assert [(tmp_path / f"tries.{n}").read_text() for n in range(3)] == [".", "..", "."]


def test_exit_handlers_of_workers_run(tmp_path: Path) -> None:
    """When no items are left, a worker ends as a program does."""

    def registers(place: str) -> None:
        import atexit

        atexit.register(lambda: Path(place).touch())

    place = tmp_path / "ended"
    mapped(registers).map([str(place)]).result(SECONDS)
    assert _soon(place.exists)


def test_what_needs_a_cluster_is_refused() -> None:
    """Nothing on this machine outlives the program."""
    with pytest.raises(errors.ConfigurationError, match="detach=True needs a cluster"):
        mapped(len, detach=True).map(["a"])
    with pytest.raises(errors.ConfigurationError, match="needs a cluster"):
        kubefunc.attach_map("train-x7k2p5qax7k2p5qa")


PROGRAM = """
    import os, signal, subprocess, sys, time
    import kubefunc
    from kubefunc import remote
    kubefunc.configure(backend="local", verbose=False)

    @remote
    def naps(n):
        child = subprocess.Popen(["sleep", "600"])
        with open(f"pids.{n}", "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
        time.sleep(600)

    started = naps.map(range(2))
    while not all(os.path.exists(f"pids.{n}") and open(f"pids.{n}").read().count(" ") for n in range(WORKERS)):
        time.sleep(0.01)
    END
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(0)", "raise KeyboardInterrupt"])
def test_nothing_outlives_the_client(end: str, tmp_path: Path, clean_env: dict[str, str]) -> None:
    """However it ends: the workers go, and what they have started."""
    workers = min(2, len(os.sched_getaffinity(0)))
    program = textwrap.dedent(PROGRAM).replace("END", end).replace("WORKERS", str(workers))
    env = {**clean_env, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, timeout=SECONDS, check=False, stderr=subprocess.DEVNULL
    )
    pids = [int(pid) for n in range(workers) for pid in (tmp_path / f"pids.{n}").read_text().split()]
    assert not any(_lives_on(pid) for pid in pids)


def test_a_killed_pool_is_replaced(tmp_path: Path) -> None:
    """Its workers die with it; items that had not begun run all the same."""

    def kills_its_pool(n: int, place: str) -> int:
        mark = Path(place, "killed")
        if n == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        return n

    got = mapped(kills_its_pool, retries=1).map(range(10), kwargs={"place": str(tmp_path)})
    assert got.result(SECONDS) == list(range(10))


def test_descriptors_of_a_worker_are_closed_once() -> None:
    """A child that is forked while its parent closes them closes them too: by then a number may be another file's."""
    ours, theirs = socket.socketpair()
    output, output_end = os.pipe()
    seat = Seat(0, ours, output)
    seat.close()
    taken = [os.dup(theirs.fileno()) for _ in range(10)]
    assert output in taken
    seat.close()
    for descriptor in [*taken, output_end]:
        os.close(descriptor)  # none of them is closed yet
    theirs.close()


def _soon(true: Callable[[], bool]) -> bool:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.01)
    return False


def _lives_on(pid: int) -> bool:
    """Whether the process is still there after a while."""
    return not _soon(lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_retry_of_an_item_is_announced() -> None:
    """Among what the item printed, by one line that names it."""

    def fail_once(number: int) -> int:
        if number == 1 and current.attempt() == 1:
            raise LookupError("not yet")
        return number

    call = remote(fail_once, retries=1).map([0, 1])
    assert list(call) == [0, 1]
    assert f"kubefunc: {call.id}[1]: attempt 2 of 2 after LookupError: not yet\n" in call.logs()

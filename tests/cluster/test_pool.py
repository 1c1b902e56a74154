"""Warm workers on a real cluster: quick calls, and whatever may happen to a worker."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from kubefunc import Executor, Pool, current, errors, remote
from kubefunc.backends.kubernetes.warm import open_stream
from kubefunc.handles.call import Call
from tests.cluster.conftest import fresh_session
from tests.cluster.proxy import Proxy
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left, until_running

WAIT = 90
SILENCE = 12.0  # seconds, in place of 35; a worker says each 10 s that it is there


@pytest.fixture
def pool(calling: Space) -> Iterator[Pool]:
    """Two workers at most, in a namespace of this test's own; nothing of them stays."""
    with Pool(max_workers=2) as made:
        yield made
    nothing_left(calling)


def pods_of(space: Space) -> list[str]:
    """The Pods that are not about to go."""
    return [pod["metadata"]["name"] for pod in space.admin.get("pods") if "deletionTimestamp" not in pod["metadata"]]


def where(pool: Pool) -> Call[Any]:
    """A call that says which Pod it runs in."""
    return remote(pool=pool)(lambda: (platform.node(), os.getpid())).remote()


def test_calls_follow_each_other_in_one_pod(calling: Space, pool: Pool) -> None:
    """The first starts it; each has a process of its own, with the options that calls have."""
    first, *others = [where(pool).result(WAIT) for _ in range(5)]
    assert {pod for pod, _ in others} == {first[0]}
    assert len({pid for _, pid in [first, *others]}) == 5
    assert pods_of(calling) == [first[0]]
    assert pool.workers == 1

    @remote(pool=pool, retries=1)
    def again(text: str) -> tuple[str, int, str | None]:
        print("printed", text)
        if current.attempt() == 1:
            raise LookupError(text)
        return text, current.attempt(), current.call_id()

    call = again.remote("it")
    assert call.result(WAIT) == ("it", 2, call.id)
    assert call.logs().splitlines()[:1] == ["printed it"]
    assert call.stats.pod == first[0]


def test_errors_are_those_of_a_job(pool: Pool) -> None:
    """Exceptions, deaths and timeouts; each leaves its worker as it was."""

    @remote(pool=pool)
    def fail(how: str) -> object:
        if how == "raise":
            raise KeyError("mine")
        if how == "die":
            os._exit(3)
        if how == "lock":
            return threading.Lock()
        time.sleep(600)
        return None

    raised, died, lock = [fail.remote(how).exception(WAIT) for how in ("raise", "die", "lock")]
    late = fail.options(timeout=1.0).remote("sleep").exception(WAIT)
    assert isinstance(raised, KeyError)
    assert isinstance(died, errors.WorkerDiedError)
    assert died.exit_code == 3
    assert isinstance(lock, errors.SerializationError)
    assert isinstance(late, errors.CallTimeoutError)
    assert "in fail" in str(late)
    assert pool.workers == 1


def test_out_of_memory_ends_the_call_alone(pool: Pool) -> None:
    """Where the kernel kills the process and not the container (cgroup v1); a ceiling leads to a larger worker."""

    @remote(pool=pool, memory=("128Mi", "512Mi"), retries=2)
    def eat(megabytes: int) -> int:
        return len(b"x" * (megabytes << 20))

    assert eat.remote(200).result(WAIT) == 200 << 20
    error = eat.options(memory="128Mi", retries=0).remote(200).exception(WAIT)
    assert isinstance(error, errors.OutOfMemoryError)


def test_a_map_is_spread_over_the_workers(calling: Space, pool: Pool) -> None:
    """In order, each item in its own process; large values go both ways."""

    @remote(pool=pool)
    def item(number: int, data: bytes) -> tuple[int, int | None, str, bytes]:
        time.sleep(0.2)
        return number, current.index(), platform.node(), data

    data = os.urandom(500_000)
    results = item.starmap([(n, data) for n in range(20)]).result(WAIT)
    assert [(number, index) for number, index, _, _ in results] == [(n, n) for n in range(20)]
    assert {answer for _, _, _, answer in results} == {data}
    assert sorted({node for _, _, node, _ in results}) == sorted(pods_of(calling))
    assert pool.workers == 2
    failures = remote(pool=pool)(lambda n: 1 // (n - 1)).map(range(3), return_exceptions=True).result(WAIT)
    assert [type(each) for each in failures] == [int, ZeroDivisionError, int]


def test_a_call_that_is_cancelled_ends_and_its_worker_stays(pool: Pool) -> None:
    """The process dies, the Pod takes the next call. One that waits is never begun."""
    sleeper = remote(pool=pool)(time.sleep)
    one, two, three = [sleeper.remote(600) for _ in range(3)]
    until_running(one)
    until_running(two)
    for call in (three, one, two):
        assert call.cancel()
    assert isinstance(where(pool).result(WAIT)[0], str)
    assert pool.workers == 2


def test_executors_and_coroutines_use_a_pool(calling: Space, pool: Pool) -> None:
    """The same option, wherever options go."""
    with Executor(2, pool=pool) as executor:
        pods = {executor.submit(platform.node).result(WAIT) for _ in range(3)}
        assert list(executor.map(abs, [-1, -2])) == [1, 2]
    assert pods <= set(pods_of(calling))

    async def main() -> list[int]:
        double = remote(pool=pool)(lambda n: 2 * n)
        return list(await asyncio.gather(*(double.remote(n) for n in range(5))))

    assert asyncio.run(main()) == [0, 2, 4, 6, 8]


def test_tasks_of_an_executor_share_a_process_of_each_worker(calling: Space, pool: Pool) -> None:
    """It is prepared once, also where tasks have different functions; one whose process dies is alone."""

    def prepare(number: int) -> None:
        sys.__dict__.setdefault("_prepared_by_test", []).append(number)

    def at() -> tuple[str, int, list[int]]:
        return platform.node(), os.getpid(), sys.__dict__["_prepared_by_test"]

    def square(number: int) -> int:
        return number**2

    with Executor(pool=pool, initializer=prepare, initargs=(7,)) as executor:
        tasks = [executor.submit(at) for _ in range(50)]
        squares = [executor.submit(square, number) for number in range(50)]
        assert [task.result(WAIT) for task in squares] == [number**2 for number in range(50)]
        found = [task.result(WAIT) for task in tasks]
        assert all(prepared == [7] for *_, prepared in found)
        assert len({(pod, process) for pod, process, _ in found}) <= 2
        lost, fine = executor.submit(os._exit, 3), executor.submit(square, 3)
        assert isinstance(lost.exception(WAIT), errors.WorkerDiedError)
        assert fine.result(WAIT) == 9
        broken = executor.submit(square, "no number")  # type: ignore[arg-type]
        assert isinstance(broken.exception(WAIT), TypeError)


def test_tasks_that_wait_are_cancelled_and_others_end(calling: Space) -> None:
    """``max_workers`` says how many run at once; shutdown() takes back what has not begun."""
    with Pool(max_workers=2) as pool:
        executor = Executor(1, pool=pool)
        running, waiting, last = (executor.submit(time.sleep, seconds) for seconds in (3, 0, 0))
        eventually(running.running, WAIT)
        assert waiting.cancel()
        assert not running.cancel()
        executor.shutdown(cancel_futures=True)
        assert last.cancelled()
        assert running.result(WAIT) is None
        with Executor(1, pool=pool) as one:
            first, second, third = (one.submit(time.sleep, seconds) for seconds in (1, 0, 0))
            second.cancel()
            assert (first.result(WAIT), third.result(WAIT)) == (None, None)
        stopped = Executor(pool=pool)
        endless = stopped.submit(time.sleep, 600)
        eventually(endless.running, WAIT)
        stopped.terminate_workers()
        with pytest.raises(CancelledError):
            endless.result(WAIT)
        assert where(pool).result(WAIT)
    nothing_left(calling)


def test_a_task_whose_worker_is_lost_runs_again(calling: Space, pool: Pool) -> None:
    """As a call does: that counts as a disruption."""
    with Executor(1, pool=pool) as executor:
        executor.submit(int).result(WAIT)
        task = executor.submit(time.sleep, 4)
        eventually(task.running, WAIT)
        calling.admin.delete("pods", *pods_of(calling))
        assert task.result(WAIT) is None


# -- what may happen to a worker


def test_a_deleted_pod_is_replaced_and_its_call_runs_again(calling: Space, pool: Pool) -> None:
    """That counts as a disruption; the Job controller makes the new Pod."""

    @remote(pool=pool)
    def patient(seconds: float) -> tuple[int, str]:
        time.sleep(0.0 if current.disruptions() else seconds)
        return current.disruptions(), platform.node()

    call = patient.remote(600.0)
    until_running(call)
    (pod,) = pods_of(calling)
    calling.admin.run("delete", "pod", pod, "--grace-period=1")
    disruptions, now = call.result(WAIT)
    assert disruptions == 1
    assert now != pod


def test_a_deleted_job_is_no_end(calling: Space, pool: Pool) -> None:
    """Another worker takes over."""
    where(pool).result(WAIT)
    calling.admin.run("delete", "jobs", "--all", "--cascade=foreground")
    assert where(pool).result(WAIT)


def test_a_stream_that_breaks_costs_no_call(calling: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call goes on meanwhile; what it printed and its outcome come over the next stream, each once."""
    proxy = Proxy(calling.kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(proxy.kubeconfig(tmp_path / "proxied.kubeconfig")))
    proxy.cuts.extend((500, 600, 400))
    try:
        with fresh_session(), Pool(max_workers=1) as pool:

            @remote(pool=pool, verbose=False)
            def slowly(lines: int) -> tuple[int, int]:
                for number in range(lines):
                    print(f"line {number}", flush=True)
                    time.sleep(0.05)
                return current.attempt(), current.disruptions()

            call = slowly.remote(60)
            assert call.result(WAIT) == (1, 0)
            assert call.logs().splitlines() == [f"line {number}" for number in range(60)]
            assert proxy.execs >= 4
    finally:
        proxy.close()


def test_a_connection_that_is_half_open_costs_no_call(
    calling: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the call that runs nor one that was sent into nowhere; each runs once, and what it prints comes once."""
    monkeypatch.setattr(open_stream, "SILENCE", SILENCE)
    proxy = Proxy(calling.kubeconfig)
    monkeypatch.setenv("KUBECONFIG", str(proxy.kubeconfig(tmp_path / "proxied.kubeconfig")))
    try:
        with fresh_session(), Pool(max_workers=1) as pool:

            @remote(pool=pool, verbose=False)
            def counted(lines: int) -> tuple[int, int, int]:
                for number in range(lines):
                    print(f"line {number}", flush=True)
                    time.sleep(0.5)
                with open("/tmp/runs", "a+") as file:
                    file.write("once")
                    file.seek(0)
                    return current.attempt(), current.disruptions(), len(file.read()) // len("once")

            running = counted.remote(20)
            eventually(lambda: "line 2" in running.logs(), WAIT, "output")
            proxy.lost = proxy.execs
            assert running.result(WAIT) == (1, 0, 1)
            assert running.logs().splitlines() == [f"line {number}" for number in range(20)]
            assert proxy.execs > proxy.lost
            proxy.lost = proxy.execs
            assert counted.remote(0).result(WAIT) == (1, 0, 2)
            assert proxy.execs > proxy.lost
    finally:
        proxy.close()


def test_an_idle_worker_ends(calling: Space) -> None:
    """After its time without a call; the next call starts another."""
    with Pool(idle_timeout=2.0) as pool:
        first, _ = where(pool).result(WAIT)
        eventually(lambda: pool.workers == 0, what="the worker to end")
        eventually(lambda: pods_of(calling) == [], what="its Pod to go")
        second, _ = where(pool).result(WAIT)
        assert first != second
    nothing_left(calling)


def test_a_pool_that_was_closed_can_be_used_again(calling: Space) -> None:
    """Closing ends the workers that there are, and fails what runs on them."""
    pool = Pool()
    running = remote(pool=pool)(time.sleep).remote(600)
    until_running(running)
    pool.close()
    assert isinstance(running.exception(WAIT), errors.WorkerDiedError)
    assert where(pool).result(WAIT)
    pool.close()
    nothing_left(calling)


# -- what cannot work


def test_a_worker_that_cannot_start_is_explained(pool: Pool) -> None:
    """By the error that a Job of such a function gets, for each call that waits."""
    calls = [remote(pool=pool, image="nowhere.invalid/none:1")(abs).remote(-1) for _ in range(3)]
    assert {type(call.exception(WAIT)) for call in calls} == {errors.ImagePullError}


def test_a_module_that_cannot_be_preloaded_is_named(calling: Space) -> None:
    """Once, by the first worker; no further ones are started."""
    with Pool(preload=["no_such_module"]) as pool:
        error = remote(pool=pool)(abs).remote(-1).exception(WAIT)
    assert isinstance(error, errors.PodStartError)
    assert "no_such_module" in str(error)
    assert "preload=" in str(error)
    nothing_left(calling)


def test_pools_need_exec(calling: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the permission the error names it."""
    monkeypatch.setenv("KUBECONFIG", str(calling.without("pods/exec")))
    with fresh_session(), Pool() as pool:
        error = remote(pool=pool)(abs).remote(-1).exception(WAIT)
    assert isinstance(error, errors.PermissionDeniedError)
    assert "pods/exec" in str(error)


def test_a_pool_detaches_nothing(pool: Pool) -> None:
    """A Job is right for that."""
    with pytest.raises(errors.ConfigurationError, match="detach=True does not go with pool="):
        remote(pool=pool, detach=True)(abs).remote(-1)


# -- processes that stay


def test_with_fresh_false_one_process_keeps_going(calling: Space) -> None:
    """Calls find what earlier ones loaded; errors, output, timeouts and cancelling are those of any call."""
    with Pool(max_workers=1, fresh=False) as pool:

        @remote(pool=pool)
        def step(how: str) -> tuple[int, int]:
            import json

            json.calls = getattr(json, "calls", 0) + 1  # type: ignore[attr-defined]
            print("step", how)
            if how == "raise":
                raise KeyError(how)
            if how == "sleep":
                time.sleep(600)
            if how == "die":
                os._exit(3)
            return os.getpid(), json.calls  # type: ignore[attr-defined]

        first, second = step.remote("a"), step.remote("b")
        assert [call.result(WAIT)[1] for call in (first, second)] == [1, 2]
        assert first.result()[0] == second.result()[0]
        assert second.logs() == "step b\n"
        assert isinstance(step.remote("raise").exception(WAIT), KeyError)
        assert step.remote("c").result(WAIT)[1] == 4
        died = step.remote("die").exception(WAIT)
        assert isinstance(died, errors.WorkerDiedError)
        assert step.remote("d").result(WAIT)[1] == 1
        late = step.options(timeout=1.0).remote("sleep").exception(WAIT)
        assert isinstance(late, errors.CallTimeoutError)
        assert "in step" in str(late)
        running = step.remote("sleep")
        until_running(running)
        running.cancel()
        assert step.remote("e").result(WAIT)[1] == 1
    nothing_left(calling)


def test_what_waits_behind_a_long_call_goes_to_another_worker(calling: Space) -> None:
    """Short calls are sent ahead. If the one before them takes long, they are given back; a cancelled one is alone."""
    with Pool(min_workers=2, max_workers=2) as pool:

        @remote(pool=pool)
        def wait(seconds: float) -> float:
            time.sleep(seconds)
            return seconds

        for _ in range(2):
            [call.result(WAIT) for call in [wait.remote(0.001) for _ in range(30)]]
        long = wait.remote(300)
        [call.result(WAIT) for call in [wait.remote(0.001) for _ in range(100)]]
        assert not long.done()
        long.cancel()
        first, second = wait.remote(1.0), wait.remote(2.0)
        third = wait.remote(0.01)
        third.cancel()
        assert (first.result(WAIT), second.result(WAIT)) == (1.0, 2.0)
    nothing_left(calling)


def test_many_small_items_travel_together(pool: Pool) -> None:
    """In order, a few processes for all of them; a long one holds no others back."""

    @remote(pool=pool)
    def item(number: int) -> tuple[int, str, int]:
        if number == 500:
            time.sleep(4)
        return number, platform.node(), os.getpid()

    began = time.monotonic()
    done = {index: time.monotonic() - began for index, _ in item.map(range(2_000)).as_completed()}
    assert sorted(done) == list(range(2_000))
    assert len([index for index, at in done.items() if at >= done[500]]) < 200
    assert len({place for *_, place in item.map(range(100)).result(WAIT)}) <= 3

"""kubefunc.Executor on a real cluster: ``submit`` is a Job, ``map`` an Indexed Job."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import operator
import time
import weakref
from typing import Any

import pytest

from kubefunc import Executor
from kubefunc.errors import SerializationError
from tests.cluster import tasks
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left, nothing_left_but_failed, nothing_left_of_what_was_starting

WAIT = 90


def jobs_of(space: Space) -> list[dict[str, Any]]:
    """The Jobs that have no deletion under way."""
    return [job for job in space.admin.get("jobs") if "deletionTimestamp" not in job["metadata"]]


def modes_of(space: Space) -> list[str]:
    """How they complete."""
    return sorted(job["spec"]["completionMode"] for job in jobs_of(space))


def test_submit_is_a_job_and_map_an_indexed_job(calling: Space) -> None:
    """Values and exceptions are the function's own, builtins and lambdas work, and at the end nothing is left."""
    with Executor() as executor:
        failure = executor.submit(operator.truediv, 1, 0)
        assert isinstance(failure.exception(WAIT), ZeroDivisionError)
        nothing_left_but_failed(calling)
        value = executor.submit(tasks.slow, 7, 5.0)
        doubled = executor.map(lambda n, seconds: (time.sleep(seconds), 2 * n)[1], range(20), [0.25] * 20)
        eventually(lambda: modes_of(calling) == ["Indexed", "NonIndexed"], what="two Jobs")
        assert value.result(WAIT) == 7
        assert list(doubled) == [2 * n for n in range(20)]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 2, 2)
    nothing_left(calling)


def test_max_workers_tasks_run_at_once(calling: Space) -> None:
    """The others wait here, in order, without a Job, and can be cancelled."""
    with Executor(1, verbose=False) as executor:
        futures = [executor.submit(tasks.span, 1.0) for _ in range(3)]
        assert futures[2].cancel()
        (_, first_ended), (second_began, _) = [future.result(WAIT) for future in futures[:2]]
        assert first_ended < second_began
    nothing_left(calling)


def test_the_initializer_runs_before_a_process_s_first_task(calling: Space) -> None:
    """Each task of ``submit`` has a process of its own, the items of a Pod of ``map`` share one."""
    with Executor(initializer=tasks.prepare, initargs=("ready",)) as executor:
        alone = [executor.submit(tasks.prepared) for _ in range(2)]
        together = executor.map(lambda _: tasks.prepared(), range(4), chunksize=4)
        assert [future.result(WAIT) for future in alone] == [["ready"], ["ready"]]
        assert list(together) == [["ready"]] * 4
    nothing_left(calling)


def test_an_initializer_that_fails_breaks_the_executor_s_tasks(calling: Space) -> None:
    """Each says so, with what the initializer raised as the cause."""
    with Executor(initializer=tasks.prepare, initargs=(None,)) as executor:
        error = executor.submit(pow, 2, 2).exception(WAIT)
    assert isinstance(error, concurrent.futures.BrokenExecutor)
    assert "ValueError: nothing to prepare" in str(error)
    assert isinstance(error.__cause__, ValueError)
    nothing_left_but_failed(calling)


def test_shutdown_can_cancel_what_has_not_begun(calling: Space) -> None:
    """What runs is waited for and keeps its result."""
    executor = Executor(1, verbose=False)
    futures = [executor.submit(tasks.slow, n, 3.0) for n in range(4)]
    eventually(futures[0].running, what="the first task")
    executor.shutdown(cancel_futures=True)
    assert futures[0].result(0) == 0
    assert [future.cancelled() for future in futures] == [False, True, True, True]
    nothing_left(calling)


def test_shutdown_can_cancel_the_rest_of_a_map(calling: Space) -> None:
    """Items that wait for a Pod are cancelled: their Pods end with the last item that had begun."""
    executor = Executor(1, verbose=False)
    results = executor.map(tasks.slow, range(4), [0.0, 8.0, 600.0, 600.0], chunksize=2)
    assert next(results) == 0
    (a_map,) = executor._tasks._maps  # type: ignore[union-attr]
    eventually(lambda: a_map.progress.running == 1, what="news that its Pod runs, which is at item 1")
    executor.shutdown(cancel_futures=True)
    assert next(results) == 1
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)
    nothing_left(calling)


def test_terminate_workers_starts_none_that_waits(calling: Space) -> None:
    """Not even for a moment: what waits has no Job, and its Future is cancelled."""
    executor = Executor(1, verbose=False)
    running, *waiting = [executor.submit(tasks.slow, n, 600.0) for n in range(6)]
    eventually(lambda: bool(jobs_of(calling)), what="the Job of the first")
    executor.terminate_workers()
    assert isinstance(running.exception(WAIT), concurrent.futures.CancelledError)
    assert all(future.cancelled() for future in waiting)
    executor.shutdown()
    created = [event for event in calling.admin.get("events") if event["reason"] == "SuccessfulCreate"]
    assert len(created) <= 1
    nothing_left_of_what_was_starting(calling)


@pytest.mark.usefixtures("calling")
def test_a_task_is_packed_when_it_is_submitted() -> None:
    """Also where it waits: what cannot be pickled is refused at once, and a later change of an argument is not seen."""
    with Executor(1, verbose=False) as executor:
        first = executor.submit(tasks.slow, 1, 1.0)
        numbers = [1, 2]
        total = executor.submit(sum, numbers)
        numbers.append(100)
        with pytest.raises(SerializationError):
            executor.submit(list, (each for each in "abc"))
        assert (first.result(WAIT), total.result(WAIT)) == (1, 3)


def test_terminate_workers_ends_what_runs(calling: Space) -> None:
    """At once, and no Job is left."""
    executor = Executor(verbose=False)
    future, items = executor.submit(tasks.slow, 0, 600.0), executor.map(tasks.slow, range(2), [600.0] * 2)
    eventually(lambda: len(jobs_of(calling)) == 2, what="both Jobs")
    begun = time.monotonic()
    executor.terminate_workers()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(WAIT)
    with pytest.raises(concurrent.futures.CancelledError):
        next(items)
    assert time.monotonic() - begun < 10
    nothing_left_of_what_was_starting(calling)


def test_map_times_out_and_cancels_the_rest(calling: Space) -> None:
    """The timeout counts from the call of map; nothing of it goes on."""
    with Executor(verbose=False) as executor:
        results = executor.map(tasks.slow, range(3), [0.0, 600.0, 600.0], timeout=15, chunksize=3)
        assert next(results) == 0
        with pytest.raises(concurrent.futures.TimeoutError):
            next(results)
        nothing_left(calling)


def test_results_of_map_are_their_receiver_s_alone(calling: Space) -> None:
    """What was handed out is let go of, long before the map's end."""
    with Executor(verbose=False) as executor:
        results = executor.map(tasks.Large, range(3), chunksize=1)
        first = weakref.ref(next(results))
        gc.collect()
        assert first() is None
        assert [each.number for each in results] == [1, 2]
    nothing_left(calling)


def test_an_event_loop_runs_tasks_in_it(calling: Space) -> None:
    """``loop.run_in_executor`` takes it as any other executor."""

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        with Executor(verbose=False) as executor:
            return await asyncio.gather(*(loop.run_in_executor(executor, pow, 2, n) for n in range(3)))

    assert asyncio.run(main()) == [1, 2, 4]
    nothing_left(calling)

"""The tasks of an executor on their way to a pool."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from kubefunc import File, Pool, errors
from kubefunc.backends.base import Lost, Sink, Submission
from kubefunc.backends.kubernetes.warm.pool import WarmPool
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.tasks import WarmTasks
from kubefunc.options import Options
from kubefunc.packing.payload import Packer
from kubefunc.runner.execution.workplace import Workplace
from kubefunc.runner.protocol.file import numbers_in
from kubefunc.runner.protocol.records import Record

KEY = b"k" * 32
LOST = Lost(errors.PodLostError("gone"))


class Queue:
    """A pool without workers: what it was given, and what it was asked to stop."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.cancelled: list[Run] = []

    def submit(self, runs: Sequence[Run]) -> None:
        """Have these run."""
        self.runs += runs

    def recall(self, runs: Sequence[Run]) -> Sequence[Run]:
        """No worker has any."""
        return [run for run in runs if run in self.runs]

    def cancel(self, runs: Sequence[Run]) -> None:
        """Stop these."""
        self.cancelled += runs


class Told:
    """A sink: what it was told."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.gone: list[int] = []

    def moved(self, *_: Any) -> None:
        """Where they are."""

    def missing(self, indexes: Sequence[int]) -> Sequence[int]:
        """Nothing has come."""
        return indexes

    def take(self, outcomes: Sequence[Record]) -> None:
        """Outcomes came."""
        self.taken += [each.index for each in outcomes]

    def lost(self, indexes: Sequence[int], how: Lost) -> None:
        """Their worker has gone."""
        self.gone += indexes


def at_once(_: float, work: Callable[[], None]) -> None:
    """Do it now."""
    work()


def tasks(
    queue: Queue, told: Told, most: int = 0, claim: Callable[[int], bool] = lambda index: True, **options: Any
) -> WarmTasks:
    """Those of an executor."""
    payload = Packer.for_local().pack(Workplace(None, ()).run_payload)
    sent = Submission(
        call="executor-x",
        function="executor",
        options=Options(pool=Pool(), **options),
        payload=payload,
        key=KEY,
        shape="map",
        items={},
        count=0,
    )
    return WarmTasks(cast(WarmPool, queue), sent, cast(Sink, told), most, claim, at_once)


def record(index: int) -> Record:
    """An outcome."""
    return Record(index, 0.0, 0.0, 1, None, b"")


def test_tasks_travel_together_whatever_they_call() -> None:
    """All name the same process, and each batch may have tasks of several functions."""
    queue = Queue()
    open_tasks = tasks(queue, Told())
    for index, function in enumerate((abs, int, len)):
        open_tasks.add(index, Packer.for_local().pack(function, ("1",)))
    assert [run.index for run in queue.runs] == [0, 1, 2]
    assert len({id(run.parcel) for run in queue.runs}) == 1
    assert queue.runs[0].parcel.stay == "executor-x"


def test_arguments_are_kept_until_the_outcome_is_there() -> None:
    """The executor may live for days."""
    queue, told = Queue(), Told()
    open_tasks = tasks(queue, told)
    open_tasks.add(0, Packer.for_local().pack(abs, (-1,)))
    (run,) = queue.runs
    assert run.size > 0
    run.take([record(0)])
    run.end()
    assert run.size == 0
    assert told.taken == [0]


def test_a_task_runs_again_as_often_as_it_may_be_disrupted() -> None:
    """Then it gets the error of its lost worker."""
    queue, told = Queue(), Told()
    open_tasks = tasks(queue, told, max_disruptions=2)
    open_tasks.add(0, Packer.for_local().pack(abs, (-1,)))
    for again in itertools.count(1):
        run = queue.runs[-1]
        run.lost(LOST.error, [0])
        run.end()
        if told.gone:
            break
        assert len(queue.runs) == again + 1
    assert len(queue.runs) == 3
    assert told.gone == [0]


def test_so_many_tasks_are_with_the_pool_at_once() -> None:
    """Also where some were cancelled before a worker had them: these make room."""
    queue = Queue()
    cancelled = {1}
    open_tasks = tasks(queue, Told(), most=1, claim=lambda index: index not in cancelled)
    for index in range(3):
        open_tasks.add(index, Packer.for_local().pack(abs, (-1,)))
    assert [run.index for run in queue.runs] == [0]
    assert queue.runs[0].is_wanted()
    queue.runs[0].end()
    assert [run.index for run in queue.runs] == [0, 1]
    assert not queue.runs[1].is_wanted()
    assert [run.index for run in queue.runs] == [0, 1, 2]
    assert queue.runs[2].is_wanted()


def test_what_no_worker_has_is_taken_back() -> None:
    """What waits here, and what waits in the pool's queue."""
    queue, back = Queue(), list[int]()
    open_tasks = tasks(queue, Told(), most=1)
    for index in range(2):
        open_tasks.add(index, Packer.for_local().pack(abs, (-1,)))
    open_tasks.recall(back.append)
    assert sorted(back) == [0, 1]
    open_tasks.add(2, Packer.for_local().pack(abs, (-1,)))
    assert queue.runs[-1].index == 2
    open_tasks.cancel()
    assert [run.index for run in queue.cancelled] == [2]


def test_a_task_with_a_file_travels_by_itself(tmp_path: Path) -> None:
    """Beside it its file, whose folder is this task's alone."""
    (tmp_path / "data.csv").write_text("x")
    payload = Packer.for_cluster().pack(print, (File(tmp_path / "data.csv"),))
    queue = Queue()
    open_tasks = tasks(queue, Told())
    open_tasks.add(0, Packer.for_local().pack(abs, (-1,)))
    open_tasks.add(1, payload)
    plain, other = [run.parcel for run in queue.runs]
    assert plain is not other
    assert not plain.arguments
    assert [file.path for file in other.arguments.of([1]).values()] == [str(tmp_path / "data.csv")]
    assert other.arguments.place.endswith(".1")
    assert other.arguments.own([1]) is None
    assert numbers_in(other.items[1]) == [0]

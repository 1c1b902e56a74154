"""Who is told what when a worker ends by what a call did."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kubefunc import Pool, errors
from kubefunc.backends.base import Lost, Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes.warm.backlog import Backlog
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.pool import WarmPool
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.supply import Host
from kubefunc.backends.kubernetes.warm.worker import Worker
from kubefunc.diagnosis import Phase
from kubefunc.options import Options
from kubefunc.packing.payload import Packer
from kubefunc.runner import VALUE
from kubefunc.runner.execution.request import ENDED
from kubefunc.runner.protocol import records
from kubefunc.runner.warm.frames import NO_MORE

KEY = b"k" * 32
KILLED = errors.OutOfMemoryError("the Pod used more memory than it has")


class Told:
    """A sink: what it was told."""

    def __init__(self) -> None:
        self.failed: list[Exception] = []
        self.lost_items: list[int] = []
        self.wheres: list[Whereabouts] = []
        self.taken: list[int] = []

    def missing(self, indexes: Sequence[int]) -> list[int]:
        """Nothing has come yet."""
        return list(indexes)

    def moved(self, indexes: Sequence[int], where: Whereabouts) -> None:
        """It is on its way."""
        self.wheres.append(where)

    def take(self, outcomes: Sequence[records.Record]) -> None:
        """Outcomes came."""
        self.taken += [each.index for each in outcomes]

    def fail(self, indexes: Sequence[int], error: Exception) -> None:
        """There will be no outcome."""
        self.failed.append(error)

    def lost(self, indexes: Sequence[int], how: Lost) -> None:
        """These may run again."""
        self.lost_items += indexes


class Connections:
    """Those of an API server that is never asked."""

    def close(self) -> None:
        """They are not needed any more."""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[tuple[WarmPool, list[Worker]]]:
    """A pool of one worker at most, and the workers that it starts."""
    workers: list[Worker] = []
    host = Host(
        api=cast(Any, Connections()),
        connect=lambda _: cast(Any, Connections()),
        packer=Packer.for_cluster(),
        start=lambda _, sink: workers.append(cast(Worker, sink)),
        follow=lambda *_: None,
        release=lambda _: None,
        discard=lambda *_: None,
        cluster=("https://127.0.0.1", "test"),
        cache=tmp_path,
        later=lambda *_: None,
    )
    yield WarmPool(host, Pool(max_workers=1, share=False), Options(), "team"), workers
    for worker in workers:
        worker.close()


def runs_of(count: int, told: Told, *, disruptions: int = 0) -> list[Run]:
    """The items of a map. Each has been lost so often."""
    sent = Submission(
        call="map-x",
        function="f",
        options=Options(),
        payload=Packer.for_local().pack(abs),
        key=KEY,
        shape="map",
        items=dict.fromkeys(range(count), b"x"),
        count=count,
        disruptions=disruptions,
    )
    parcel, changed = Parcel(sent, fresh=True), threading.Condition()
    return [Run(parcel, index, cast(Sink, told), changed) for index in range(count)]


def serve(pool: WarmPool, worker: Worker) -> None:
    """Its stream is open."""
    worker.ready = worker.has_served = True
    pool.worker_ready(worker)


def test_a_call_that_ends_its_worker_ends_no_other(started: tuple[WarmPool, list[Worker]]) -> None:
    """On cgroup v2 the whole Pod ends with the process that used up the memory. What waited gets another worker."""
    pool, workers = started
    first, second = Told(), Told()
    pool.submit(runs_of(1, first))
    serve(pool, workers[0])
    pool.submit(runs_of(1, second))
    pool.worker_over(workers[0], KILLED)
    assert first.failed == [KILLED]
    assert (second.failed, second.lost_items) == ([], [])
    assert len(workers) == 2
    serve(pool, workers[1])
    assert [run.call for run in workers[1].given.batches[0].runs] == ["map-x"]


def test_of_several_items_nobody_knows_which_one_it_was(started: tuple[WarmPool, list[Worker]]) -> None:
    """All of them are lost, and run again."""
    pool, workers = started
    told = Told()
    pool._seconds = 0.001
    pool.submit(runs_of(4, told))
    serve(pool, workers[0])
    batch = workers[0].given.batches[0]
    assert len(batch.runs) > 1
    pool.worker_over(workers[0], KILLED)
    assert told.failed == []
    assert told.lost_items == [run.index for run in batch.runs]


def test_what_was_lost_runs_alone() -> None:
    """If an item has ended its worker, it does so without the others this time, and has the error to itself."""
    backlog = Backlog()
    backlog.add(runs_of(4, Told(), disruptions=1))
    batches = [backlog.next_batch(0.001, 1) for _ in range(4)]
    assert [len(batch.runs) for batch in batches if batch is not None] == [1, 1, 1, 1]


def test_a_worker_without_a_node_is_said_while_another_serves(started: tuple[WarmPool, list[Worker]]) -> None:
    """Calls in the queue are told; that a worker starts as it should is no news to them then."""
    pool, workers = started
    told = Told()
    pool.submit(runs_of(1, Told()))
    serve(pool, workers[0])
    pool.submit(runs_of(1, told))
    told.wheres.clear()
    pool.worker_moved(workers[0], Whereabouts(Phase.STARTING, "importing numpy"))
    pool.worker_moved(workers[0], Whereabouts(Phase.PENDING))
    assert told.wheres == []
    pool.worker_moved(workers[0], Whereabouts(Phase.PENDING, "no node has room"))
    assert [where.detail for where in told.wheres] == ["no node has room"]


def test_a_worker_learns_its_node_after_its_pod(started: tuple[WarmPool, list[Worker]]) -> None:
    """The scheduler gives it one: calls say where they run, and so do the programs that find the worker later."""
    pool, workers = started
    pool.submit(runs_of(1, Told()))
    (worker,) = workers
    worker.moved([0], Whereabouts(Phase.PENDING, pod="pod-1"))
    worker.moved([0], Whereabouts(Phase.STARTING, pod="pod-1", node="node-1"))
    worker.moved([0], Whereabouts(Phase.RUNNING, pod="pod-1"))
    assert worker.address().node == "node-1"


@pytest.mark.parametrize("fails", [False, True], ids=["has come", "failed here"])
def test_what_has_come_is_not_ended_when_its_stream_breaks(
    started: tuple[WarmPool, list[Worker]], monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """The worker's word of the end may be lost with the stream: its process stays. What has failed here is ended."""
    pool, workers = started
    told = Told()
    pool.submit(runs_of(1, told))
    serve(pool, workers[0])
    batch = workers[0].given.batches[0]
    if fails:
        batch.fail(errors.FileError("it has changed"))
    else:
        header = json.dumps({"outcome": VALUE}).encode()
        outcome = records.pack_record(0, 1.0, 2.0, 1, header, 2) + b"N."
        batch.hear_answer(records.seal_block(KEY, "map-x", 0, 0, outcome))
        assert told.taken == [0]
    ended: list[Batch] = []
    monkeypatch.setattr(workers[0], "end_run", ended.append)
    workers[0].welcomed({"runs": [batch.id], "lost": [], "kept": []})
    assert ended == ([batch] if fails else [])


def test_a_call_that_a_leaving_worker_lost_is_not_sent_to_it_again(started: tuple[WarmPool, list[Worker]]) -> None:
    """The worker says first that it takes no more: its Pod may end before its last words are sent."""
    pool, workers = started
    told = Told()
    pool.submit(runs_of(1, told))
    serve(pool, workers[0])
    run = workers[0].given.run
    assert run is not None
    pool.submit(runs_of(1, Told()))
    workers[0].hear(NO_MORE, b"")
    workers[0].hear(ENDED, b"143")
    assert told.lost_items == [0]
    assert workers[0].given.batches == []


def test_a_call_is_settled_whatever_the_next_one_meets(
    started: tuple[WarmPool, list[Worker]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended; that its worker cannot be given another one is not its matter."""

    def fail(_: Worker) -> None:
        raise RuntimeError("no thread more")

    pool, workers = started
    pool.submit(runs_of(1, Told()))
    serve(pool, workers[0])
    batch = workers[0].given.batches[0]
    settled: list[Batch] = []
    monkeypatch.setattr(batch, "settle", lambda: settled.append(batch))
    monkeypatch.setattr(pool, "_go_on_with", fail)
    with pytest.raises(RuntimeError, match="no thread more"):
        pool.run_ended(workers[0], batch)
    assert settled == [batch]


def test_workers_that_cannot_start_end_what_waits(started: tuple[WarmPool, list[Worker]]) -> None:
    """Another one would fare no better."""
    pool, workers = started
    told = Told()
    pool.submit(runs_of(1, told))
    error = errors.PodStartError("no such image")
    pool.worker_over(workers[0], error)
    assert told.failed == [error]


def test_a_call_whose_files_go_with_the_worker_counts_as_lost(started: tuple[WarmPool, list[Worker]]) -> None:
    """It has ended there. One that has not begun merely waits for another worker."""
    pool, workers = started
    ended, not_begun = Told(), Told()
    pool.submit(runs_of(1, ended))
    serve(pool, workers[0])
    assert workers[0].run is not None
    workers[0].run.returned.begin()
    pool.worker_leaves(workers[0])
    assert ended.lost_items == [0]
    pool.submit(runs_of(1, not_begun))
    serve(pool, workers[1])
    pool.worker_leaves(workers[1])
    assert (not_begun.lost_items, not_begun.failed) == ([], [])

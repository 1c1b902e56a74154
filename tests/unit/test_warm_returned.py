"""A batch whose outcome waits for its files: nothing is lost or fetched twice when streams break and Pods go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from kubefunc.backends.base import Lost, Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.greeting import Greeting
from kubefunc.backends.kubernetes.warm.loop import StreamLoop
from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.records import Record as Address
from kubefunc.backends.kubernetes.warm.returned import Returned
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.stream import Way
from kubefunc.backends.kubernetes.warm.worker import Owner, Worker
from kubefunc.diagnosis import Phase
from kubefunc.options import Options
from kubefunc.packing.payload import Packer
from kubefunc.runner import VALUE
from kubefunc.runner.execution.request import ENDED, RESULT
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.protocol.records import Record
from kubefunc.runner.warm.frames import HELLO, LEAVING

KEY = b"k" * 32
ADDRESS = Address("worker-x", "token", "team", "pod-1")


class Told:
    """A sink: what it was told."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.gone: list[int] = []

    def missing(self, indexes: Sequence[int]) -> Sequence[int]:
        """Those that have not come."""
        return [index for index in indexes if index not in self.taken]

    def moved(self, *_: Any) -> None:
        """Where it is."""

    def take(self, outcomes: Sequence[Record]) -> None:
        """Outcomes came."""
        self.taken += [each.index for each in outcomes]

    def lost(self, indexes: Sequence[int], _: Lost) -> None:
        """Their worker has gone."""
        self.gone += indexes


class Pool:
    """The pool, and who fetches for it: what it was asked."""

    def __init__(self) -> None:
        self.transfers = self
        self.fetching: list[Batch] = []
        self.heard: list[str] = []

    def fetch(self, worker: Worker, batch: Batch) -> None:
        """Fetch what this has returned."""
        self.fetching.append(batch)

    def run_ended(self, worker: Worker, run: Batch) -> None:
        """All of it is here."""
        self.heard.append("ended")

    def run_lost(self, worker: Worker, run: Batch) -> None:
        """It ended without an outcome."""
        self.heard.append("lost")

    def given_back(self, runs: Sequence[Run]) -> None:
        """Nothing waits."""

    def worker_moved(self, *_: Any) -> None:
        """It starts."""

    def worker_leaves(self, worker: Worker) -> None:
        """It ends."""
        self.heard.append("leaves")


@pytest.fixture
def pool() -> Pool:
    """The pool of the worker."""
    return Pool()


@pytest.fixture
def told() -> Told:
    """Who waits for the outcome."""
    return Told()


@pytest.fixture(params=[True, False], ids=["fresh", "staying"])
def batch(told: Told, request: pytest.FixtureRequest) -> Batch:
    """A call."""
    payload = Packer.for_local().pack(abs, (-1,))
    sent = Submission(call="call-x", function="f", options=Options(), payload=payload, key=KEY)
    parcel = Parcel(sent, fresh=request.param)
    return Batch(parcel, [Run(parcel, 0, cast(Sink, told), threading.Condition())])


@pytest.fixture
def worker(pool: Pool, batch: Batch) -> Iterator[Worker]:
    """It was given the call."""
    made = Worker(cast(Owner, pool), Way(cast(Api, None), "me", StreamLoop()), ADDRESS, b"key")
    made.given.assign(batch)
    yield made
    made.close()


def tell(worker: Worker) -> None:
    """The worker says that the call has returned a file, and has ended."""
    header = {"outcome": VALUE, "files": [[3, "00"]]}
    if worker.run is not None and worker.run.reported_as(0) is None:
        worker.hear(RESULT, wire.seal({**header, "call": "call-x"}, b"N.", KEY))
    else:
        record = records.pack_record(0, 1.0, 2.0, 1, json.dumps(header).encode(), 2) + b"N."
        worker.hear(RESULT, records.seal_block(KEY, "call-x", 0, 0, record))
    worker.hear(ENDED, b"0")


def fetched(batch: Batch) -> bool:
    """Its files have come: whether it may be finished now."""
    batch.fetch_returned(lambda record: None)
    return batch.returned.end()


def test_an_outcome_waits_for_its_files(worker: Worker, batch: Batch, pool: Pool, told: Told) -> None:
    """The worker has the call until then, and so gets no other one."""
    tell(worker)
    assert pool.fetching == [batch]
    assert (told.taken, pool.heard, worker.run) == ([], [], batch)
    assert fetched(batch)
    worker.finish(batch)
    assert (told.taken, pool.heard, worker.run) == ([0], ["ended"], None)


def test_a_stream_that_breaks_meanwhile(worker: Worker, batch: Batch, pool: Pool, told: Told) -> None:
    """The worker tells of the call again: it is fetched once, and finished when all has been heard."""
    tell(worker)
    batch.forget_answer()
    assert not fetched(batch)
    assert pool.heard == []
    tell(worker)
    assert (told.taken, pool.heard, pool.fetching) == ([0], ["ended"], [batch])
    assert worker.run is None


def test_the_worker_is_not_asked_for_what_is_settled(batch: Batch) -> None:
    """A stream that is opened between the last file and the word of it asks for nothing."""
    batch.returned.begin()
    assert batch.returned.end()
    batch.forget_answer()
    ((letter, content),) = wire.Frames().feed(Greeting(ADDRESS, "me").hello([batch]))
    assert letter == HELLO
    assert json.loads(content)["runs"] == []


def test_a_pod_that_goes_before_its_files_have_come(worker: Worker, batch: Batch, pool: Pool) -> None:
    """The call is lost: it runs elsewhere, and what comes late of it counts for nothing."""
    tell(worker)
    worker.given.take_back()
    assert not worker.has(batch)
    assert fetched(batch)
    worker.finish(batch)
    assert pool.heard == []


def test_a_pod_that_is_replaced(worker: Worker, batch: Batch, pool: Pool) -> None:
    """The pool hears that the call is lost."""
    tell(worker)
    worker.moved([0], Whereabouts(Phase.RUNNING, pod="pod-2"))
    assert pool.heard == ["lost"]
    assert not worker.has(batch)


def test_a_worker_that_leaves_while_files_are_fetched(worker: Worker, batch: Batch, pool: Pool) -> None:
    """Its pool is told, and knows that the call has ended there."""
    tell(worker)
    worker.hear(LEAVING, b"it was told to end")
    assert pool.heard == ["leaves"]
    assert batch.returned.are_there


def test_outcomes_without_files_do_not_wait() -> None:
    """Neither exceptions nor plain values."""
    returned = Returned()
    for header in (None, {"outcome": VALUE}, {"outcome": "raised", "files": [[1, ""]]}):
        assert not returned.hold(Record(0, 1.0, 2.0, 1, header, b""))
    assert not returned.are_there

"""The streams from a program to its warm workers: what breaks, and what is told again."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.warm import stream
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.loop import StreamLoop
from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.records import Record
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.stream import Way
from kubefunc.backends.kubernetes.warm.worker import Owner, Worker
from kubefunc.diagnosis import Phase
from kubefunc.errors import FileError
from kubefunc.options import Options
from kubefunc.packing.payload import Packer
from tests.local.api_server import Server, config_of, tls
from tests.local.exec_server import ExecServer
from tests.local.simulated_workers import SimulatedWorkers
from tests.local.warm import TOKEN, WITHIN, WarmWorker

KEY = b"k" * 32
MANY = 40
LARGE = 32 << 20
HELD_UP = 10.0  # seconds
POD = "pod-1"


class Heard:
    """The pool of one worker, and the sink of its calls: what they are told, in order."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._changed = threading.Condition()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def note(*_: Any, **__: Any) -> None:
            with self._changed:
                self.words.append(name)
                self._changed.notify_all()

        return note

    def missing(self, indexes: Sequence[int]) -> list[int]:
        """No outcome has come."""
        return list(indexes)

    def wait_for(self, name: str, times: int = 1) -> None:
        """Until it has been told this."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.words.count(name) >= times, WITHIN), self.words


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ExecServer]:
    """An API server, and a worker in the Pod ``pod-1``."""
    process = WarmWorker(tmp_path)
    with ExecServer() as made:
        made.pods[POD] = process
        yield made
    process.stop()


@pytest.fixture
def heard() -> Heard:
    """The pool."""
    return Heard()


@pytest.fixture
def worker(api: Api, heard: Heard) -> Iterator[Worker]:
    """One that this program has started: it serves."""
    made = Worker(cast(Owner, heard), Way(api, "me", StreamLoop()), Record("worker-x", TOKEN, "team"), KEY)
    made.moved([0], Whereabouts(Phase.RUNNING, pod=POD))
    heard.wait_for("worker_ready")
    yield made
    made.close()
    made.join(WITHIN)


def batch_of(heard: Heard, function: Callable[..., Any], *args: Any) -> Batch:
    """A call."""
    payload = Packer.for_local().pack(function, args, None, (Exception,))
    sent = Submission(call="call-x", function="f", options=Options(), payload=payload, key=KEY)
    parcel = Parcel(sent, fresh=True)
    return Batch(parcel, [Run(parcel, 0, cast(Sink, heard), threading.Condition())])


def until(reached: Callable[[], object]) -> None:
    """Wait for this."""
    deadline = time.monotonic() + WITHIN
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sleeper(begun: Path) -> Callable[[], None]:
    """A function that says that it has begun, and does not end."""
    path = str(begun)

    def sleep() -> None:
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)

    return sleep


@pytest.mark.parametrize("fails", [False, True], ids=["cancelled", "failed here"])
def test_a_call_that_is_unwanted_without_a_stream_ends(
    worker: Worker, server: ExecServer, heard: Heard, tmp_path: Path, *, fails: bool
) -> None:
    """The wish went with the stream, or had none to go with: the next one carries it."""
    begun = tmp_path / "begun"
    batch = batch_of(heard, sleeper(begun))
    worker.given.assign(batch)
    worker.give()
    until(begun.exists)
    process = server.pods.pop(POD)  # no other stream can be opened for now
    server.cut_all()
    if fails:  # a file of its arguments could not be sent
        batch.fail(FileError("it has changed"))
    else:
        batch.runs[0].end()  # the word itself is lost
    time.sleep(0.2)
    assert worker.run is batch
    server.pods[POD] = process
    heard.wait_for("run_ended" if fails else "run_lost")
    assert worker.run is None


def test_a_stream_that_cannot_even_be_made_is_tried_again(
    worker: Worker, server: ExecServer, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever went wrong: nobody else would open it, and the worker would be waited for without an end."""
    real, failures = stream.DuplexStream, [ValueError("no such header"), RuntimeError("no room")]

    def make(*args: Any, **kwargs: Any) -> stream.DuplexStream:
        if failures:
            raise failures.pop()
        return real(*args, **kwargs)

    monkeypatch.setattr(stream, "DuplexStream", make)
    batch = batch_of(heard, abs, -1)
    server.cut_all()
    worker.given.assign(batch)
    worker.give()
    heard.wait_for("run_ended")
    assert failures == []


# -- many workers


class Crowd:
    """A program's workers, which are simulated, and what it hears of them."""

    def __init__(self, api: Api, count: int) -> None:
        self.loop = StreamLoop()
        self.heard = Heard()
        way = Way(api, "me", self.loop)
        names = [f"worker-{number}" for number in range(count)]
        self.workers = [Worker(cast(Owner, self.heard), way, Record(name, name, "team"), KEY) for name in names]
        for worker in self.workers:
            worker.moved([0], Whereabouts(Phase.RUNNING, pod=f"pod-{worker.call}"))
        self.heard.wait_for("worker_ready", count)

    def call(self, worker: Worker, function: Callable[..., Any] = abs, *args: Any) -> Batch:
        """Give it a call."""
        batch = batch_of(self.heard, function, *args)
        worker.given.assign(batch)
        worker.give()
        return batch

    def close(self) -> None:
        """All of them."""
        for worker in self.workers:
            worker.close()
        for worker in self.workers:
            worker.join(WITHIN)


@pytest.fixture
def simulated() -> SimulatedWorkers:
    """How the workers behave."""
    return SimulatedWorkers()


@pytest.fixture(params=["plain", "tls"])
def crowd(
    request: pytest.FixtureRequest, simulated: SimulatedWorkers, certificate: Path, tmp_path: Path
) -> Iterator[Callable[[int], Crowd]]:
    """Has so many workers come."""
    made: list[Crowd] = []

    def come(count: int) -> Crowd:
        made.append(Crowd(api, count))
        return made[-1]

    with Server(simulated, tls=tls(certificate) if request.param == "tls" else None) as server:
        api = Api(config_of(server.url, tmp_path, certificate, token="t"), connections=MANY)
        yield come
        for each in made:
            each.close()
        api.close()


def threads_of_streams() -> list[str]:
    """Those that this program has for its workers."""
    return [each.name for each in threading.enumerate() if each.name in ("kubefunc-streams", "kubefunc-opens")]


def descriptors() -> set[str]:
    """Those of this process that are sockets or wait for some."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    return {each for each in found if "eventpoll" in each}


def test_one_thread_reads_the_streams_of_all_workers(crowd: Callable[[int], Crowd]) -> None:
    """However many there are; afterwards neither it nor what it has waited with is left."""
    before = descriptors()
    workers = crowd(MANY)
    until(lambda: threads_of_streams() == ["kubefunc-streams"])
    batches = [workers.call(each) for each in workers.workers]
    workers.heard.wait_for("run_ended", MANY)
    assert all(each.is_answered for each in batches)
    assert threads_of_streams() == ["kubefunc-streams"]
    workers.close()
    until(lambda: threads_of_streams() == [])
    assert descriptors() - before == set()  # those of other tests may be closed at any time


def test_a_worker_that_reads_nothing_holds_up_nobody(
    crowd: Callable[[int], Crowd], simulated: SimulatedWorkers
) -> None:
    """Neither those who give it calls nor the other workers; when it reads again, all has come, in order."""
    reads_on = simulated.deaf["pod-worker-0"] = threading.Event()
    workers = crowd(2)
    slow, quick = workers.workers
    began = time.monotonic()
    large = workers.call(slow, len, os.urandom(LARGE))  # more than the network takes
    slow.end_run(large)
    assert time.monotonic() - began < HELD_UP
    for number in range(1, 20):
        workers.call(quick)
        workers.heard.wait_for("run_ended", number)
    assert not large.is_answered
    reads_on.set()
    workers.heard.wait_for("run_ended", 20)
    assert large.is_answered

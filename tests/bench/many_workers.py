"""``python -m tests.bench.many_workers WORKERS``: what the streams to so many warm workers cost their client.

A cluster with 100 warm workers is not to be had for a test. Here an API server in a process of its own answers for all
of them (:mod:`tests.local.simulated_workers`): calls return at once. Prints the client's threads for streams, and its
seconds of CPU for a call: of the streams alone, which are given ready frames, and with the pool, from the packed call
to the checked answer.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from kubefunc import Pool
from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.given import Given
from kubefunc.backends.kubernetes.warm.loop import StreamLoop
from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.pool import WarmPool
from kubefunc.backends.kubernetes.warm.records import Record
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.stream import Way, WorkerStream
from kubefunc.backends.kubernetes.warm.supply import Host
from kubefunc.backends.kubernetes.warm.worker import Worker
from kubefunc.diagnosis import Phase
from kubefunc.options import Options
from kubefunc.packing.payload import Packer
from kubefunc.runner.execution.request import CALL, ENDED
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.frames import DATA
from kubefunc.runner.warm.request import join_request
from kubefunc.testing.api_server import Server
from tests.bench.figures import Figure, at_most
from tests.bench.on_cluster import Ground
from tests.local.api_server import config_of
from tests.local.simulated_workers import SimulatedWorkers

WORKERS = 100
CALLS = 20_000
WARM_UP = 2_000
WITHIN = 120.0
LIMIT = 30.0  # microseconds
KEY = b"k" * 32
_HEADER = {"spec": {"call": "call-x"}, "key": KEY.hex()}
REQUEST = (wire.frame(DATA, join_request(_HEADER, bytes(300))), wire.frame(CALL, bytes(32)))  # about what a call sends


class Outcomes:
    """The sink of all calls: counts outcomes."""

    def __init__(self) -> None:
        self._left = 0
        self._all_there = threading.Event()

    def await_all(self, count: int) -> None:
        """So many are to come."""
        self._left = count
        self._all_there.clear()

    def wait(self) -> None:
        """Until they are there."""
        if not self._all_there.wait(WITHIN):
            raise RuntimeError(f"{self._left} calls have no outcome")

    def take(self, outcomes: Sequence[object]) -> None:
        """These have come, each to the one thread that reads."""
        self._left -= len(outcomes)
        if not self._left:
            self._all_there.set()

    def missing(self, indexes: Sequence[int]) -> list[int]:
        """All are waited for."""
        return list(indexes)

    def moved(self, *_: object) -> None:
        """It waits, or runs."""

    def output(self, *_: object) -> None:
        """Nothing is printed."""

    def fail(self, _: object, error: Exception) -> None:
        """The measurement is void."""
        raise error


def serve() -> None:
    """The server, until its caller ends: it writes where it can be reached."""
    with Server(SimulatedWorkers()) as server:
        print(server.url, flush=True)
        sys.stdin.read()


class Repeater:
    """Implements :class:`kubefunc.backends.kubernetes.warm.stream.Reader`: gives its worker one call after another."""

    def __init__(self, way: Way, name: str, count: int) -> None:
        self.given = Given()
        self._record = Record(name, name, "team", f"pod-{name}")
        self._left = count
        self.welcome, self.ended = threading.Event(), threading.Event()
        self.stream = WorkerStream(self, way, 0.0, pod_runs=True)

    def address(self) -> Record:
        """Where it is."""
        return self._record

    def welcomed(self, told: dict[str, Any]) -> None:
        """It serves."""
        self.welcome.set()

    def hear(self, letter: bytes, content: bytes) -> None:
        """It has answered: the next one."""
        if letter == ENDED:
            self._left -= 1
            if self._left:
                self.stream.send(*REQUEST)
            else:
                self.ended.set()

    def begin(self, batch: Batch) -> None:
        """It is given no batches."""

    def stream_broke(self, error: Exception) -> None:
        """The measurement is void."""
        raise error

    def gave_up(self) -> None:
        """The same."""


def streams_alone(url: str, place: Path, workers: int) -> dict[str, float]:
    """Threads for streams, and seconds of CPU for a request and its answer."""
    api = Api(config_of(url, place, token="t"), connections=workers)
    way = Way(api, "me", StreamLoop())
    repeaters = [Repeater(way, f"worker-{number}", CALLS // workers) for number in range(workers)]
    for each in repeaters:
        each.stream.start()
    _wait(each.welcome for each in repeaters)
    begun = _used()
    for each in repeaters:
        each.stream.send(*REQUEST)
    _wait(each.ended for each in repeaters)
    seconds = (_used() - begun) / CALLS
    threads = sum(each.name.startswith("kubefunc") for each in threading.enumerate())
    for each in repeaters:
        each.stream.close()
        each.stream.join(WITHIN)
    api.close()
    return {"threads": threads, "streams": seconds}


def with_the_pool(url: str, place: Path, workers: int) -> dict[str, float]:
    """Seconds of CPU for a call."""
    config = config_of(url, place, token="t")
    host = Host(
        api=Api(config),
        connect=lambda connections: Api(config, connections=connections),
        packer=Packer.for_cluster(),
        start=_start,
        follow=lambda *_: None,
        release=lambda _: None,
        discard=lambda *_: None,
        cluster=(url, "simulated"),
        cache=place,
        later=lambda *_: None,
    )
    pool = WarmPool(host, Pool(min_workers=workers, max_workers=workers, share=False), Options(), "team")
    pool.scale(workers)
    outcomes = Outcomes()
    _call(pool, outcomes, WARM_UP)
    begun = _used()
    _call(pool, outcomes, CALLS)
    seconds = (_used() - begun) / CALLS
    pool.close()
    return {"pool": seconds}


def _wait(events: Iterable[threading.Event]) -> None:
    if not all(event.wait(WITHIN) for event in events):
        raise RuntimeError("a worker does not answer")


def _start(_: Submission, sink: Sink) -> None:
    worker = cast(Worker, sink)
    worker.moved([0], Whereabouts(Phase.RUNNING, pod=f"pod-{worker.record.token}"))


def _call(pool: WarmPool, outcomes: Outcomes, count: int) -> None:
    """Single calls, each a request of its own."""
    outcomes.await_all(count)
    pool.submit(list(_runs(outcomes, count)))
    outcomes.wait()


def _runs(outcomes: Outcomes, count: int) -> Iterator[Run]:
    payload, options = Packer.for_local().pack(abs), Options()
    for number in range(count):
        sent = Submission(call=f"call-{number}", function="f", options=options, payload=payload, key=KEY)
        yield Run(Parcel(sent, fresh=True), 0, cast(Sink, outcomes), threading.Condition())


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def many_workers(_: Ground) -> Iterator[Figure]:
    """Both figures of the design."""
    command = [sys.executable, "-m", "tests.bench.many_workers", str(WORKERS)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    where = f"for {WORKERS} warm workers (simulated)"
    yield at_most(f"client threads for streams, {where}", told["threads"], 1)
    detail = f"with the pool, from the packed call to the checked answer, {1e6 * told['pool']:.0f} µs"
    yield at_most(f"client CPU of the streams for a call, {where}", 1e6 * told["streams"], LIMIT, " µs", detail)


ROWS = {"pool-many": many_workers}


def main() -> None:
    """Server and client."""
    if sys.argv[1] == "serve":
        serve()
        return
    command = [sys.executable, "-m", "tests.bench.many_workers", "serve"]
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server,
    ):
        if server.stdout is None or server.stdin is None:
            raise RuntimeError("no pipes")
        place, workers = Path(directory), int(sys.argv[1])
        url = server.stdout.readline().strip()
        print(json.dumps({**streams_alone(url, place, workers), **with_the_pool(url, place, workers)}))
        server.stdin.close()


if __name__ == "__main__":
    main()

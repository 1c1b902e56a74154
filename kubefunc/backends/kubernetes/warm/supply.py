"""Where the workers of a pool come from: another program has left them, or they are started."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from kubefunc import errors
from kubefunc.backends.base import Shape, Sink, Submission
from kubefunc.backends.kubernetes.warm.files import FileTransfers
from kubefunc.backends.kubernetes.warm.kind import kind_of
from kubefunc.backends.kubernetes.warm.known_code import KnownCode
from kubefunc.backends.kubernetes.warm.loop import StreamLoop
from kubefunc.backends.kubernetes.warm.records import NoRecords, Record, RecordFiles, Records
from kubefunc.backends.kubernetes.warm.stream import RECONNECT, Way
from kubefunc.backends.kubernetes.warm.tables import NoTables, TableFiles
from kubefunc.backends.kubernetes.warm.worker import Owner, Worker
from kubefunc.ids import KEY_SIZE, new_id
from kubefunc.options import Options
from kubefunc.packing.payload import Packer

if TYPE_CHECKING:
    from kubefunc.backends.kubernetes.api.requests import Api
    from kubefunc.pool import Pool

FUNCTION = "worker"
TOKEN_SIZE = 16
ASK_AGAIN_AFTER = 10.0  # seconds before a worker that another program has is asked for again


@dataclasses.dataclass(frozen=True)
class Host:
    """What a pool needs of the backend.

    Attributes:
        api: the API server.
        connect: the same, by so many connections at most.
        packer: packs the workers' own function.
        start: submits a worker's own call.
        follow: tells of a call that another program has submitted, by ``namespace/id``.
        release: tells no more of a call, whose Job stays.
        discard: deletes the Job of a call, by its id and namespace.
        cluster: the cluster's address, and the context by which it is reached.
        cache: where this user's caches are.
        later: does something after so many seconds.
        loop: its thread reads the streams of all workers.
    """

    api: Api
    connect: Callable[[int], Api]
    packer: Packer
    start: Callable[[Submission, Sink], None]
    follow: Callable[[str, Shape, Sink], object]
    release: Callable[[str], None]
    discard: Callable[[str, str], None]
    cluster: tuple[str, str]
    cache: Path
    later: Callable[[float, Callable[[], None]], None]
    loop: StreamLoop = dataclasses.field(default_factory=StreamLoop)


class Supply:
    """The workers of one kind. It decides nothing: the pool says how many it wants.

    Attributes:
        transfers: carries their files.
    """

    def __init__(self, host: Host, config: Pool, options: Options, namespace: str) -> None:
        self._host = host
        self._config = config
        self._options = options
        self._namespace = namespace
        # A stream of its own for each worker: from the session's connections they would leave none for requests.
        self._api = host.connect(config.max_workers)
        self.transfers = FileTransfers(host.connect)
        known = KnownCode(TableFiles(host.cache) if config.share else NoTables())
        self._way = Way(self._api, os.urandom(TOKEN_SIZE).hex(), host.loop, known)
        self._kind = kind_of(host.cluster, namespace, options, self._arguments)
        self._records: Records = NoRecords()
        if config.share:
            self._records = RecordFiles(host.cache, self._kind, config.idle_timeout)
        self._asked: dict[str, float] = {}  # workers of other programs that could not be had, and when

    def new_workers(self, owner: Owner, count: int, have: Collection[str]) -> list[Worker]:
        """So many more, to be started: first those that other programs have left.

        Args:
            owner: their pool.
            count: how many.
            have: the calls of those that the pool has.
        """
        if count <= 0:
            return []
        now = time.monotonic()
        left = [
            record
            for record in self._records.read()
            if record.call not in have and now - self._asked.get(record.call, -ASK_AGAIN_AFTER) >= ASK_AGAIN_AFTER
        ]
        workers = [Worker(owner, self._way, record) for record in left[:count]]
        return workers + [self._new_worker(owner) for _ in range(count - len(workers))]

    def _new_worker(self, owner: Owner) -> Worker:
        key = os.urandom(KEY_SIZE)
        record = Record(new_id(FUNCTION, key), os.urandom(TOKEN_SIZE).hex(), self._namespace)
        startup = self._options.pull_allowance if self._options.packages else 0.0
        return Worker(owner, self._way, record, key, startup)

    def start(self, worker: Worker) -> None:
        """Have it come."""
        if worker.is_found:
            worker.take_over()
            return
        try:
            self._host.start(self._submission(worker.record, worker.key), worker)
        except errors.KubefuncError as error:
            worker.fail(None, error)

    @property
    def _arguments(self) -> tuple[float, float, float, tuple[str, ...]]:
        """Of the worker's function; the token stands before them."""
        config = self._config
        alone = config.idle_timeout if config.share else RECONNECT
        return config.idle_timeout, RECONNECT, alone, tuple(config.preload)

    def _submission(self, record: Record, key: bytes) -> Submission:
        """The worker's own call."""
        from kubefunc.runner.warm.worker import serve  # a program that finds its workers need not load what they run

        return Submission(
            call=record.call,
            function=FUNCTION,
            options=self._options,
            payload=self._host.packer.pack(serve, (record.token, *self._arguments)),
            key=key,
            pool=self._kind,
        )

    # -- what became of one

    def is_there(self, worker: Worker) -> None:
        """It serves: other programs may find it later."""
        self._records.keep(worker.record)

    def was_used(self, worker: Worker) -> None:
        """Just now."""
        self._records.touch(worker.call)

    def follow(self, worker: Worker, workers: Collection[Worker]) -> None:
        """Let it hear what becomes of its Job, which another program has made, if it is still one of these."""
        if worker in workers:
            self._host.follow(f"{worker.namespace}/{worker.call}", "single", worker)

    def not_had(self, worker: Worker, *, gone: bool) -> None:
        """It has gone, or is another program's by now."""
        self._asked[worker.call] = time.monotonic()
        self._host.release(worker.call)
        if gone:
            self._records.remove(worker.call)

    def leave(self, worker: Worker) -> None:
        """Let it go for other programs."""
        worker.leave()
        self._records.touch(worker.call)
        self._host.release(worker.call)

    def ends(self, worker: Worker) -> None:
        """It takes no more calls."""
        self._records.remove(worker.call)
        if worker.is_found:
            self._host.discard(worker.call, worker.namespace)

    def remove(self, worker: Worker) -> None:
        """Delete its Job."""
        self._records.remove(worker.call)
        self._host.discard(worker.call, worker.namespace)

    def close(self) -> None:
        """No stream is needed any more."""
        self._api.close()
        self.transfers.close()

"""A pool of warm workers: which call goes to which worker, and how many workers there are.

Workers are found by what their Pod is: all calls with the same Pod options and the same :class:`kubefunc.Pool` share
them. All workers of a pool belong to this session; they end with it.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from kubefunc import errors
from kubefunc.backends.base import Access, Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes.control.publish import publish
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.scaling import Demand, wanted_workers
from kubefunc.backends.kubernetes.warm.worker import RECONNECT, Worker
from kubefunc.diagnosis import Phase
from kubefunc.ids import KEY_SIZE, new_id
from kubefunc.options import ConfigMapKey, Options, SecretKey
from kubefunc.payload import Packer
from kubefunc.runner.warm import worker as program

if TYPE_CHECKING:
    from kubefunc.backends.kubernetes.api.requests import Api
    from kubefunc.pool import Pool

TICK = 0.25  # seconds between two looks at a queue that does not get shorter
WEIGHT = 0.2  # of the newest call in the mean time that calls take
LOSSES = 5  # workers in a row that may get lost before a call has ended
HOLD_OFF = 30.0  # seconds
THREADS_END_WITHIN = 0.5  # seconds; on a dead network some do not
NEWS_FOR = 50  # calls in a queue that are told what their worker waits for
# What may differ between calls that share workers.
_OF_THE_CALL = ("timeout retries retry_exceptions pool verbose progress logging on_sigterm publish").split()


@dataclasses.dataclass(frozen=True)
class Host:
    """What a pool needs of the backend.

    Attributes:
        api: the API server.
        connect: the same, by so many connections at most.
        packer: packs the workers' own function.
        start: submits a worker's own call.
        discard: deletes the Job of a call, by its id and namespace.
        later: does something after so many seconds.
    """

    api: Api
    connect: Callable[[int], Api]
    packer: Packer
    start: Callable[[Submission, Sink], None]
    discard: Callable[[str, str], None]
    later: Callable[[float, Callable[[], None]], None]


class WarmPool:
    """Implements :class:`kubefunc.backends.kubernetes.warm.worker.Owner`."""

    def __init__(self, host: Host, config: Pool, options: Options, namespace: str) -> None:
        self._host = host
        self._config = config
        self._options = options
        self._namespace = namespace
        # A stream of its own for each worker: from the session's connections they would leave none for requests.
        self._api = host.connect(config.max_workers)
        self._lock = threading.RLock()
        self._queue: deque[Run] = deque()
        self._workers: set[Worker] = set()
        self._seconds: float | None = None
        self._where: Whereabouts | None = None
        self._ticking = False
        self._losses = 0  # workers that went without a call having ended since
        self._not_before = 0.0  # no worker is started where another could not
        self.closed = False

    # -- from above

    def submit(self, runs: Sequence[Run]) -> None:
        """Have these run, in this order."""
        with self._lock:
            self._queue += runs
            where = self._where
        self._go_on()
        if where is not None:  # workers are starting, and this is what they wait for
            for run in runs[:NEWS_FOR]:
                run.moved(where)

    def cancel(self, runs: Sequence[Run]) -> None:
        """Stop these."""
        with self._lock:
            unwanted = set(runs)
            self._queue = deque(run for run in self._queue if run not in unwanted)
            having = [worker for worker in self._workers if worker.run in unwanted]
        for run in runs:
            run.cancel()
        for worker in having:
            worker.end_run()

    @property
    def workers(self) -> int:
        """Those that are there or starting."""
        return len(self._workers)

    def close(self) -> None:
        """Let all workers go; their Jobs are deleted."""
        with self._lock:
            self.closed = True
            workers, self._workers = self._workers, set()
            left, self._queue = list(self._queue), deque()
        lost = [*left, *(worker.run for worker in workers if worker.run is not None)]
        for worker in workers:
            worker.close()
            self._host.discard(worker.call, worker.namespace)
        until = time.monotonic() + THREADS_END_WITHIN
        for worker in workers:
            worker.join(max(0.0, until - time.monotonic()))
        self._api.close()
        for run in lost:
            if not run.over:
                run.fail(errors.WorkerDiedError(f"The pool of {run.call} was closed before it had ended."))

    def forget(self) -> None:
        """In a forked child: all of this is the parent's."""
        self.closed = True

    # -- which call goes where

    def _go_on(self) -> None:
        """Give calls to workers that wait for one, and start more workers if they are wanted."""
        given: list[tuple[Worker, Run]] = []
        with self._lock:
            if self.closed:
                return
            for worker in self._workers:
                if worker.ready and worker.run is None and (run := self._next()) is not None:
                    worker.reserve(run)
                    given.append((worker, run))
            held_off = bool(self._workers) and time.monotonic() < self._not_before
            missing = 0 if held_off else self._wanted() - len(self._workers)
            started = [self._new_worker() for _ in range(missing)]
            tick, self._ticking = bool(self._queue) and not self._ticking, bool(self._queue) or self._ticking
        for worker, run in given:
            worker.give(run)
        for worker in started:
            self._start(worker)
        if tick:
            self._host.later(TICK, self._tick)

    def _tick(self) -> None:
        with self._lock:
            self._ticking = False
        self._go_on()

    def _next(self) -> Run | None:
        while self._queue:
            run = self._queue.popleft()
            if not run.over and not run.settled:
                return run
        return None

    def _wanted(self) -> int:
        running = [worker.run for worker in self._workers if worker.run is not None]
        now = time.monotonic()
        longest = max((now - run.began for run in running if run.began is not None), default=0.0)
        seconds = self._seconds if longest < 1.0 else max(self._seconds or 0.0, longest)
        demand = Demand(len(self._queue), len(running), seconds)
        return wanted_workers(demand, self._config.min_workers, self._config.max_workers)

    def _new_worker(self) -> Worker:
        key = os.urandom(KEY_SIZE)
        worker = Worker(self, self._api, self._namespace, new_id("worker", key), key)
        self._workers.add(worker)
        return worker

    def _start(self, worker: Worker) -> None:
        config = self._config
        arguments = (worker.token, config.idle_timeout, RECONNECT, tuple(config.preload))
        submission = Submission(
            call=worker.call,
            function="worker",
            options=self._options,
            payload=self._host.packer.pack(program.serve, arguments),
            key=worker.key,
        )
        try:
            self._host.start(submission, worker)
        except errors.KubefuncError as error:
            worker.fail(None, error)

    # -- from the workers

    def worker_moved(self, worker: Worker, where: Whereabouts) -> None:
        with self._lock:
            if any(each.ready for each in self._workers):
                return  # calls wait for one that works, not for this one
            self._where = where
            waiting = list(itertools.islice(self._queue, NEWS_FOR))
        for run in waiting:
            run.moved(where)

    def worker_ready(self, worker: Worker) -> None:
        with self._lock:
            self._where = None
        self._go_on()

    def worker_leaves(self, worker: Worker) -> None:
        with self._lock:
            run = worker.take_back()
            self._workers.discard(worker)
            if run is not None:
                self._queue.appendleft(run)
        self._go_on()

    def worker_refused(self, worker: Worker, why: str) -> None:
        worker.fail(
            None,
            errors.PermissionDeniedError(
                f"Calls with pool= need the permission to exec into Pods (create pods/exec): {why}. "
                "Ask for it, or leave pool= out: each call is a Job of its own then."
            ),
        )

    def worker_over(self, worker: Worker, error: errors.KubefuncError | None) -> None:
        with self._lock:
            known = worker in self._workers
            self._workers.discard(worker)
            run = worker.take_back()
            self._losses += 1
            hopeless = not self._workers and self._is_hopeless(error)
            if error is not None and not worker.has_served:
                self._not_before = time.monotonic() + HOLD_OFF
            queued = list(self._queue) if hopeless else []
            if hopeless:
                self._queue.clear()
        if known:
            self._host.discard(worker.call, worker.namespace)
        if run is not None:
            self._without_worker(run, error)
        for each in queued:
            each.fail(_as_error(error))
        self._go_on()

    def _is_hopeless(self, error: errors.KubefuncError | None) -> bool:
        """Whether another worker would fare no better."""
        if error is None or isinstance(error, _OTHERS_DOING):
            return self._losses > LOSSES
        return True

    def run_ended(self, worker: Worker, run: Run) -> None:
        took = time.monotonic() - (run.began or 0.0)
        with self._lock:
            self._losses = 0
            self._seconds = took if self._seconds is None else self._seconds + WEIGHT * (took - self._seconds)
        self._go_on()
        if not run.over:
            run.settle()

    def run_lost(self, worker: Worker, run: Run) -> None:
        if not run.over:
            self._without_worker(run, None)
        self._go_on()

    def _without_worker(self, run: Run, error: errors.KubefuncError | None) -> None:
        """Its worker has gone while it ran: it runs again elsewhere, unless that was its own doing."""
        if run.over:
            return
        if error is not None and not isinstance(error, _OTHERS_DOING):
            run.fail(error)
            return
        run.lost(
            error
            or errors.PodLostError(
                f"{run.call} lost its worker: the Pod was deleted, or its node is gone. See what ended it: kubectl get "
                "events. max_disruptions= says how often it may run again."
            )
        )


_OTHERS_DOING = (errors.PodLostError, errors.JobDeletedError)


def _as_error(error: errors.KubefuncError | None) -> errors.KubefuncError:
    return error if error is not None else errors.PodLostError("the worker has gone")


class Pools:
    """The pools of a session on one cluster."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.RLock()
        self._pools: dict[tuple[Pool, str, str], WarmPool] = {}
        self._work: weakref.WeakValueDictionary[str, WarmWork] = weakref.WeakValueDictionary()

    def submit(self, submission: Submission, sink: Sink, namespace: str) -> WarmWork:
        """Run this on the workers that fit it.

        Raises:
            ConfigurationError: an option does not go with a pool.
        """
        options = submission.options
        config = options.pool
        if config is None:
            raise RuntimeError("a submission without a pool")
        if options.detach:
            raise errors.ConfigurationError(
                "detach=True does not go with pool=: a worker ends soon after your program. Leave pool= out."
            )
        if options.publish is not None and options.publish.owned:
            raise errors.ConfigurationError(
                "publish= with owned=True does not go with pool=: the call has no Job that could be the owner. "
                "Leave owned= out, or pool=."
            )
        if options.service is not None:
            raise errors.ConfigurationError(
                f"service={options.service!r} does not go with pool=: other calls use its Pods too. Leave one out."
            )
        pool = self._pool(config, options, namespace)
        indexes = [0] if submission.shape == "single" else list(submission.items)
        changed = threading.Condition()
        runs = [Run(submission, index, sink, changed) for index in indexes]
        with self._lock:
            work = self._work.setdefault(submission.call, WarmWork(self._host.api, namespace, submission))
        work.add(pool, runs)
        sink.moved(indexes, Whereabouts(Phase.PENDING))
        pool.submit(runs)
        return work

    def _pool(self, config: Pool, options: Options, namespace: str) -> WarmPool:
        own = dataclasses.replace(options, **{name: getattr(_DEFAULTS, name) for name in _OF_THE_CALL}, keep="never")
        key = (config, namespace, repr(own))
        with self._lock:
            if key not in self._pools or self._pools[key].closed:
                self._pools[key] = made = WarmPool(self._host, config, own, namespace)
                config.opened(made)
            return self._pools[key]

    def close(self) -> None:
        """Let all workers go."""
        for pool in list(self._pools.values()):
            pool.close()

    def cancel(self, calls: Sequence[str]) -> None:
        """Stop those of these calls that are ours."""
        for work in [self._work.get(call) for call in calls]:
            if work is not None:
                work.cancel()

    def forget(self) -> None:
        for pool in self._pools.values():
            pool.forget()


_DEFAULTS = Options()


class WarmWork:
    """Implements :class:`kubefunc.backends.base.Work` for all attempts of a call or map."""

    def __init__(self, api: Api, namespace: str, submission: Submission) -> None:
        self._api = api
        self._namespace = namespace
        self._call = submission.call
        self._publication = submission.options.publish
        self._runs: list[tuple[WarmPool, Run]] = []

    def add(self, pool: WarmPool, runs: Sequence[Run]) -> None:
        """Runs of this call, or of items of this map, in that pool."""
        self._runs += [(pool, run) for run in runs]

    def address(self) -> str:
        raise errors.SerializationError(
            f"{self._call} runs in a pool, which belongs to this program: no other process can have a handle of it. "
            "Pass its result() instead, or leave pool= out."
        )

    def outlives_program(self) -> bool:
        return False

    def cancel(self) -> None:
        running = [(pool, run) for pool, run in self._runs if not run.over]
        for each in {pool for pool, _ in running}:
            each.cancel([run for pool, run in running if pool is each])

    def discard(self) -> None:
        """Nothing of a call that has ended is kept."""
        self.cancel()

    def logs(self, follow: bool) -> Iterator[bytes]:
        for _, run in list(self._runs):
            yield from run.logs(follow)

    def drain(self, seconds: float) -> None:
        """What an item prints is handed over before its outcome."""

    def publication(self) -> ConfigMapKey | SecretKey | None:
        return self._publication

    def publish(self, to: ConfigMapKey | SecretKey, content: str | bytes) -> bool:
        publish(self._api, self._namespace, to, content, self._call, lambda: None)
        return True

    def read(self) -> Submission:
        raise errors.ConfigurationError(f"{self._call} ran in a pool: nothing of it is kept.")

    def access(self) -> Access:
        raise errors.ConfigurationError(
            f"{self._call} runs in a pool, whose Pods other calls use too: its ports cannot be reached. Leave pool= "
            "out."
        )

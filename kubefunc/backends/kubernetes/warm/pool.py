"""A pool of warm workers: which call goes to which worker, and how many workers there are.

Calls with the same Pod options and the same :class:`kubefunc.Pool` share workers. Other programs may have left some of
the same kind (:mod:`kubefunc.backends.kubernetes.warm.records`): those are used first. At this program's end its
workers stay for the next one, unless they are not shared.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kubefunc import errors
from kubefunc.backends.base import Whereabouts
from kubefunc.backends.kubernetes.warm.backlog import Backlog
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.scaling import Demand, newer_mean, sends_ahead, wanted_workers
from kubefunc.backends.kubernetes.warm.supply import Host, Supply
from kubefunc.backends.kubernetes.warm.worker import Worker
from kubefunc.diagnosis import Phase
from kubefunc.options import Options
from kubefunc.pool import Counts

if TYPE_CHECKING:
    from kubefunc.pool import Pool

TICK = 0.25  # seconds between two looks at a queue that does not get shorter
LOOK_EVERY = 0.01  # seconds in which calls that end have all workers looked at once, not once each
LOSSES = 5  # workers in a row that may get lost before a call has ended
HOLD_OFF = 30.0  # seconds
THREADS_END_WITHIN = 0.5  # seconds; on a dead network some do not
NEWS_FOR = 50  # calls in a queue that are told what their worker waits for
FOLLOW_AFTER = 2.0  # seconds after which the Job of a worker that was found is watched: many programs end sooner


class WarmPool:
    """Implements :class:`kubefunc.backends.kubernetes.warm.worker.Owner`."""

    def __init__(self, host: Host, config: Pool, options: Options, namespace: str) -> None:
        self._later = host.later
        self._config = config
        self._supply = Supply(host, config, options, namespace)
        self.transfers = self._supply.transfers
        self._least = config.least
        self._lock = threading.RLock()
        self._queue = Backlog()
        self._workers: set[Worker] = set()
        self._seconds: float | None = None
        self._where: Whereabouts | None = None
        self._ticking = False
        self._looked = 0.0  # when all workers were
        self._losses = 0  # workers that went without a call having ended since
        self._not_before = 0.0  # no worker is started where another could not
        self.closed = False

    # -- from above

    def submit(self, runs: Sequence[Run]) -> None:
        """Have these run, in this order."""
        with self._lock:
            self._queue.add(runs)
            where = self._where
        self._go_on()
        if where is not None:  # workers are starting, and this is what they wait for
            for run in runs[:NEWS_FOR]:
                run.moved(where)

    def cancel(self, runs: Sequence[Run]) -> None:
        """Stop these."""
        with self._lock:
            unwanted = set(runs)
            self._queue.drop(unwanted)
            having = [(worker, each) for worker in self._workers for each in worker.given.batches]
        for run in runs:
            run.end()
        for worker, batch in having:
            if unwanted.intersection(batch.left):
                worker.end_run(batch)

    def recall(self, runs: Sequence[Run]) -> Sequence[Run]:
        """Those of these that no worker has: they will not run."""
        with self._lock:
            return self._queue.remove(set(runs))

    def counts(self) -> Counts:
        """Its workers by what they do."""
        with self._lock:
            busy = sum(worker.run is not None for worker in self._workers)
            idle = sum(worker.ready and worker.run is None for worker in self._workers)
            return Counts(busy, idle, len(self._workers) - busy - idle)

    def scale(self, workers: int) -> None:
        """Have at least so many, and end those beyond that have no call."""
        with self._lock:
            self._least = workers
            unused = sorted((each for each in self._workers if each.run is None), key=lambda each: each.ready)
            unwanted = unused[: max(0, len(self._workers) - workers)]
            self._workers.difference_update(unwanted)
        for worker in unwanted:
            worker.close()
            self._supply.remove(worker)
        self._go_on()

    def close(self) -> None:
        """End all workers; their Jobs are deleted."""
        self._let_go(lambda worker: False)

    def leave(self) -> None:
        """Let all workers go, at the program's end: others may have those that are shared."""
        self._let_go(lambda worker: self._config.share and worker.has_served)

    def _let_go(self, stays: Callable[[Worker], bool]) -> None:
        with self._lock:
            self.closed = True
            workers, self._workers = self._workers, set()
            left = self._queue.clear()
        lost = [*left, *(run for worker in workers for batch in worker.given.batches for run in batch.left)]
        for worker in workers:
            if stays(worker):
                self._supply.leave(worker)
            else:
                worker.close()
                self._supply.remove(worker)
        until = time.monotonic() + THREADS_END_WITHIN
        for worker in workers:
            worker.join(max(0.0, until - time.monotonic()))
            worker.close()
        self._supply.close()
        for run in lost:
            if not run.over:
                run.fail(errors.WorkerDiedError(f"The pool of {run.call} was closed before it had ended."))

    def forget(self) -> None:
        """In a forked child: all of this is the parent's, whose calls go on whatever the child does with them."""
        self._lock = threading.RLock()
        self.closed = True
        self._workers = set()

    # -- which call goes where

    def _go_on(self) -> None:
        """Give calls to workers that wait for one, and start more workers if they are wanted."""
        with self._lock:
            if self.closed:
                return
            self._looked = now = time.monotonic()
            idle = (each for each in self._workers if _is_idle(each))
            queue, seconds, count = self._queue, self._seconds, len(self._workers)
            brisk = (each for each in self._workers if _may_have_more(each, queue, seconds, count))
            given = [worker for worker in itertools.chain(idle, brisk) if _assign(worker, queue, seconds, count)]
            overdue = [worker for worker in self._workers if worker.is_overdue]
            self._workers.difference_update(overdue)
            held_off = bool(self._workers) and now < self._not_before
            asked = [each for each in self._workers if each.given.is_overdue(now)]
            missing = 0 if held_off else self._wanted() - len(self._workers)
            started = self._supply.new_workers(self, missing, {worker.call for worker in self._workers})
            self._workers.update(started)
            busy = bool(self._queue) or any(each.given.others_wait for each in self._workers)
            tick, self._ticking = busy and not self._ticking, busy or self._ticking
        for worker in overdue:
            worker.close()
        for worker in given:
            worker.give()
        for worker in asked:
            worker.ask_back()
        for worker in started:
            self._supply.start(worker)
        if tick:
            self._later(TICK, self._tick)

    def _tick(self) -> None:
        with self._lock:
            self._ticking = False
        self._go_on()

    def _go_on_with(self, worker: Worker) -> None:
        """Its call has ended: nothing else has changed, and of a hundred workers one ends some each millisecond.

        While calls wait, the next tick looks at all of them.
        """
        with self._lock:
            was_seen = not self.closed and worker in self._workers
            is_due = time.monotonic() - self._looked > LOOK_EVERY
            queue, seconds, count = self._queue, self._seconds, len(self._workers)
            can_have = was_seen and not is_due and (_is_idle(worker) or _may_have_more(worker, queue, seconds, count))
            is_given = can_have and _assign(worker, queue, seconds, count)
        if is_given:
            worker.give()
        if is_due:
            self._go_on()

    def _wanted(self) -> int:
        running = [worker.run for worker in self._workers if worker.run is not None]
        now = time.monotonic()
        longest = max((now - run.began for run in running if run.began is not None and run.values is None), default=0.0)
        seconds = self._seconds if longest < 1.0 else max(self._seconds or 0.0, longest)
        demand = Demand(len(self._queue), len(running), seconds)
        return wanted_workers(demand, self._least, self._config.max_workers)

    # -- from the workers

    def worker_moved(self, worker: Worker, where: Whereabouts) -> None:
        with self._lock:
            if not any(each.ready for each in self._workers):
                self._where = where
            elif where.phase is not Phase.PENDING or not where.detail:
                return  # calls wait for one that works, not for this one; but that there is no room for it is told
            waiting = self._queue.first(NEWS_FOR)
        for run in waiting:
            run.moved(where)

    def worker_ready(self, worker: Worker) -> None:
        with self._lock:
            self._where = None
            if self.closed:
                return
            self._workers.add(worker)  # it may have left, and Kubernetes has replaced its Pod
        self._supply.is_there(worker)
        if worker.is_found:
            self._later(FOLLOW_AFTER, lambda: self._supply.follow(worker, self._workers))
        self._go_on()

    def worker_missing(self, worker: Worker, *, gone: bool) -> None:
        with self._lock:
            self._workers.discard(worker)
        self._supply.not_had(worker, gone=gone)
        self._go_on()

    def worker_taken(self, worker: Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
            run = self._queue.take_back(worker.given)
        self._supply.not_had(worker, gone=False)
        if run is not None:
            self._without_worker(run, None)
        self._go_on()

    def worker_leaves(self, worker: Worker) -> None:
        with self._lock:
            run = self._queue.take_back(worker.given)
            self._workers.discard(worker)
            if run is not None and not run.returned.are_there:
                self._queue.put_back(run.left)
        if run is not None and run.returned.are_there:  # it has ended, and its files go with the worker
            self._without_worker(run, None)
        self._supply.ends(worker)
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
            run = self._queue.take_back(worker.given)
            self._losses += 1
            hopeless = not self._workers and _is_hopeless(worker, error, self._losses)
            if error is not None and not worker.has_served:
                self._not_before = time.monotonic() + HOLD_OFF
            queued = self._queue.clear() if hopeless else []
        if known:
            self._supply.remove(worker)
        if run is not None:
            self._without_worker(run, error)
        for each in queued:
            each.fail(_as_error(error))
        self._go_on()

    def given_back(self, runs: Sequence[Run]) -> None:
        with self._lock:
            self._queue.put_back(runs)
        self._go_on()

    def run_ended(self, worker: Worker, run: Batch) -> None:
        took = (time.monotonic() - (run.began or 0.0)) / len(run.runs)
        self._supply.was_used(worker)
        with self._lock:
            self._losses = 0
            if run.values is None:  # a stream takes as long as its program does
                self._seconds = newer_mean(self._seconds, took, len(run.runs))
        try:
            self._go_on_with(worker)
        finally:
            if not run.over:
                run.settle()

    def run_lost(self, worker: Worker, run: Batch) -> None:
        if not run.over:
            self._without_worker(run, None)
        self._go_on()

    def _without_worker(self, run: Batch, error: errors.KubefuncError | None) -> None:
        """Its worker has gone while it ran: it runs again elsewhere, unless that was its own doing."""
        if run.over:
            return
        if error is not None and not isinstance(error, _OTHERS_DOING) and len(run.left) == 1:
            run.fail(error)  # of several nobody knows which one it was: they run again, each alone
            return
        run.lost(
            error
            or errors.PodLostError(
                f"{run.call} lost its worker: the Pod was deleted, or its node is gone. See what ended it: kubectl get "
                "events. max_disruptions= says how often it may run again."
            )
        )


_OTHERS_DOING = (errors.PodLostError, errors.JobDeletedError)


def _is_idle(worker: Worker) -> bool:
    return worker.ready and worker.run is None


def _may_have_more(worker: Worker, queue: Backlog, seconds: float | None, workers: int) -> bool:
    """Whether a worker that runs something gets the next batch now."""
    run = worker.run
    if not queue or run is None or run.began is None:
        return False
    ahead = sends_ahead(seconds, time.monotonic() - run.began, len(queue), workers)
    return ahead and worker.may_have_more(queue.first(1)[0].parcel)


def _assign(worker: Worker, queue: Backlog, seconds: float | None, workers: int) -> bool:
    """Have it run what comes next; False if nothing does."""
    batch = queue.next_batch(seconds, workers)
    if batch is not None:
        worker.given.assign(batch)
    return batch is not None


def _is_hopeless(worker: Worker, error: errors.KubefuncError | None, losses: int) -> bool:
    """Whether another worker would fare no better than this one, after so many losses.

    One that has served ends by what a call did: on cgroup v2 a whole Pod ends with the process that used up its memory.
    """
    if error is None or isinstance(error, _OTHERS_DOING) or worker.has_served:
        return losses > LOSSES
    return True


def _as_error(error: errors.KubefuncError | None) -> errors.KubefuncError:
    return error if error is not None else errors.PodLostError("the worker has gone")

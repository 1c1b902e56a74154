"""The tasks of an executor on warm workers: items of a map that stays open, in one process of each worker."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.pool import WarmPool
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.diagnosis import Phase
from kubefunc.errors import KubefuncError
from kubefunc.packing.code_archive import NO_CODE, CodeArchive
from kubefunc.packing.payload import Payload
from kubefunc.runner.protocol.file import travelled, with_numbers
from kubefunc.runner.protocol.records import Record
from kubefunc.runner.warm.kept import name_of_code


class TaskRun(Run):
    """One task. It is claimed when a worker is given it: until then it may be cancelled."""

    __slots__ = ("_tasks",)

    def __init__(self, parcel: Parcel, index: int, sink: Sink, tasks: WarmTasks) -> None:
        super().__init__(parcel, index, sink, threading.Condition())
        self._tasks = tasks

    def is_wanted(self) -> bool:
        if super().is_wanted() and self._tasks.claim(self.index):
            return True
        self.end()
        return False

    def take(self, outcomes: Sequence[Record]) -> None:
        self._tasks.forget([each.index for each in outcomes])
        super().take(outcomes)

    def fail(self, error: KubefuncError) -> None:
        self._tasks.forget([self.index])
        super().fail(error)

    def lost(self, error: KubefuncError, indexes: Sequence[int]) -> None:
        """They run again, as often as they may be disrupted."""
        over = [index for index in indexes if not self._tasks.run_again(index)]
        if over:
            self._tasks.forget(over)
            super().lost(error, over)

    def end(self) -> None:
        super().end()
        self._tasks.run_ended(self)


class WarmTasks:
    """Implements :class:`kubefunc.backends.base.OpenWork`."""

    failure: KubefuncError | None = None  # a pool that cannot have workers says so to each task

    def __init__(
        self,
        pool: WarmPool,
        submission: Submission,
        sink: Sink,
        at_once: int,
        claim: Callable[[int], bool],
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:
        """
        Args:
            pool: where they run.
            submission: the function that runs a task, without items.
            sink: who is told.
            at_once: how many tasks may be with the pool at once; 0: any number.
            claim: asked before a task is sent, whether it is still to run.
            later: has something done after so many seconds, in another thread.
        """
        self._pool = pool
        self._submission = submission
        self._sink = sink
        self._at_once = at_once
        self.claim = claim
        self._later = later
        self._lock = threading.RLock()
        self._parcels: dict[str, Parcel] = {}
        self._waiting: deque[TaskRun] = deque()
        self._given: dict[int, TaskRun] = {}  # to the pool
        self._lost: dict[int, int] = {}  # how often, of those that have lost their worker

    def add(self, index: int, payload: Payload) -> None:
        parcel = self._parcel_with_files(index, payload) if payload.files else self._parcel(payload.code)
        task = dataclasses.replace(payload, code=NO_CODE).data
        files = {number: _Travelling(number, payload.files[number].file.name) for number in payload.used_files}
        arguments = pickle.dumps((task, "", files) if files else (task, ""), protocol=5)
        with self._lock:
            parcel.add_item(index, with_numbers(arguments, payload.used_files))
            self._waiting.append(TaskRun(parcel, index, self._sink, self))
        self._sink.moved([index], Whereabouts(Phase.PENDING))
        self._feed()

    def _parcel(self, code: CodeArchive) -> Parcel:
        """Tasks with the same modules travel together; those of the initializer go with all of them."""
        name = name_of_code(code.table)  # not its digest: for that it would be packed
        with self._lock:
            if name not in self._parcels:
                sent = dataclasses.replace(self._submission, items={})
                self._parcels[name] = Parcel(sent, fresh=True, code=code)
            return self._parcels[name]

    def _parcel_with_files(self, index: int, payload: Payload) -> Parcel:
        """A task whose files nobody else needs."""
        own = dataclasses.replace(self._submission.payload, files=payload.files, used_files=payload.used_files)
        sent = dataclasses.replace(self._submission, items={}, payload=own)
        return Parcel(sent, fresh=True, code=payload.code, place=f"{sent.call}.{index}")

    def _feed(self) -> None:
        with self._lock:
            room = self._at_once - len(self._given) if self._at_once else len(self._waiting)
            runs = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
            self._given.update({run.index: run for run in runs})
        if runs:
            self._pool.submit(runs)

    def run_ended(self, run: TaskRun) -> None:
        """There is room for another one."""
        with self._lock:
            if self._given.get(run.index) is run:
                del self._given[run.index]
            others_wait = bool(self._waiting)
        if others_wait:
            self._later(0.0, self._feed)  # not here: the pool may be giving workers their batches

    def forget(self, indexes: Iterable[int]) -> None:
        """These have their outcome."""
        with self._lock:
            for index in indexes:
                self._lost.pop(index, None)
            for parcel in self._parcels.values():
                parcel.drop_items(indexes)

    def run_again(self, index: int) -> bool:
        """The worker of this task has gone. False if it may not run again."""
        with self._lock:
            lost = self._lost[index] = self._lost.get(index, 0) + 1
            before = self._given.get(index)
            if before is None or lost > self._submission.options.max_disruptions:
                return False
            run = TaskRun(before.parcel, index, self._sink, self)
            self._given[index] = run
        self._pool.submit([run])
        return True

    def recall(self, recalled: Callable[[int], None]) -> None:
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        for run in [*waiting, *self._pool.recall(list(self._given.values()))]:
            recalled(run.index)
            run.end()

    def no_more(self) -> None:
        """The pool's workers stay."""

    def cancel(self) -> None:
        with self._lock:
            self._waiting.clear()
            given = list(self._given.values())
        self._pool.cancel(given)

    def join(self, seconds: float | None) -> None:
        """The pool's workers stay."""


class _Travelling:
    """Stands in a pickle for a file that travels beside it."""

    def __init__(self, number: int, name: str) -> None:
        self._reference = number, name

    def __reduce__(self) -> tuple[object, ...]:
        return travelled, self._reference

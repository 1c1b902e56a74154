"""How a gang is started, ended and started again: all of its ranks alike."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kubefunc.backends.base import Backend, Lost, Submission, Whereabouts
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Raised, is_value
from kubefunc.errors import ConfigurationError, KubefuncError, PodLostError
from kubefunc.handles.map_items import MapItems
from kubefunc.options import Options
from kubefunc.outcomes.attempts import Attempts, View
from kubefunc.outcomes.retry import Again, how_rank_ended
from kubefunc.outcomes.store import CANCELLED, Outcomes
from kubefunc.runner.execution.exceptions import add_note
from kubefunc.runner.protocol.records import Record
from kubefunc.session import Session

FAULT_WITHIN = 5.0
"""Seconds after a rank has failed, in which it may turn out that another one was the cause, or its Pod was lost."""


class _GangView(View):
    """What an attempt of a gang may tell: the first rank that fails ends all, unless the gang begins again."""

    def __init__(self, outcomes: Outcomes, sent: Submission, gang: GangAttempts) -> None:
        super().__init__(outcomes, sent.attempt, functools.partial(gang._try_again, sent))
        self._gang = gang
        self._number = sent.attempt
        self._lock = threading.RLock()
        self._records: dict[int, Record] = {}  # of ranks that have ended
        self._is_awaited = self._is_judged = False

    def missing(self, indexes: Iterable[int]) -> list[int]:
        return [rank for rank in super().missing(indexes) if rank not in self._records]

    def take(self, outcomes: Sequence[Record]) -> None:
        size = self._outcomes.count or 0
        mine = [each for each in outcomes if each.index < size]
        with self._lock:
            waits = not self._is_judged and self._gang.may_retry
            self._records.update({each.index: each for each in mine})
            all_ended = len(self._records) == size
        if not waits:  # else all ranks may run again: none has its outcome before that is known
            self._settle(mine)
        if all_ended:
            self._judge()
        elif not all(map(is_value, mine)):
            self._judge_soon()

    def fail(self, indexes: Sequence[int] | None, error: KubefuncError) -> None:
        if isinstance(error, PodLostError):  # its Job replaces no Pod, however often it might
            self.lost(self._ranks if indexes is None else indexes, Lost(error))
            return
        super().fail(indexes, error)
        self._judge_soon()

    def lost(self, indexes: Sequence[int], how: Lost) -> None:
        super().lost(indexes, how)
        self._judge_soon()

    def _settle(self, records: Iterable[Record]) -> None:
        self._outcomes.settle([(each.index, each) for each in records], self._number)

    def _judge_soon(self) -> None:
        with self._lock:
            is_first, self._is_awaited = not self._is_awaited, True
        if is_first:
            self._gang.after(FAULT_WITHIN, self._judge)

    def _judge(self) -> None:
        """Decide, once, whether all ranks run again, or the gang has ended."""
        with self._lock:
            if self._is_judged or self._outcomes.attempt != self._number:
                return
            self._is_judged = True
            records = list(self._records.values())
        failed = [each for each in records if not is_value(each)]
        has_error = any(self._outcomes.has_failed(rank) and rank not in self._records for rank in self._ranks)
        cause = min(failed, key=lambda each: each.finished) if failed and not has_error else None
        ended = how_rank_ended(cause) if cause is not None else None
        if ended is not None and self._try_again(self._ranks, ended):
            return
        self._settle(records)
        if failed or has_error:
            self._gang.end()

    @property
    def _ranks(self) -> Sequence[int]:
        return range(self._outcomes.count or 0)


class GangAttempts(Attempts):
    """Starts a gang; and all of it again, when one of its Pods is lost or a rank failed and may be tried again."""

    def __init__(self, items: MapItems[Any], backend: Backend, options: Options) -> None:
        """``options``: those of the gang, which say how often it may begin again."""
        super().__init__(items.outcomes, backend)
        self._items = items
        self._options = options
        self.may_retry = options.retries > 0

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        """Do this then, in another thread."""
        self._later(seconds, work)

    def end(self) -> None:
        """End the ranks that still run."""
        self._items.cancel(range(self._outcomes.count or 0))

    def _view(self, sent: Submission) -> View:
        return _GangView(self._outcomes, sent, self)

    def _run_again(self, sent: Submission, indexes: Sequence[int], again: Again) -> bool:
        """Run all ranks in a new Job. False where they may not."""
        outcomes, ranks = self._outcomes, range(sent.count)
        with outcomes.unchanged():
            if outcomes.attempt != sent.attempt:
                return True  # for another of its Pods
            settled = [rank for rank in ranks if outcomes.is_settled(rank)]
            if not all(map(outcomes.has_failed, settled)) or len(settled) == sent.count:
                return False  # it was cancelled, or a rank that has its result would run twice
            for rank in settled:
                self._items.set_apart(rank)
            number = outcomes.begin_again(settled)
            outcomes.pass_on(ranks, number)
        outcomes.move(ranks, Whereabouts(Phase.SUBMITTING, again.why), number)
        if self._items.work is not None:
            self._items.work.cancel()
        next_one = as_sent(dataclasses.replace(again.sent, attempt=number))
        self._later(again.delay, lambda: self._start(next_one))
        return True

    def _as_asked(self, sent: Submission) -> Submission:
        asked = self._options
        options = dataclasses.replace(sent.options, retries=asked.retries, max_disruptions=asked.max_disruptions)
        return dataclasses.replace(sent, options=options)

    def _start(self, sent: Submission) -> None:
        view = self.view(sent)
        if not view.missing(range(sent.count)):  # they were cancelled meanwhile
            return
        try:
            self._items.work = self._backend.submit(sent, view)
            if self._outcomes.is_over:  # or just now
                self._items.work.cancel()
        except Exception as error:  # noqa: BLE001 - nobody waits for an attempt that could not begin
            view.fail(None, KubefuncError(f"The gang could not be started again: {error}"))


def start_gang(of: Session, backend: Backend, submission: Submission) -> MapItems[Any]:
    """The ranks of a gang, which is sent in the background."""
    options = submission.options
    items: MapItems[Any] = MapItems(
        submission.call, submission.function, backend, of, return_exceptions=False, verbose=options.verbose
    )
    items.attempts = GangAttempts(items, backend, options)
    items.outcomes.open(submission.count)
    items.start(as_sent(submission))
    return items


def as_sent(submission: Submission) -> Submission:
    """A gang as its backend gets it: no rank runs again alone, as its peers would wait for the one that is gone."""
    options = dataclasses.replace(submission.options, retries=0, max_disruptions=0)
    return dataclasses.replace(submission, options=options)


def failure_of(outcomes: Outcomes, size: int) -> BaseException | None:
    """The error of the rank that failed first: the others fail because it does not answer them any more."""
    failed = [rank for rank in range(size) if outcomes.has_failed(rank)]
    if not failed:
        return None
    errors = {rank: ended.error for rank in failed if isinstance(ended := outcomes.get(rank), Raised)}
    own = [rank for rank in failed if errors[rank] is not CANCELLED.error]
    if not own:
        return concurrent.futures.CancelledError()
    first = min(own, key=lambda rank: _ended_at(outcomes, rank))
    error = errors[first]
    with contextlib.suppress(Exception):  # its class may do anything
        add_note(error, f"In rank {first} of {size}.")
    return error


def _ended_at(outcomes: Outcomes, rank: int) -> float:
    """By its Pod's clock; what left no record was ended from outside, which is why the others failed."""
    record = outcomes.record(rank)
    return 0.0 if record is None else record.finished


def refuse_misfits(options: Options) -> None:
    """Refuse what cannot go together with a gang.

    Raises:
        ConfigurationError: such an option is set.
    """
    if options.backoff_limit:
        raise ConfigurationError(
            f"gang={options.gang} with backoff_limit={options.backoff_limit}: a Pod alone would be replaced while the "
            "others wait for the one that is gone. Leave backoff_limit out: max_disruptions= says how often all ranks "
            "begin again."
        )
    if options.pool is not None:
        raise ConfigurationError(f"gang={options.gang} with pool=: the Pods of a gang start together. Leave pool= out.")
    if options.detach:
        raise ConfigurationError(f"gang={options.gang} with detach=True: a gang ends with the program that started it.")

"""How a gang is started, ended and started again: all of its ranks alike."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import Sequence
from typing import Any

from kubefunc.attempts import Attempts, View
from kubefunc.backends.base import Backend, Lost, Submission, Whereabouts
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Raised
from kubefunc.errors import ConfigurationError, KubefuncError, PodLostError
from kubefunc.map_items import MapItems
from kubefunc.options import Options
from kubefunc.outcomes import CANCELLED, Outcomes
from kubefunc.retry import OutOfMemory
from kubefunc.runner.execution.exceptions import add_note
from kubefunc.session import Session

FAULT_WITHIN = 5.0
"""Seconds after a rank has failed, in which it may turn out that another one was the cause, or its Pod was lost."""


class _GangView(View):
    """What an attempt of a gang may tell: the first rank that fails ends all, unless the gang begins again."""

    def __init__(self, outcomes: Outcomes, attempt: int, gang: GangAttempts, sent: Submission) -> None:
        super().__init__(outcomes, attempt, lambda indexes, ended: gang.begin_again(sent, ended))
        self._gang = gang
        self._number = attempt

    def fail(self, indexes: Sequence[int] | None, error: KubefuncError) -> None:
        if isinstance(error, PodLostError) and self._try_again(indexes or (), Lost(error)):
            return
        self._end(range(self._outcomes.count or 0) if indexes is None else indexes, error)


class GangAttempts(Attempts):
    """Starts a gang; and all of it again, when one of its Pods is lost."""

    def __init__(self, items: MapItems[Any], backend: Backend, most: int) -> None:
        """``most``: how often it may begin again."""
        super().__init__(items.outcomes, backend)
        self._items = items
        self._most = most

    def view(self, sent: Submission) -> View:
        """What the attempt that this submission is may tell."""
        return _GangView(self._outcomes, sent.attempt, self, sent)

    def begin_again(self, sent: Submission, ended: OutOfMemory | Lost) -> bool:
        """Run all ranks in a new Job. False where they may not, or where one has its result already."""
        if not isinstance(ended, Lost) or sent.disruptions >= self._most:
            return False
        outcomes, ranks = self._outcomes, range(sent.count)
        with outcomes.unchanged():
            if outcomes.attempt != sent.attempt:
                return True  # for another of its Pods
            settled = [rank for rank in ranks if outcomes.is_settled(rank)]
            if not all(outcomes.has_failed(rank) for rank in settled) or len(settled) == sent.count:
                return False
            for rank in settled:
                self._items.calls.pop(rank, None)  # it keeps its error
            number = outcomes.begin_again(settled)
            outcomes.pass_on(ranks, number)
        again = dataclasses.replace(sent, attempt=number, disruptions=sent.disruptions + 1)
        outcomes.move(ranks, Whereabouts(Phase.SUBMITTING, "a Pod was lost, all ranks begin again"), number)
        if self._items.work is not None:
            self._items.work.cancel()
        self._later(0.0, lambda: self._start(again))
        return True

    def _start(self, sent: Submission) -> None:
        try:
            self._backend.submit(sent, self.view(sent))
        except Exception as error:  # noqa: BLE001 - nobody waits for an attempt that could not begin
            self.view(sent).fail(None, KubefuncError(f"The gang could not be started again: {error}"))


def start_gang(of: Session, backend: Backend, submission: Submission) -> MapItems[Any]:
    """The ranks of a gang, which is sent in the background."""
    options = submission.options
    items: MapItems[Any] = MapItems(
        submission.call, submission.function, backend, of, return_exceptions=False, verbose=options.verbose
    )
    items.attempts = GangAttempts(items, backend, options.max_disruptions)
    items.on_failure = lambda: _end_soon(items)
    items.outcomes.open(submission.count)
    items.start(as_sent(submission))
    return items


def as_sent(submission: Submission) -> Submission:
    """A gang as its backend gets it: no Pod is replaced alone, as its peers would wait for the one that is gone."""
    return dataclasses.replace(submission, options=dataclasses.replace(submission.options, max_disruptions=0))


def _end_soon(items: MapItems[Any]) -> None:
    attempt = items.outcomes.attempt

    def end() -> None:
        if items.outcomes.attempt == attempt:
            items.cancel(range(items.outcomes.count or 0))

    timer = threading.Timer(FAULT_WITHIN, end)
    timer.name, timer.daemon = "kubefunc-gang", True
    timer.start()


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
    if options.retries:
        raise ConfigurationError(
            f"gang={options.gang} with retries={options.retries}: one rank would run again while the others go on. "
            "Leave retries at 0; after a lost Pod the whole gang begins again (max_disruptions)."
        )
    if options.pool is not None:
        raise ConfigurationError(f"gang={options.gang} with pool=: the Pods of a gang start together. Leave pool= out.")
    if options.detach:
        raise ConfigurationError(f"gang={options.gang} with detach=True: a gang ends with the program that started it.")

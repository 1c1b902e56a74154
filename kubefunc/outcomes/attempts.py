"""The attempts of one submission: what each may tell the store, and when the next one begins.

::

    an item of attempt n  --take, fail--> has its outcome
             |
             +-- retry.decide() gives it a further attempt
             v
    an item of attempt n+1, from then on: attempt n can neither end it nor miss it
             |
             |  after the delay, with all that had the same fate meanwhile
             v
    backend.submit(those without an outcome, the view of attempt n+1)
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kubefunc.backends.base import Backend, Lost, Sink, Submission, Whereabouts
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Raised
from kubefunc.errors import ConfigurationError, KubefuncError
from kubefunc.outcomes.retry import Again, Ended, decide, how_error_ended, how_record_ended
from kubefunc.outcomes.store import FIRST_ATTEMPT, Outcomes
from kubefunc.runner.execution.exceptions import text_of
from kubefunc.runner.protocol.records import Record
from kubefunc.untrusted import UntrustedSink

TryAgain = Callable[[Sequence[int], Ended], bool]


def never_again(indexes: Sequence[int], ended: Ended) -> bool:
    """Of what cannot be submitted from here: its items get what they ended with."""
    return False


class View:
    """Implements :class:`kubefunc.backends.base.Sink` for the items that belong to one attempt.

    It may be told everything twice and in any order.
    """

    def __init__(self, outcomes: Outcomes, attempt: int = FIRST_ATTEMPT, try_again: TryAgain = never_again) -> None:
        """``try_again(items, how they ended)``: False where there is no further attempt for them."""
        self._outcomes = outcomes
        self._attempt = attempt
        self._try_again = try_again

    @property
    def settled(self) -> bool:
        return self._outcomes.is_over

    def missing(self, indexes: Iterable[int]) -> list[int]:
        return self._outcomes.missing(indexes, self._attempt)

    def has_failures(self, indexes: Iterable[int]) -> bool:
        return self._outcomes.has_failures(indexes, self._attempt)

    def opened(self, count: int, function: str) -> None:
        self._outcomes.owner.opened(count, function)

    def moved(self, indexes: Sequence[int], where: Whereabouts) -> None:
        self._outcomes.move(indexes, where, self._attempt)

    def output(self, indexes: Sequence[int], data: bytes) -> None:
        self._outcomes.owner.printed(indexes, data)

    def take(self, outcomes: Sequence[Record]) -> None:
        count = self._outcomes.count or 0  # a function that signs its own records may give any number
        mine = [(each.index, each) for each in outcomes if each.index < count and not self._runs_again(each)]
        self._outcomes.settle(mine, self._attempt)

    def _runs_again(self, record: Record) -> bool:
        ended = how_record_ended(record)
        return ended is not None and self._try_again((record.index,), ended)

    def fail(self, indexes: Sequence[int] | None, error: KubefuncError) -> None:
        count = self._outcomes.count
        if count is None:
            self._outcomes.fail_unopened(error)
            return
        which = range(count) if indexes is None else indexes
        ended = how_error_ended(error)
        if ended is None or not self._try_again(which, ended):
            self._end(which, error)

    def lost(self, indexes: Sequence[int], how: Lost) -> None:
        if not self._try_again(indexes, how):
            self._end(indexes, how.error)

    def _end(self, indexes: Sequence[int], error: KubefuncError) -> None:
        if len(indexes) == 1:
            self._outcomes.owner.note(indexes[0], error)
        self._outcomes.settle([(index, Raised(error)) for index in indexes], self._attempt)

    def later(self, indexes: Iterable[int]) -> Sink:
        number = self._outcomes.next_attempt()
        self._outcomes.pass_on(indexes, number)
        return View(self._outcomes, number)


@dataclass
class _Gathering:
    """A further attempt that has not begun, and those who will be in it. The lock of :class:`Attempts` guards it."""

    attempt: int
    again: Again
    indexes: list[int] = field(default_factory=list[int])
    items: dict[int, bytes] = field(default_factory=dict[int, bytes])

    def add(self, again: Again, indexes: Sequence[int]) -> bool:
        """Further items. True for the first ones."""
        is_first = not self.indexes
        self.again = self.again.joined_by(again)
        self.indexes += indexes
        self.items.update({index: again.sent.items[index] for index in indexes if index in again.sent.items})
        return is_first


class Attempts:
    """Gives a submission to its backend; and again those of its items that get a further attempt."""

    def __init__(
        self, outcomes: Outcomes, backend: Backend, later: Callable[[float, Callable[[], None]], None] | None = None
    ) -> None:
        """``later(seconds, work)`` has something done after a while, in another thread."""
        self._outcomes = outcomes
        self._backend = backend
        self._later = later or _in_a_thread
        self._lock = threading.RLock()
        self._gatherings: list[_Gathering] = []

    def view(self, sent: Submission) -> Sink:
        """What the attempt that this submission is may tell."""
        view = self._view(sent)
        return UntrustedSink(view) if sent.options.untrusted else view

    def _view(self, sent: Submission) -> View:
        return View(self._outcomes, sent.attempt, functools.partial(self._try_again, sent))

    def _try_again(self, sent: Submission, indexes: Sequence[int], ended: Ended) -> bool:
        again = decide(self._as_asked(sent), ended)
        return again is not None and self._run_again(sent, indexes, again)

    def _as_asked(self, sent: Submission) -> Submission:
        """With the options of the caller, where the backend got others."""
        return sent

    def _run_again(self, sent: Submission, indexes: Sequence[int], again: Again) -> bool:
        with self._lock:
            mine = [each for each in self._gatherings if each.again.shares_fate_with(again)]
            gathering = mine[0] if mine else _Gathering(self._outcomes.next_attempt(), again)
            items = self._outcomes.pass_on(indexes, gathering.attempt, sent.attempt)
            if not items:  # they have ended meanwhile, or run again already
                return True
            is_first = gathering.add(again, items)
            if is_first:
                self._gatherings.append(gathering)
        self._outcomes.move(items, Whereabouts(Phase.SUBMITTING, again.why), gathering.attempt)
        if is_first:
            self._soon(gathering)
        return True

    def _soon(self, gathering: _Gathering) -> None:
        if gathering.again.delay:
            self._later(gathering.again.delay, lambda: self._begin(gathering))
        else:
            self._begin(gathering)

    def _begin(self, gathering: _Gathering) -> None:
        with self._lock:
            self._gatherings.remove(gathering)
        wanted = self._outcomes.missing(gathering.indexes, gathering.attempt)
        if not wanted:  # they were cancelled meanwhile
            return
        items = {index: gathering.items[index] for index in wanted if index in gathering.items}
        sent = dataclasses.replace(gathering.again.sent, items=items, attempt=gathering.attempt)
        view = self.view(sent)
        try:
            self._backend.submit(sent, view)
        except ConfigurationError as error:
            view.fail(wanted, error)
        except Exception as error:  # noqa: BLE001 - nobody waits for an attempt that could not begin
            failure = KubefuncError(f"The next attempt could not be started: {type(error).__name__}: {text_of(error)}")
            failure.__cause__ = error
            view.fail(wanted, failure)


def _in_a_thread(seconds: float, work: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, work)
    timer.name, timer.daemon = "kubefunc-next-attempt", True
    try:
        timer.start()
    except RuntimeError:  # Python 3.12 makes no thread when the program exits: what is unfinished is cancelled then
        return

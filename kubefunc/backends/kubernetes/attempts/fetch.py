"""How far the fetching of one attempt's result has come."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kubefunc.backends.kubernetes.api.transfer import ResultStream
from kubefunc.backends.kubernetes.attempts.receipt import Receipt
from kubefunc.errors import ResultCorruptedError


@dataclass(eq=False)
class Fetch:
    """The ways to a result and what has come on them; :mod:`~kubefunc.backends.kubernetes.results.collect` takes them.

    The attempt's lock is held where two threads may decide at once.

    Attributes:
        looking: a collector thread decides what to do next.
        fetching: a stream thread fetches, or will.
        damage: what was wrong with the last result that came whole.
        asked: names of the Pods that express has been to.
        flowing: the stream's first byte of the result has come.
        values_over: no more values of the generator come from its Pod: what is left to be fetched is its result.
        receipt: what has come of the result of the Pod ``receipt_pod``.
    """

    looking: bool = False
    look_again: bool = False
    fetching: bool = False
    exec_given_up: bool = False
    damage: ResultCorruptedError | None = None
    log_misses: int = 0
    asked: set[str] = field(default_factory=set[str])
    stream: ResultStream | None = None
    stream_since: float = 0.0
    flowing: bool = False
    receipt: Receipt | None = None
    receipt_pod: str = ""
    live_again_at: float = 0.0
    values_over: bool = False

    # -- deciding what comes next

    def begin_looking(self) -> bool:
        """False where another thread looks: it looks again then."""
        if self.looking:
            self.look_again = True
            return False
        self.looking = True
        return True

    def end_looking(self) -> bool:
        """True where it was asked for meanwhile: look again."""
        again, self.look_again = self.look_again, False
        self.looking = False
        return again

    def begin_fetching(self) -> None:
        """A stream thread will fetch."""
        self.fetching = True

    def end_fetching(self) -> None:
        """No stream thread fetches any more."""
        self.fetching = False

    def give_exec_up(self) -> None:
        """Nothing more is to be had from this Pod by exec."""
        self.exec_given_up = True

    def keep_exec(self) -> None:
        """By exec, more may come."""
        self.exec_given_up = False

    def miss_in_log(self) -> int:
        """The courier's log held no result; how often that was so."""
        self.log_misses += 1
        return self.log_misses

    def start_over(self) -> None:
        """Another Pod comes: what was given up for the last one may be had from it."""
        self.exec_given_up, self.log_misses = False, 0
        self.values_over = False

    # -- streams

    def end_values(self) -> None:
        """No more values of the generator come from its Pod."""
        self.values_over = True

    def ask(self, pod: str) -> bool:
        """Send express to this Pod. False where it has been there."""
        if pod in self.asked:
            return False
        self.asked.add(pod)
        return True

    def use(self, stream: ResultStream) -> None:
        """This stream fetches from now on."""
        self.stream, self.stream_since, self.flowing = stream, time.monotonic(), False

    def flow(self) -> None:
        """The first byte of the result has come."""
        self.flowing = True

    def drop_stream(self) -> ResultStream | None:
        """No stream is to be closed from outside any more; the one that was."""
        stream, self.stream = self.stream, None
        return stream

    def rest_until(self, moment: float) -> None:
        """A stream that followed the chunk was cut: open the next one then."""
        self.live_again_at = moment

    # -- what has come

    def receipt_of(self, pod: str, new: Callable[[], Receipt]) -> Receipt:
        """What has come of this Pod's result: a stream that was cut is resumed there."""
        if self.receipt is None or self.receipt_pod != pod:
            self.receipt, self.receipt_pod = new(), pod
        return self.receipt

    def forget_receipt(self) -> None:
        """Start from the first byte again."""
        self.receipt, self.receipt_pod = None, ""

    def note_damage(self, damage: ResultCorruptedError | None) -> None:
        """What came is not what was written; None: not even in form."""
        self.damage = damage

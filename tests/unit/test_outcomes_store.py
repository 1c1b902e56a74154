"""The store of a submission's outcomes: what counts, who is told, and what another attempt may change."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubefunc.backends.base import Whereabouts
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Raised, Returned
from kubefunc.errors import PodLostError
from kubefunc.outcomes.store import CANCELLED, Outcomes, Owner
from kubefunc.runner.protocol.records import Record


class Handle(Owner):
    """The handle of a submission, which remembers what it was told."""

    def __init__(self, count: int | None = None) -> None:
        self.told: list[int] = []
        self.ends: list[bool] = []
        self.reads: list[int] = []
        self.outcomes = Outcomes(self)
        if count is not None:
            self.outcomes.open(count)

    def read(self, index: int, record: Record) -> Returned | Raised:
        self.reads.append(index)
        return Returned(bytes(record.body).decode())

    def opened(self, count: int, function: str) -> None:
        self.outcomes.open(count)

    def settled(self, indexes: Sequence[int]) -> None:
        self.told += indexes

    def over(self, *, stop: bool) -> None:
        self.ends.append(stop)


def value(index: int, text: str = "value") -> tuple[int, Record]:
    """An item's value, as a backend brings it."""
    return index, Record(index, 1.0, 2.0, 1, None, text.encode())


def test_the_first_outcome_of_an_item_counts() -> None:
    """The second is dropped, and nobody is told of it."""
    handle = Handle(2)
    assert handle.outcomes.settle([value(0, "first")], attempt=1) == 1
    assert handle.outcomes.settle([value(0, "second")], attempt=1) == 0
    assert handle.outcomes.get(0) == Returned("first")
    assert handle.told == [0]


def test_an_outcome_is_read_once_and_only_when_asked_for() -> None:
    """Until then it is the bytes that came; afterwards these are gone."""
    handle = Handle(1)
    handle.outcomes.settle([value(0)], attempt=1)
    assert handle.reads == []
    assert handle.outcomes.get(0) is handle.outcomes.get(0)
    assert handle.reads == [0]
    record = handle.outcomes.record(0)
    assert record is not None
    assert record.body == b""


def test_the_owner_is_told_once_that_all_are_over() -> None:
    """And whether something that was cancelled may still run."""
    handle = Handle(2)
    handle.outcomes.cancel([1])
    assert handle.ends == []
    handle.outcomes.settle([value(0)], attempt=1)
    assert handle.ends == [True]
    assert handle.outcomes.is_over


def test_only_the_attempt_that_an_item_belongs_to_can_end_it() -> None:
    """What the first attempt still says of an item that runs again is no news."""
    handle = Handle(2)
    handle.outcomes.settle([(0, Raised(PodLostError("gone"))), value(1)], attempt=1)
    assert handle.outcomes.begin_again([0]) == 2
    assert handle.outcomes.missing([0, 1], attempt=1) == []
    assert handle.outcomes.missing([0, 1], attempt=2) == [0]
    assert handle.outcomes.settle([value(0, "late")], attempt=1) == 0
    assert handle.outcomes.settle([value(0, "new")], attempt=2) == 1
    assert handle.outcomes.get(0) == Returned("new")


def test_a_wait_ends_with_the_news_or_at_its_deadline() -> None:
    """Another thread brings the outcome."""
    outcomes = Handle(1).outcomes
    with pytest.raises(concurrent.futures.TimeoutError):
        outcomes.waiters.wait_until(lambda: outcomes.is_settled(0), deadline=0.0)
    threading.Timer(0.05, lambda: outcomes.settle([value(0)], attempt=1)).start()
    outcomes.waiters.wait_until(lambda: outcomes.is_settled(0))


def test_a_submission_of_which_nothing_is_known_is_over() -> None:
    """It was attached to, and is not there."""
    outcomes = Handle().outcomes
    assert not outcomes.is_over
    error = PodLostError("gone")
    outcomes.fail_unopened(error)
    assert outcomes.is_over
    assert outcomes.failure is error


def test_a_handed_over_value_is_not_kept() -> None:
    """Its receiver is the only one that has it."""
    handle = Handle(1)
    handle.outcomes.settle([value(0)], attempt=1)
    assert handle.outcomes.hand_over(0) == Returned("value")
    assert handle.outcomes.get(0) == Returned(None)


EVENTS = st.lists(
    st.tuples(st.sampled_from(["value", "error", "cancel", "move", "again"]), st.integers(0, 3), st.integers(1, 3)),
    max_size=40,
)


@given(EVENTS)
def test_the_counts_add_up_whatever_happens_in_whatever_order(events: list[tuple[str, int, int]]) -> None:
    """The states together are always all items, and each ended one has its place in the order."""
    outcomes = Handle(4).outcomes
    for what, index, attempt in events:
        if what == "value":
            outcomes.settle([value(index)], attempt)
        elif what == "error":
            outcomes.settle([(index, Raised(PodLostError("gone")))], attempt)
        elif what == "cancel":
            outcomes.cancel([index])
        elif what == "move":
            outcomes.move([index], Whereabouts(Phase.RUNNING))
        elif outcomes.has_failed(index):
            outcomes.begin_again([index])
        now = outcomes.progress("")
        assert now.waiting + now.running + now.succeeded + now.failed + now.cancelled == now.total == 4
        assert min(now.waiting, now.running, now.succeeded, now.failed, now.cancelled) >= 0
        ended = [each for each in range(4) if outcomes.is_settled(each)]
        assert sorted(outcomes.order) == ended
        assert now.cancelled == sum(outcomes.get(each) is CANCELLED for each in ended)

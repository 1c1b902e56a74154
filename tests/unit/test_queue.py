"""Scheduling of items over workers: what goes next, how far ahead, and what becomes of lost items."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubefunc.backends.queue import LEAST_AHEAD, MOST_AHEAD, WorkQueue, items_ahead


def send_all(queue: WorkQueue, workers: int = 1, ahead: int = 100) -> list[int]:
    """Send what may be sent."""
    sent: list[int] = []
    while (item := queue.next_item(workers, ahead)) is not None:
        queue.mark_sent(item)
        sent.append(item)
    return sent


def test_items_are_sent_in_order():
    """What was added first goes first."""
    queue = WorkQueue([3, 1])
    queue.add([2])
    assert send_all(queue) == [3, 1, 2]


def test_no_more_than_so_many_items_for_each_worker_are_sent_ahead():
    """Two workers with two items each have enough; the next item goes when one has finished."""
    queue = WorkQueue(range(10))
    assert send_all(queue, workers=2, ahead=2) == [0, 1, 2, 3]
    assert queue.finish(1)
    assert send_all(queue, workers=2, ahead=2) == [4]


def test_a_finished_item_finishes_once():
    """A second outcome of the same item, or one of an item that was never sent, does not count."""
    queue = WorkQueue([0, 1])
    queue.mark_sent(0)
    assert queue.finish(0)
    assert not queue.finish(0)
    assert not queue.finish(1)


def test_a_cancelled_item_is_dropped_where_it_would_be_sent():
    """The next item takes its turn."""
    queue = WorkQueue([0, 1])
    queue.drop(0)
    assert send_all(queue) == [1]


def test_only_the_next_item_can_be_sent():
    """Sending another is a fault of the caller's."""
    queue = WorkQueue([0, 1])
    with pytest.raises(ValueError, match="item 1 is not the next one"):
        queue.mark_sent(1)


def test_a_retry_waits_for_its_time_and_counts():
    """It is not sent before it is due, and then has the next attempt's number."""
    queue = WorkQueue([7])
    send_all(queue)
    queue.finish(7)
    queue.retry(7, due=100.0)
    queue.release_due(99.9)
    assert (queue.waiting, queue.next_due, queue.attempt(7)) == (0, 100.0, 2)
    queue.release_due(100.0)
    assert send_all(queue) == [7]
    assert queue.next_due is None


def test_what_lost_workers_had_not_begun_goes_first():
    """Nothing that waited longer is behind what was added later."""
    queue = WorkQueue([0, 1, 2, 3])
    send_all(queue, workers=1, ahead=2)
    queue.put_back_sent()
    assert send_all(queue) == [0, 1, 2, 3]


def test_an_item_that_no_worker_holds_twice_in_a_row_is_sent_again():
    """Once may be the moment between taking an item and noting it."""
    queue = WorkQueue([0, 1])
    send_all(queue)
    queue.put_back_lost(held={1})
    assert queue.waiting == 0
    queue.put_back_lost(held={1})
    assert send_all(queue) == [0]


def test_an_item_that_is_held_again_is_not_lost():
    """Held in between, it must be missed twice anew."""
    queue = WorkQueue([0])
    send_all(queue)
    for held in (set[int](), {0}, set[int]()):
        queue.put_back_lost(held)
    assert queue.waiting == 0


def test_as_many_workers_are_wanted_as_have_something_to_do():
    """Delayed items need none yet."""
    queue = WorkQueue([0, 1, 2])
    queue.mark_sent(0)
    assert (queue.workers_wanted(8), queue.workers_wanted(2)) == (3, 2)
    queue.finish(0)
    queue.retry(0, due=5.0)
    assert queue.workers_wanted(8) == 2


def test_short_items_are_sent_further_ahead_than_long_ones():
    """From two to 256, and never outside."""
    assert [items_ahead(seconds) for seconds in (None, 10.0, 0.002, 0.0)] == [
        LEAST_AHEAD,
        LEAST_AHEAD,
        10,
        MOST_AHEAD,
    ]


def test_the_measured_time_follows_the_newest_items():
    """The first is taken as it is; each later one moves it by a tenth."""
    queue = WorkQueue()
    assert queue.seconds is None
    queue.measure(1.0)
    queue.measure(2.0)
    assert queue.seconds == pytest.approx(1.1)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["send", "finish", "retry", "lose all", "look", "later", "cancel"]), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_no_item_is_lost_or_doubled_whatever_happens(steps: list[tuple[str, int]]):
    """Each item is in exactly one place until it has finished or was cancelled."""
    queue, added, gone, now = WorkQueue(), 0, set[int](), 0.0
    for what, count in steps:
        now += 1.0
        sent = sorted(queue.sent)
        if what == "add":
            queue.add(range(added, added + count))
            added += count
        elif what == "send" and (item := queue.next_item(2, 2)) is not None:
            queue.mark_sent(item)
        elif what in ("finish", "retry") and sent:
            assert queue.finish(sent[0])
            if what == "retry":
                queue.retry(sent[0], now + 3)
            else:
                gone.add(sent[0])
        elif what == "lose all":
            queue.put_back_sent()
        elif what == "look":
            queue.put_back_lost(sent[:1])
        elif what == "later":
            queue.release_due(now)
        elif what == "cancel" and (item := queue.next_item(2, 100)) is not None:
            queue.drop(item)
            gone.add(item)
        assert queue.is_empty == (len(gone) == added)
    assert sorted([*queue.clear(), *gone]) == list(range(added))
    assert queue.is_empty

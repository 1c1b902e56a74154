"""When a map asks for more Pods, and what running Pods give back for them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubefunc.backends.kubernetes.attempts.layout import Layout
from kubefunc.backends.kubernetes.attempts.map_attempt import ChunkAttempt
from kubefunc.backends.kubernetes.control.widening import WORTH, Running, plan, spread
from kubefunc.backends.kubernetes.objects.views import Pod, pod_view
from kubefunc.diagnosis import Phase
from kubefunc.runner.execution.items import Item
from kubefunc.runner.execution.tickets import Tickets
from kubefunc.runner.pod.sharing import Pace, share
from kubefunc.runner.protocol.records import unpack_indexes
from tests.unit.test_following_maps import Items, lead_of


def pace(*ends: float) -> Pace:
    """Of a child whose items began at these times."""
    made = Pace()
    for end in ends:
        made.item(end)
    return made


def run_here(tickets: Tickets, first: int, last: int) -> int:
    """Take tickets as a child does; how many items it may begin."""
    return sum(tickets.allows(position) for position in range(first, last))


# -- the Pod


def test_an_item_is_begun_or_given_back() -> None:
    """Two have begun; of the others all but what fits into the time are given back, the last ones of the chunk."""
    due, tickets = [Item(number, b"") for number in range(10, 20)], Tickets(10)
    assert run_here(tickets, 0, 2) == 2
    assert share(due, tickets, pace(0.0, 1.0), 3.0, 2.0) == list(range(14, 20))
    assert run_here(tickets, 2, 10) == 2
    tickets.close()


def test_nothing_waits_behind_a_slow_item() -> None:
    """It may need as long again as it has had: all behind it is given back, once."""
    due, tickets = [Item(number, b"") for number in range(5)], Tickets(5)
    run_here(tickets, 0, 1)
    assert share(due, tickets, pace(0.0), 2.0, 30.0) == [1, 2, 3, 4]
    assert share(due, tickets, pace(0.0), 2.0, 60.0) == []
    tickets.close()


def test_quick_items_stay() -> None:
    """Where the rest of the chunk fits into the time, nothing is given back."""
    due, tickets = [Item(number, b"") for number in range(100)], Tickets(100)
    run_here(tickets, 0, 50)
    assert share(due, tickets, pace(*(number / 100 for number in range(50))), 2.0, 0.5) == []
    tickets.close()


def test_before_the_first_item_nothing_is_given_back() -> None:
    """Imports say nothing of how long an item takes."""
    tickets = Tickets(5)
    assert share([Item(number, b"") for number in range(5)], tickets, Pace(), 2.0, 60.0) == []
    tickets.close()


def test_what_is_tried_again_stays_in_its_pod() -> None:
    """How often it was tried is known there alone."""
    due, tickets = [Item(number, b"") for number in range(5)], Tickets(5)
    due[4].attempt = 2
    run_here(tickets, 0, 1)
    assert share(due, tickets, pace(0.0), 2.0, 60.0) == []
    tickets.close()


@given(st.integers(1, 20_000), st.lists(st.integers(0, 3000), max_size=5))
def test_no_item_is_lost_and_none_is_there_twice(count: int, requests: list[int]) -> None:
    """Whatever is asked for and whenever: what may begin and what was given back are all items, each once."""
    tickets = Tickets(count)
    given_back: list[int] = []
    begun = 0
    for request in requests:
        begun += run_here(tickets, begun, begun + request // 2) if begun < tickets.end else 0
        given_back += tickets.take_back(request)
    begun = min(begun, tickets.end)
    while begun < tickets.end and tickets.allows(begun):
        begun += 1
    tickets.close()
    assert sorted([*range(begun), *given_back]) == list(range(count))


# -- the client


def test_a_round_asks_only_where_a_pod_is_worth_its_start() -> None:
    """A thousand trivial items ask nobody; a hundred slow ones ask both Pods; no room, no question."""
    trivial, slow = Running(20, 480, 1.5), Running(50, 0, 1.0)
    assert plan([trivial, trivial], 8).asked == ()
    assert plan([slow, slow], 8).asked == (0, 1)
    assert plan([slow, slow], 0).asked == ()
    assert plan([Running(1, 0, 3600.0)], 8).asked == ()


@given(st.integers(1, 10_000), st.floats(0, 1e6), st.integers(1, 500))
def test_what_was_given_back_fits_into_the_room(items: int, seconds: float, room: int) -> None:
    """No more Pods than may run, and where work is little, few."""
    pods = -(-items // spread(items, seconds, room))
    assert 1 <= pods <= min(room, max(1, seconds / WORTH + 1))


def running_chunk(items: int) -> tuple[Items, ChunkAttempt, Pod]:
    """The first of two chunks, with its Pod."""
    sink = Items(items)
    lead = lead_of(sink, Layout(items, items // 2, range(items)))
    chunk = lead.of_index(0)
    assert isinstance(chunk, ChunkAttempt)
    pod = pod_view({"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": {"phase": "Running"}})
    chunk.pods.saw(pod)
    chunk.progress.reach(Phase.RUNNING)
    return sink, chunk, pod


def test_what_was_given_back_is_nobodys_loss() -> None:
    """The chunk answers for the rest alone, a Pod that replaces its own skips it, and it is given back once."""
    sink, chunk, pod = running_chunk(8)
    assert chunk.give(pod, [2, 3, 7]) == [2, 3]  # 7 is another chunk's
    assert chunk.give(pod, [2, 3]) == []
    assert unpack_indexes(chunk._outcomes()) == [2, 3]
    assert chunk.close() == [0, 1]
    assert sink.missing(chunk.of.chunks[0]) == [0, 1]


def test_an_answer_that_comes_too_late_counts_for_nothing() -> None:
    """It is decided already what becomes of the chunk's items, or another Pod runs them."""
    _, chunk, pod = running_chunk(8)
    chunk.pods.lost(pod)
    chunk.pods.saw(pod_view({"metadata": {"name": "q", "uid": "v"}, "spec": {}, "status": {}}))
    assert chunk.give(pod, [2, 3]) == []
    _, chunk, pod = running_chunk(8)
    assert chunk.close() == range(4)
    assert chunk.give(pod, [2, 3]) == []

"""Items of a map that run out of memory, and what the map hears of it."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from kubefunc.backends.kubernetes.control.growing import GrowingSink
from kubefunc.errors import OutOfMemoryError, WorkerDiedError
from kubefunc.runner import CODE_OOM
from kubefunc.runner.protocol.records import Record
from tests.unit.by_hand import value_record
from tests.unit.test_following_maps import Items


def oom_record(index: int) -> Record:
    """What a chunk says of an item that the kernel ended for want of memory."""
    return Record(index, 1.0, 2.0, 1, {"outcome": "error", "code": CODE_OOM, "detail": {"limit": 1}}, b"")


class Growing:
    """A sink under test, with the moment after which it acts in the test's hand."""

    def __init__(self, count: int) -> None:
        self.whole = Items(count)
        self.later: list[Callable[[], None]] = []
        self.again: list[list[int]] = []
        self.sink = GrowingSink(self.whole, self.again.append, lambda work: self.later.append(work))

    def pass_time(self) -> None:
        """What was to be done soon is done."""
        later, self.later = self.later, []
        for work in later:
            work()


def test_what_runs_out_of_memory_is_kept_back_and_runs_again_together() -> None:
    """However it shows: in the chunk's records, or by the end of the container."""
    growing = Growing(4)
    growing.sink.take([value_record(0, "a"), oom_record(1)])
    growing.sink.fail([2], OutOfMemoryError("the container"))
    assert growing.sink.missing(range(4)) == [3]
    assert growing.whole.missing(range(4)) == [1, 2, 3]
    assert (growing.again, growing.whole.errors) == ([], {})
    growing.pass_time()
    assert growing.again == [[1, 2]]


def test_other_failures_are_the_items_own() -> None:
    """And so is what concerns the whole map."""
    growing = Growing(3)
    growing.sink.fail([0], WorkerDiedError("killed"))
    growing.sink.fail(None, OutOfMemoryError("all of it"))
    assert sorted(growing.whole.errors) == [0, 1, 2]
    growing.pass_time()
    assert growing.again == []


def test_what_is_not_wanted_any_more_does_not_run_again() -> None:
    """It was cancelled meanwhile, or another Job had its outcome."""
    growing = Growing(2)
    growing.sink.take([oom_record(0), oom_record(1)])
    growing.whole.take([value_record(0, "from elsewhere")])
    growing.pass_time()
    assert growing.again == [[1]]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["value", "record", "error", "time"])), max_size=30))
def test_each_item_runs_again_once_or_has_its_value(events: list[tuple[int, str]]) -> None:
    """Whatever the order, and however often the same is told."""
    growing = Growing(4)
    first: dict[int, str] = {}
    for index, kind in events:
        if kind == "time":
            growing.pass_time()
            continue
        first.setdefault(index, kind)
        if kind == "value":
            growing.sink.take([value_record(index, index)])
        elif kind == "record":
            growing.sink.take([oom_record(index)])
        else:
            growing.sink.fail([index], OutOfMemoryError("the container"))
    growing.pass_time()
    assert set(growing.whole.values) == {index for index, kind in first.items() if kind == "value"}
    again = [index for some in growing.again for index in some]
    assert sorted(again) == sorted(index for index, kind in first.items() if kind != "value")
    assert growing.whole.errors == {}

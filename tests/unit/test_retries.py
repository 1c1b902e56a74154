"""New attempts that the client makes, and where they end."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubefunc import errors
from kubefunc.backends.base import Lost, Submission
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.handles.call import Call
from kubefunc.handles.map_call import MapCall
from kubefunc.handles.map_items import MapItems
from kubefunc.options import Options
from kubefunc.outcomes.attempts import Attempts, View
from kubefunc.outcomes.growth import more_memory
from kubefunc.packing.payload import Packer
from kubefunc.runner import CODE_OOM
from kubefunc.runner.protocol.records import Record
from kubefunc.session import Session
from tests.unit.by_hand import KEY, HandBackend, HandWork, OneItem, error_envelope, value_envelope, value_record


def flying(options: Options) -> tuple[Call[Any], OneItem, HandBackend]:
    """A call whose failures may be tried again, and the backend that is asked to."""
    backend = HandBackend()
    payload = Packer.for_local().pack(len, ([],))
    submission = Submission(call="f-abcdefgh", function="f", options=options, payload=payload, key=KEY)
    call: Call[Any] = Call("f-abcdefgh", "f", Session())
    call._work = HandWork(backend, call.id)
    return call, OneItem(Attempts(call._outcomes, backend).view(submission)), backend


@pytest.mark.parametrize(
    ("memory", "grown"),
    [(("1Gi", "8Gi"), ("2Gi", "8Gi")), (("3Gi", "4Gi"), ("4Gi", "4Gi")), (("500M", "1G"), ("1000000000", "1G"))],
)
def test_memory_doubles_up_to_the_ceiling(memory: tuple[str, str], grown: tuple[str, str]) -> None:
    """Twice as much each time, never more than allowed."""
    options = more_memory(Options.of(memory=memory))
    assert options is not None
    assert options.memory == grown


@pytest.mark.parametrize("memory", ["1Gi", ("4Gi", "4Gi"), None])
def test_without_room_to_grow_there_is_no_new_attempt(memory: Any) -> None:
    """A plain limit stays a limit."""
    assert more_memory(Options.of(memory=memory)) is None


def test_an_out_of_memory_kill_is_tried_again_with_more() -> None:
    """The new attempt has a number and a larger limit; its result is the call's."""
    call, sink, backend = flying(Options.of(memory=("1Gi", "8Gi"), retries=2))
    sink.deliver(error_envelope(CODE_OOM, {"limit": 2**30}))
    submission, again = backend.submitted[0]
    assert (submission.attempt, submission.options.memory_start) == (2, "2Gi")
    OneItem(again).deliver(value_envelope(7))
    assert call.result(timeout=5) == 7


def test_out_of_memory_counts_against_retries() -> None:
    """With none left, the error is told."""
    call, sink, backend = flying(Options.of(memory=("1Gi", "8Gi"), retries=1))
    sink.deliver(error_envelope(CODE_OOM, {"limit": 2**30}))
    OneItem(backend.submitted[0][1]).deliver(error_envelope(CODE_OOM, {"limit": 2**31}))
    assert isinstance(call.exception(timeout=5), errors.OutOfMemoryError)
    assert len(backend.submitted) == 1


def test_attempts_in_the_pod_and_with_more_memory_count_together() -> None:
    """A Pod that was killed for its memory in its second attempt leaves one of three."""
    call, sink, backend = flying(Options.of(memory=("1Gi", "8Gi"), retries=2))
    killed = error_envelope(CODE_OOM, {"limit": 2**30})
    killed.header["attempts"] = 2
    sink.deliver(killed)
    submission, again = backend.submitted[0]
    assert submission.used == 2
    killed.header["attempts"] = 3
    OneItem(again).deliver(killed)
    assert isinstance(call.exception(timeout=5), errors.OutOfMemoryError)
    assert len(backend.submitted) == 1


def test_a_lost_pod_is_replaced_as_often_as_allowed() -> None:
    """Lost nodes do not touch the user's retries, and have a cap of their own."""
    call, sink, backend = flying(Options.of(max_disruptions=2))
    for _ in range(3):
        sink.fail(errors.PodLostError("gone"))
        sink = OneItem(backend.submitted[-1][1])
    assert len(backend.submitted) == 2
    assert isinstance(call.exception(timeout=5), errors.PodLostError)


def test_a_new_job_is_told_how_many_pods_were_lost() -> None:
    """Attempts with more memory are none of these."""
    _, sink, backend = flying(Options.of(memory=("1Gi", "8Gi"), retries=2))
    for error in (errors.PodLostError("gone"), errors.OutOfMemoryError("killed"), errors.PodLostError("gone")):
        sink.fail(error)
        sink = OneItem(backend.submitted[-1][1])
    assert [each.disruptions for each, _ in backend.submitted] == [1, 1, 2]
    assert [each.used for each, _ in backend.submitted] == [0, 1, 1]


def test_other_failures_are_told_at_once() -> None:
    """The client repeats nothing that it was not asked to."""
    call, sink, backend = flying(Options.of(memory=("1Gi", "8Gi"), retries=5))
    sink.fail(errors.ImagePullError("no such image"))
    assert isinstance(call.exception(timeout=5), errors.ImagePullError)
    assert backend.submitted == []


def test_what_the_job_has_replaced_often_enough_the_client_does_not_begin_anew() -> None:
    """``max_disruptions`` is one cap for both: the Job controller's attempts are not multiplied by the client's."""
    call, sink, backend = flying(Options.of(max_disruptions=5))
    told = Diagnosis("BackoffLimitExceeded", "ended from outside too often")
    sink.fail(errors.PodLostError(str(told), diagnosis=told))
    assert isinstance(call.exception(timeout=5), errors.PodLostError)
    assert backend.submitted == []


# -- many items


def oom_record(index: int, attempts: int = 1) -> Record:
    """What a chunk says of an item that the kernel ended for want of memory."""
    return Record(index, 1.0, 2.0, attempts, {"outcome": "error", "code": CODE_OOM, "detail": {"limit": 1}}, b"")


class Many:
    """A map in its first attempt, a test in place of its backend, and the clock in the test's hand."""

    def __init__(self, count: int, **options: Any) -> None:
        self.backend = HandBackend()
        self.map: MapCall[int] = MapCall(
            MapItems("f-abcdefgh", "f", self.backend, Session(), return_exceptions=True, verbose=False)
        )
        self.outcomes = self.map._items.outcomes
        self.outcomes.open(count)
        self.later: list[Callable[[], None]] = []
        self.attempts = Attempts(self.outcomes, self.backend, lambda seconds, work: self.later.append(work))
        self.first = self.attempts.view(
            Submission(
                call="f-abcdefgh",
                function="f",
                options=Options.of(**{"memory": ("1Gi", "8Gi"), "retries": 2, "max_disruptions": 2, **options}),
                payload=Packer.for_local().pack(len, ([],)),
                key=KEY,
                shape="map",
                items={index: pickle.dumps(index) for index in range(count)},
                count=count,
            )
        )

    def pass_time(self) -> None:
        """What was to be done after a while is done."""
        later, self.later = self.later, []
        for work in later:
            work()

    @property
    def again(self) -> list[list[int]]:
        """The items of each further attempt."""
        return [list(submission.items) for submission, _ in self.backend.maps]

    def failed(self) -> list[int]:
        return [index for index in range(self.outcomes.count or 0) if self.outcomes.has_failed(index)]


def test_items_that_run_out_of_memory_run_again_together() -> None:
    """However it shows, in the chunk's records or by the end of the container; each in a Pod of its own."""
    many = Many(4)
    many.first.take([value_record(0, 0), oom_record(1)])
    many.first.fail([2], errors.OutOfMemoryError("the container"))
    assert many.first.missing(range(4)) == [3]
    assert (many.again, many.failed()) == ([], [])
    many.pass_time()
    assert many.again == [[1, 2]]
    submission, _ = many.backend.maps[0]
    assert (submission.attempt, submission.used, submission.chunk_hint) == (2, 1, 1)
    assert submission.options.memory_start == "2Gi"


def test_items_that_were_started_often_enough_do_not_run_again() -> None:
    """Attempts in the Pod count with those that had less memory."""
    many = Many(2)
    many.first.take([oom_record(0, attempts=3), oom_record(1, attempts=2)])
    many.pass_time()
    assert (many.again, many.failed()) == ([[1]], [0])


def test_items_that_were_lost_run_again_as_often_as_allowed() -> None:
    """Of one Job, of several, within a second: one new Job for all of them, and a cap for each item."""
    many = Many(4)
    sink: Any = many.first
    for _ in range(3):
        sink.lost([0], Lost(errors.PodLostError("gone"), chunksize=2))
        sink.lost([1], Lost(errors.PodLostError("gone"), chunksize=2))
        many.pass_time()
        sink = many.backend.maps[-1][1]
    assert many.again == [[0, 1], [0, 1]]
    assert [each.disruptions for each, _ in many.backend.maps] == [1, 2]
    assert [each.chunk_hint for each, _ in many.backend.maps] == [2, 2]
    assert many.failed() == [0, 1]


def test_what_lay_beside_an_item_at_fault_runs_again_in_smaller_chunks() -> None:
    """Also where Pods were lost too often: each time, an item at fault has its error, so this ends."""
    many = Many(4, max_disruptions=0)
    many.first.lost([0, 1], Lost(errors.OutOfMemoryError("the container"), chunksize=64, beside_fault=True))
    many.first.lost([2], Lost(errors.PodLostError("gone"), chunksize=64))
    many.pass_time()
    assert many.again == [[0, 1]]
    assert many.backend.maps[0][0].chunk_hint == 8
    assert many.failed() == [2]


def test_an_item_is_in_its_newest_attempt_alone() -> None:
    """What the attempt before says of it is dropped; it waits, and is no failure of that attempt's Job."""
    many = Many(2)
    many.first.take([oom_record(0), value_record(1, 1)])
    many.first.take([value_record(0, "late")])
    assert not many.outcomes.is_settled(0)
    assert many.outcomes.where(0).phase is Phase.SUBMITTING
    assert not many.first.has_failures(range(2))
    many.pass_time()
    again = many.backend.maps[0][1]
    again.take([value_record(0, 7)])
    assert many.map.result(5) == [7, 1]


def test_what_is_not_wanted_any_more_does_not_run_again() -> None:
    """It was cancelled before the next attempt began."""
    many = Many(2)
    many.first.take([oom_record(0), oom_record(1)])
    many.map.calls[0].cancel()
    many.pass_time()
    assert many.again == [[1]]
    assert many.first.settled is False


def test_an_attempt_that_cannot_begin_is_an_error_of_its_items() -> None:
    """Nobody waits for it."""
    many = Many(2)

    def refuse(submission: Submission, sink: object) -> Any:
        raise errors.ConfigurationError("no such option")

    many.backend.submit = refuse  # type: ignore[method-assign]
    many.first.take([oom_record(0), value_record(1, 1)])
    many.pass_time()
    assert many.failed() == [0]


def test_what_another_process_runs_again_is_not_tried_again_here() -> None:
    """Whoever attaches knows no arguments: the newest Job that has an item is the one to hear."""
    many = Many(3)
    older = View(many.outcomes)
    newer = older.later([0, 2])
    older.take([value_record(index, index) for index in range(3)])
    assert [many.outcomes.is_settled(index) for index in range(3)] == [False, True, False]
    assert newer.missing(range(3)) == [0, 2]
    newer.fail([0], errors.PodLostError("gone"))
    assert many.failed() == [0]


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["value", "record", "error", "lost", "beside", "time"])),
        max_size=40,
    )
)
def test_each_item_ends_once_or_is_in_one_attempt(events: list[tuple[int, str]]) -> None:
    """Whatever the order, however often the same is told, and by whichever attempt."""
    many = Many(4)
    for index, kind in [*events, (0, "time")]:
        sinks = [many.first, *(sink for _, sink in many.backend.maps)]
        for sink in sinks:
            _tell(sink, index, kind)
        if kind == "time":
            many.pass_time()
        holders = [sink for sink in [many.first, *(each for _, each in many.backend.maps)] if sink.missing([index])]
        assert len(holders) <= 1
        assert not (holders and many.outcomes.is_settled(index))
    for items in _items_by_fate(many.backend.maps):
        assert len(items) == len(set(items))


def _tell(sink: Any, index: int, kind: str) -> None:
    if kind == "value":
        sink.take([value_record(index, index)])
    elif kind == "record":
        sink.take([oom_record(index)])
    elif kind == "error":
        sink.fail([index], errors.OutOfMemoryError("the container"))
    elif kind != "time":
        sink.lost([index], Lost(errors.PodLostError("gone"), 8, beside_fault=kind == "beside"))


def _items_by_fate(maps: Iterable[tuple[Submission, object]]) -> Sequence[list[int]]:
    """No item runs twice with the same history."""
    found: dict[tuple[int, int], list[int]] = {}
    for submission, _ in maps:
        found.setdefault((submission.used, submission.disruptions), []).extend(submission.items)
    return list(found.values())

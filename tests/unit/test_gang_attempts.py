"""When a gang ends, and when it begins again: a test plays the cluster."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kubefunc import GangCall, errors
from kubefunc.backends.base import Lost, Sink, Submission
from kubefunc.handles.gang_attempts import start_gang
from kubefunc.options import Options
from kubefunc.packing.payload import Packer
from kubefunc.runner.protocol.records import Record
from kubefunc.session import Session
from tests.unit.by_hand import KEY, HandBackend, raised_record, value_record

SIZE = 3
GONE = Lost(errors.PodLostError("its Pod is gone"))


class Made:
    """A gang of three, with the hand that plays the backend."""

    def __init__(self, max_disruptions: int = 1, **more: Any) -> None:
        self.backend = HandBackend()
        payload, ranks = Packer.for_local().pack_map(len, [("x",)] * SIZE)
        options = Options(verbose=False, progress=False, gang=SIZE, max_disruptions=max_disruptions, **more)
        submission = Submission(
            shape="map",
            call="f-abcdefgh",
            function="f",
            options=options,
            payload=payload,
            items=dict(enumerate(ranks)),
            count=SIZE,
            chunksize=1,
            max_parallelism=SIZE,
            key=KEY,
        )
        self.gang: GangCall[Any] = GangCall(start_gang(Session(), self.backend, submission), SIZE)

    def sink(self, attempt: int) -> Sink:
        """What that attempt tells, once it was submitted."""
        deadline = time.monotonic() + 10
        while len(self.backend.maps) < attempt:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return self.backend.maps[attempt - 1][1]


def test_a_lost_pod_begins_again_with_all_ranks() -> None:
    """Those that failed meanwhile too, since a peer was gone; what the first Job still says is dropped."""
    made = Made()
    first = made.sink(1)
    first.take([raised_record(2, ConnectionResetError("rank 1 does not answer"))])
    first.lost([1], GONE)
    second = made.sink(2)
    assert made.backend.cancelled == ["f-abcdefgh"]
    again = made.backend.maps[1][0]
    assert (sorted(again.items), again.disruptions, again.attempt) == ([0, 1, 2], 1, 2)
    first.take([value_record(0, "too late")])
    first.lost([0], GONE)
    second.take([value_record(rank, rank) for rank in range(SIZE)])
    assert made.gang.result(10) == [0, 1, 2]


def test_a_gang_begins_again_as_often_as_max_disruptions_says() -> None:
    """Then the loss is its error."""
    made = Made(max_disruptions=0)
    made.sink(1).lost([1], GONE)
    with pytest.raises(errors.PodLostError):
        made.gang.ranks[1].result(10)


def test_a_gang_of_which_a_rank_has_its_result_does_not_begin_again() -> None:
    """It would run twice."""
    made = Made()
    made.sink(1).take([value_record(0, "done")])
    made.sink(1).lost([1, 2], GONE)
    with pytest.raises(errors.PodLostError):
        made.gang.result(10)
    assert len(made.backend.maps) == 1


def test_the_rank_that_failed_first_is_to_blame() -> None:
    """The others failed since it did not answer them any more."""
    made = Made()
    late, early = raised_record(0, ConnectionResetError("no answer")), raised_record(2, ValueError("the reason"))
    late.finished, early.finished = 9.0, 8.0
    made.sink(1).take([late])
    made.sink(1).take([early])
    made.sink(1).take([value_record(1, 1)])
    with pytest.raises(ValueError, match="the reason"):
        made.gang.result(10)
    assert isinstance(made.gang.exception(10), ValueError)


def test_no_rank_runs_again_alone() -> None:
    """Neither the runner nor the Job tries again: the client begins again with all."""
    options = Made(retries=2).backend.maps[0][0].options
    assert (options.max_disruptions, options.retries) == (0, 0)


def may_retry(rank: int, error: Exception, finished: float) -> Record:
    """The record of a rank whose exception retry_exceptions has."""
    record = raised_record(rank, error)
    assert record.header is not None
    record.header.update(retry=True, error=str(error))
    record.finished = finished
    return record


def test_all_ranks_run_again_when_one_may_be_tried_again() -> None:
    """Values wait until it is known: then each rank has the outcome of the last attempt alone."""
    made = Made(retries=1)
    first = made.sink(1)
    first.take([value_record(0, "first"), may_retry(1, ValueError("busy"), 8.0)])
    assert not made.gang.ranks[0].done()
    assert first.missing(range(SIZE)) == [2]
    first.take([may_retry(2, ConnectionResetError("no answer"), 9.0)])
    second = made.sink(2)
    again = made.backend.maps[1][0]
    assert (sorted(again.items), again.used, again.disruptions, again.options.retries) == ([0, 1, 2], 1, 0, 0)
    second.take([value_record(0, "second"), value_record(2, 2), may_retry(1, ValueError("busy again"), 9.0)])
    with pytest.raises(ValueError, match="busy again"):
        made.gang.result(10)
    assert made.gang.ranks[0].result(10) == "second"
    assert len(made.backend.maps) == 2


def test_the_rank_that_failed_first_decides_whether_all_run_again() -> None:
    """The errors that its end causes in the others are no reason."""
    made = Made(retries=1)
    made.sink(1).take([may_retry(0, ConnectionResetError("no answer"), 9.0), may_retry(2, OSError("the same"), 9.5)])
    final = raised_record(1, ValueError("never again"))
    final.finished = 8.0
    made.sink(1).take([final])
    with pytest.raises(ValueError, match="never again"):
        made.gang.result(10)


def test_a_gang_that_ran_out_of_memory_gets_more_of_it() -> None:
    """All ranks of the next attempt, up to the ceiling."""
    made = Made(retries=1, memory=("1Gi", "8Gi"))
    killed = Record(1, 0.0, 8.0, 1, {"outcome": "error", "code": "oom", "detail": {}}, b"")
    made.sink(1).take([value_record(0, 0), value_record(2, 2), killed])
    made.sink(2)
    assert made.backend.maps[1][0].options.memory_start == "2Gi"


def test_a_rank_that_failed_before_a_pod_was_lost_keeps_its_own_error() -> None:
    """Its Call had it already; the one that is asked for afterwards is of the next attempt."""
    made = Made()
    early = made.gang.ranks[2]
    made.sink(1).take([raised_record(2, ConnectionResetError("rank 1 does not answer"))])
    made.sink(1).lost([1], GONE)
    made.sink(2).take([value_record(rank, rank) for rank in range(SIZE)])
    assert made.gang.result(10) == [0, 1, 2]
    with pytest.raises(ConnectionResetError):
        early.result(10)
    assert made.gang.ranks[2].result(10) == 2

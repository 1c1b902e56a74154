"""The client's retry policy: a function of what was submitted and how it ended."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from kubefunc.backends.base import Lost, Submission
from kubefunc.diagnosis import Diagnosis
from kubefunc.errors import ImagePullError, KubefuncError, OutOfMemoryError, PodLostError, WorkerDiedError
from kubefunc.options import Options
from kubefunc.options.parsers.quantities import quantity
from kubefunc.outcomes.retry import GATHER, OutOfMemory, decide, how_error_ended, how_record_ended
from kubefunc.packing.code_archive import NO_CODE
from kubefunc.packing.payload import Payload
from kubefunc.runner import CODE_DIED, CODE_OOM
from kubefunc.runner.protocol.records import Record

LOST = PodLostError("gone")


def sent(count: int = 1, **options: object) -> Submission:
    """The first attempt."""
    return Submission(
        call="f-abcdefgh",
        function="f",
        options=Options.of(**{"memory": ("1Gi", "8Gi"), "retries": 3, "max_disruptions": 3, **options}),
        payload=Payload(NO_CODE, b""),
        key=b"",
        count=count,
    )


ENDS = st.one_of(
    st.builds(OutOfMemory, st.integers(0, 6)),
    st.builds(Lost, st.just(LOST), st.one_of(st.none(), st.integers(1, 100)), st.booleans()),
)
SUBMISSIONS = st.builds(
    sent,
    st.integers(1, 5),
    retries=st.integers(0, 4),
    max_disruptions=st.integers(0, 4),
    memory=st.sampled_from([None, "1Gi", ("1Gi", "8Gi"), ("3Gi", "4Gi"), ("2Gi", "2Gi")]),
)


@given(SUBMISSIONS, st.lists(ENDS, max_size=30))
def test_each_limit_holds_whatever_happens_in_whatever_order(first: Submission, ends: list[OutOfMemory | Lost]) -> None:
    """More memory counts against ``retries``, lost Pods against ``max_disruptions``, and neither against the other."""
    now, grown, lost = first, 0, 0
    for ended in ends:
        again = decide(now, ended)
        if again is None:
            break
        grown += isinstance(ended, OutOfMemory)
        lost += isinstance(ended, Lost) and not ended.beside_fault
        assert grown <= again.sent.used <= first.options.retries
        assert lost <= again.sent.disruptions
        assert lost <= first.options.max_disruptions
        now = again.sent


@given(SUBMISSIONS, ENDS)
def test_what_changes_in_the_next_attempt_is_what_the_end_says(first: Submission, ended: OutOfMemory | Lost) -> None:
    """Memory grows up to its ceiling and nothing else of the options; a lost Pod changes none of them."""
    again = decide(first, ended)
    if again is None:
        return
    assert dataclasses.replace(again.sent.options, memory=first.options.memory) == first.options
    if isinstance(ended, Lost):
        assert again.sent.options == first.options
        assert (again.sent.used, again.sent.disruptions) == (first.used, first.disruptions + 1)
        return
    assert isinstance(again.sent.options.memory, tuple)
    assert isinstance(first.options.memory, tuple)
    start, ceiling = map(quantity, again.sent.options.memory)
    assert quantity(first.options.memory[0]) < start <= ceiling == quantity(first.options.memory[1])
    assert (again.sent.used, again.sent.disruptions) == (max(1, ended.attempts), first.disruptions)


@given(SUBMISSIONS, ENDS)
def test_the_same_history_and_end_give_the_same_decision(first: Submission, ended: OutOfMemory | Lost) -> None:
    """It is a function: no clock, no chance."""
    assert decide(first, ended) == decide(first, ended)


def test_a_single_item_waits_for_no_others() -> None:
    """Of many, those that end in the same way within a second share the next Job."""
    one, many = decide(sent(1), Lost(LOST)), decide(sent(2), Lost(LOST))
    assert one is not None
    assert many is not None
    assert (one.delay, many.delay) == (0.0, GATHER)


def test_attempts_of_one_fate_share_a_job() -> None:
    """With the same memory and the same history; in the smaller of their chunks."""
    lost, beside, grown = (
        decide(sent(9), each) for each in (Lost(LOST, 80), Lost(LOST, 80, beside_fault=True), OutOfMemory())
    )
    assert lost is not None
    assert beside is not None
    assert grown is not None
    assert lost.shares_fate_with(beside)
    assert not lost.shares_fate_with(grown)
    assert lost.joined_by(beside).sent.chunk_hint == beside.joined_by(lost).sent.chunk_hint == 10


def test_which_ends_the_client_may_do_better() -> None:
    """Out of memory and lost Pods; not those that the Job has replaced as often as allowed, and nothing else."""
    used_up = PodLostError("gone", diagnosis=Diagnosis("FailedIndexes", "too often"))
    assert how_error_ended(OutOfMemoryError("killed")) == OutOfMemory()
    assert how_error_ended(LOST) == Lost(LOST)
    others: list[KubefuncError] = [used_up, ImagePullError("none"), WorkerDiedError("killed")]
    assert [how_error_ended(error) for error in others] == [None, None, None]
    records = [Record(0, 1.0, 2.0, 2, header, b"") for header in ({"code": CODE_OOM}, {"code": CODE_DIED}, None)]
    assert [how_record_ended(record) for record in records] == [OutOfMemory(2), None, None]

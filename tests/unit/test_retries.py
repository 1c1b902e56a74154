"""New attempts that the client makes, and where they end."""

from __future__ import annotations

from typing import Any

import pytest

from kubefunc import errors
from kubefunc.backends.base import Submission
from kubefunc.call import Call
from kubefunc.diagnosis import Diagnosis
from kubefunc.growth import more_memory
from kubefunc.options import Options
from kubefunc.outcomes import View
from kubefunc.payload import Packer
from kubefunc.retries import RetryingSink
from kubefunc.runner import CODE_OOM
from kubefunc.session import Session
from tests.unit.by_hand import KEY, HandBackend, HandWork, OneItem, error_envelope, value_envelope


def flying(options: Options) -> tuple[Call[Any], RetryingSink, HandBackend]:
    """A call whose failures may be tried again, and the backend that is asked to."""
    backend = HandBackend()
    payload = Packer.for_local().pack(len, ([],))
    submission = Submission(call="f-abcdefgh", function="f", options=options, payload=payload, key=KEY)
    call: Call[Any] = Call("f-abcdefgh", "f", Session())
    call._work = HandWork(backend, call.id)
    return call, OneItem(RetryingSink(submission, View(call._outcomes, call), backend)), backend


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
    assert len(backend.submitted) == 2
    assert isinstance(call.exception(timeout=5), errors.PodLostError)


def test_a_new_job_is_told_how_many_pods_were_lost() -> None:
    """Attempts with more memory are none of these."""
    _, sink, backend = flying(Options.of(memory=("1Gi", "8Gi"), retries=2))
    sink.fail(errors.PodLostError("gone"))
    sink.fail(errors.OutOfMemoryError("killed"))
    sink.fail(errors.PodLostError("gone"))
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

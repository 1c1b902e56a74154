"""Jobs that a queue of the cluster, or a person, keeps suspended: they make no Pod."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kubefunc import Call, errors
from tests.cluster import work
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, until_running

NO_ROOM = 500  # CPUs: no node of the test cluster has so many, and so the function cannot start before it is suspended


def suspend(space: Space, name: str) -> None:
    """What a queue does to a Job."""
    eventually(lambda: name in space.admin.run("get", "jobs", "-o", "name"), what="the Job")
    space.admin.run("patch", "job", name, "-p", json.dumps({"spec": {"suspend": True}}))


def resume(space: Space, name: str) -> None:
    """And to one that it admits."""
    space.admin.run("patch", "job", name, "-p", json.dumps({"spec": {"suspend": False}}))


def failure(work: Any) -> errors.KubefuncError:
    """The error of a call, or of a map's first item."""
    with pytest.raises(errors.UnschedulableError) as caught:
        work.result(60)
    return caught.value


def test_a_job_that_kueue_holds_back(calling: Space) -> None:
    """The error of ``schedule_timeout`` names the queue, for calls and for maps."""
    queued = work.double.options(cpu=NO_ROOM, schedule_timeout=10, labels={"kueue.x-k8s.io/queue-name": "team-a"})
    call, mapped = queued.remote(1), queued.map([1, 2])
    for name in (call.id, mapped.id):
        suspend(calling, name)
    for error in (failure(call), failure(mapped)):
        assert error.diagnosis is not None
        assert error.diagnosis.reason == "Suspended"
        assert "schedule_timeout=10 s" in error.diagnosis.message
        assert "Kueue's queue 'team-a'" in error.diagnosis.message
        assert "as soon as a node fits" not in str(error)


def test_a_job_that_somebody_has_suspended(calling: Space) -> None:
    """It waits and says so; once it is resumed, it runs."""
    call: Call[int] = work.double.options(cpu=NO_ROOM, schedule_timeout=10).remote(1)
    suspend(calling, call.id)
    eventually(lambda: "is suspended" in call.diagnosis.message, 45, "the word that it is suspended")
    assert "The Job is suspended" in str(failure(call))


def test_a_suspended_job_goes_on_when_it_is_resumed(calling: Space) -> None:
    """Its Pod was ended by the suspension; another one runs the function."""
    call = work.double_later.remote(4, 6)
    until_running(call)
    suspend(calling, call.id)
    eventually(lambda: "is suspended" in call.diagnosis.message, 45, "the word that it is suspended")
    resume(calling, call.id)
    assert call.result(60) == 8

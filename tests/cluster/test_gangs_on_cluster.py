"""Gangs on a real cluster: Pods that start together and find each other by DNS."""

from __future__ import annotations

import time
from typing import Any

import pytest

from kubefunc import GangCall, errors
from kubefunc.volumes import ConfigMap
from tests.cluster import ranks
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left

WAIT = 120


def gang_of(function: Any, size: int, *args: object, **options: object) -> GangCall[Any]:
    """A gang of this function."""
    made: GangCall[Any] = function.options(gang=size, **options).remote(*args)
    return made


def services(space: Space) -> list[str]:
    """The names of the Services in the namespace."""
    return [each["metadata"]["name"] for each in space.admin.get("services")]


def test_a_ring_of_pods_adds_up(calling: Space) -> None:
    """The ranks find each other by name, and their sum is the same as here; nothing is left of Job and Service."""
    expected = [sum(column) for column in zip(*(ranks.numbers_of(7, rank) for rank in range(4)), strict=True)]
    gang = gang_of(ranks.reduce_in_a_ring, 4, 7)
    assert gang.result(WAIT) == [expected] * 4
    eventually(lambda: services(calling) == [], what="the end of the Service")
    nothing_left(calling)


def test_programs_find_the_variables_of_torch_and_mpi(calling: Space) -> None:
    """Each rank has a Pod of its own; rank 0 is reached by its name."""
    gang = gang_of(ranks.variables, 2)
    found = gang.result(WAIT)
    assert [each["RANK"] for each in found] == ["0", "1"]
    assert {each["LOCAL_RANK"] for each in found} == {"0"}
    assert {each["MASTER_ADDR"] for each in found} == {f"{gang.id}-0.{gang.id}.{calling.namespace}.svc"}
    assert "rank 1 is here" in gang.ranks[1].logs()


def test_a_failed_rank_ends_the_pods_of_all(calling: Space) -> None:
    """Its own exception is the gang's, and says which rank it was."""
    gang = gang_of(ranks.fail_at, 3, 1, keep="never")
    with pytest.raises(ValueError, match="this rank is wrong") as raised:
        gang.result(WAIT)
    assert "In rank 1 of 3." in raised.value.__notes__
    nothing_left(calling)


def test_a_lost_pod_restarts_the_whole_gang(calling: Space) -> None:
    """All ranks begin again in a new Job, and know that they do."""
    gang = gang_of(ranks.wait_once, 2)
    eventually(lambda: all(rank.running() for rank in gang.ranks), 60, "all ranks running")
    (pod,) = [name for name in _pods(calling, gang.id) if name.startswith(f"{gang.id}-1-")]
    calling.admin.run("delete", "pod", pod, "--wait=false")
    assert gang.result(WAIT) == [1, 1]
    nothing_left(calling)


def test_a_failed_gang_runs_again_with_all_ranks(calling: Space) -> None:
    """In a new Job, whose ranks know which attempt they are."""
    assert gang_of(ranks.fail_once, 2, retries=1).result(WAIT) == [2, 2]
    nothing_left(calling)


def test_a_gang_has_volumes_and_a_service(calling: Space) -> None:
    """Each rank mounts what a call would; the Service spreads connections over all ranks."""
    calling.admin.run("create", "configmap", "greeting", "--from-literal=text=hello")
    options: dict[str, Any] = {"ports": {"http": 8080}, "service": "ranks"}
    gang = gang_of(ranks.meet_behind, 2, volumes={"/conf": ConfigMap("greeting")}, **options)
    assert gang.endpoint == f"ranks.{calling.namespace}.svc:8080"
    assert gang.result(WAIT) == [["hello 0", "hello 1"]] * 2


def _pods(space: Space, call: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in space.admin.get("pods", "-l", f"kubefunc/call={call}")]


def test_none_runs_before_all_are_there(calling: Space) -> None:
    """A rank that finds no node keeps all others waiting; schedule_timeout ends that."""
    began = time.monotonic()
    gang = gang_of(ranks.started, 2, 0.0, cpu=1.4, schedule_timeout=5)
    with pytest.raises(errors.UnschedulableError):
        gang.result(WAIT)
    assert time.monotonic() - began < 60
    nothing_left(calling)

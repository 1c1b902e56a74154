"""Jobs and Pods as the API server lists them, read as calls with a state and an explanation."""

from __future__ import annotations

from typing import Any

import pytest

from kubefunc.backends.kubernetes.operating.explaining import explain
from kubefunc.backends.kubernetes.operating.stored import stored_calls
from kubefunc.backends.operations import StoredCall
from tests.local.stored import FAILED, MAP, RUNNING, RUNS, WAITS, ended, four_calls, job, pod

JsonDict = dict[str, Any]


def only(jobs: list[JsonDict], pods: list[JsonDict]) -> StoredCall:
    """The one call that these are."""
    (call,) = stored_calls(jobs, pods)
    return call


CREATING: JsonDict = {"waiting": {"reason": "ContainerCreating"}}


@pytest.mark.parametrize(
    ("conditions", "pods", "state"),
    [
        ((), [], "pending"),
        ((), [pod(RUNS, None, node=None)], "pending"),
        ((), [pod(RUNS, CREATING)], "starting"),
        ((), [pod(RUNS, RUNNING)], "running"),
        # A large result may wait in its Pod for a day, and the Job is not over before.
        ((), [pod(RUNS, ended(0))], "succeeded"),
        ((), [pod(RUNS, ended(64))], "failed"),
        # SIGTERM: the Job controller makes another Pod.
        ((), [pod(RUNS, ended(143))], "pending"),
        ((), [pod(RUNS, ended(143)), pod(RUNS, RUNNING)], "running"),
        (("Complete",), [], "succeeded"),
        (("Failed",), [], "failed"),
        (("FailureTarget",), [pod(RUNS, RUNNING)], "failed"),
    ],
)
def test_the_state_of_a_call(conditions: tuple[str, ...], pods: list[JsonDict], state: str) -> None:
    """What its function does, as soon as the Pod shows it: the Job's own conditions come seconds later."""
    assert only([job(RUNS, *conditions)], pods).state == state


def test_a_suspended_job_is_queued() -> None:
    """By Kueue, or by hand."""
    assert only([job(RUNS, suspend=True)], []).state == "queued"


@pytest.mark.parametrize(
    ("codes", "state", "counts"),
    [
        ((0, None), "running", (1, 0)),
        ((0, 0), "succeeded", (2, 0)),
        ((0, 64), "failed", (1, 1)),
    ],
)
def test_the_state_of_a_map(codes: tuple[int | None, ...], state: str, counts: tuple[int, int]) -> None:
    """It runs while one of its Pods does, and has failed where an item has."""
    pods = [pod(MAP, RUNNING if code is None else ended(code), index=at) for at, code in enumerate(codes)]
    call = only([job(MAP, completionMode="Indexed", completions=2)], pods)
    assert (call.state, (call.succeeded, call.failed)) == (state, counts)


def gang(*conditions: str) -> JsonDict:
    """The Job of a gang of two."""
    template = {"spec": {"subdomain": MAP}}
    return job(MAP, *conditions, completionMode="Indexed", completions=2, template=template)


@pytest.mark.parametrize(
    ("states", "state", "words"),
    [
        ((RUNNING, RUNNING), "running", "All ranks run."),
        ((RUNNING, CREATING), "starting", "The Pod is being started."),
        ((ended(0), ended(0)), "succeeded", "All ranks have returned."),
        ((ended(64), ended(0)), "failed", "A rank has raised an exception."),
    ],
)
def test_the_state_of_a_gang(states: tuple[JsonDict, ...], state: str, words: str) -> None:
    """It runs once all of its ranks do: until then they wait for each other."""
    pods = [pod(MAP, each, index=at) for at, each in enumerate(states)]
    call = only([gang()], pods)
    assert (call.state, call.is_gang) == (state, True)
    assert explain(call, [gang()], pods, lambda uid: []).message == words


def test_what_a_gang_waits_for() -> None:
    """The rank that cannot start keeps all of them."""
    waits = pod(MAP, None, index=1, node=None)
    waits["status"]["conditions"] = [
        {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient cpu.",
        }
    ]
    pods = [pod(MAP, RUNNING, index=0), waits]
    call = only([gang()], pods)
    assert call.state == "pending"
    said = explain(call, [gang()], pods, lambda uid: []).message
    assert said.startswith("The gang waits until its 2 ranks can start together; 1 cannot yet. Of one: No node can")


def test_a_later_attempt_is_the_call() -> None:
    """The Job of an earlier attempt does not decide; both are deleted with the call."""
    later = job(RUNS)
    later["metadata"] |= {"name": f"{RUNS}-r2", "uid": "second"}
    later["metadata"]["annotations"] = {"kubefunc/attempt": "2"}
    call = only([later, job(RUNS, "Failed")], [])
    assert (call.state, call.attempt, call.jobs) == ("pending", 2, (RUNS, f"{RUNS}-r2"))


def test_a_pod_of_nobody_belongs_to_no_call() -> None:
    """Anybody can put our labels on a Pod; only the Job controller makes it a Job's."""
    stranger = pod(RUNS, ended(64))
    stranger["metadata"]["ownerReferences"] = []
    assert only([job(RUNS)], [stranger]).pods == ()


def events(*words: str) -> list[JsonDict]:
    """Events that warn."""
    return [{"reason": "FailedCreate", "message": each, "type": "Warning"} for each in words]


def words_of(call: str, told: list[JsonDict] | None = None) -> str:
    """What is said of one of the four calls."""
    stored = four_calls()
    found = next(each for each in stored_calls(stored.jobs, stored.pods) if each.id == call)
    jobs = [each for each in stored.jobs if each["metadata"]["name"] == call]
    return explain(found, jobs, stored.pods, lambda uid: told or []).message


def test_what_is_said_of_each_state() -> None:
    """One sentence; with what follows in the diagnosis's advice."""
    assert words_of(RUNS) == "The function runs."
    assert words_of(FAILED) == "The function has raised an exception."
    assert words_of(MAP) == "The map runs."
    assert words_of(WAITS).startswith("No node can take the function now: none has that much cpu free.")


def test_the_events_of_a_job_without_a_pod_are_read() -> None:
    """They alone say why there is none."""
    quota = 'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0'
    told = explain(only([job(RUNS)], []), [job(RUNS)], [], lambda uid: events(quota) if uid == f"uid-{RUNS}" else [])
    assert told.reason == "QuotaExceeded"
    assert told.events == (f"FailedCreate: {quota}",)


def test_a_pod_that_was_killed_says_why() -> None:
    """Out of memory, as the program that waits for the call would say it."""
    killed = pod(RUNS, {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
    call = only([job(RUNS, "Failed")], [killed])
    told = explain(call, [job(RUNS, "Failed")], [killed], lambda uid: [])
    assert (told.reason, told.exit_code) == ("OOMKilled", 137)

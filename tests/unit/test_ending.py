"""How Pods and Jobs end that leave no result: recorded statuses in, findings out."""

from __future__ import annotations

from typing import Any

import pytest

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose import ending
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.diagnose.starting import scheduling_trouble
from kubefunc.backends.kubernetes.objects.views import job_view, pod_view
from tests.unit.statuses import COMPLETED, RUNNING, disrupted, job, pod, terminated


def trouble(status: dict[str, object]) -> Finding:
    """What is found of such a Pod, which has an end of its own."""
    finding = ending.main_trouble(pod_view(status))
    assert finding is not None
    return finding


def test_out_of_memory_under_cgroup_v2() -> None:
    """The kernel kills the whole container, supervisor included: the Pod's status is all that tells."""
    finding = trouble(pod(terminated(137, "OOMKilled"), RUNNING))
    assert finding.error is errors.OutOfMemoryError
    assert (finding.reason, finding.exit_code) == ("OOMKilled", 137)
    assert "memory=" in finding.advice
    assert finding.words == ("main OOMKilled, exit code 137",)


def test_out_of_memory_when_the_whole_pod_has_ended() -> None:
    """The same when the news comes late, and both containers have ended."""
    finding = trouble(pod(terminated(137, "OOMKilled"), COMPLETED, phase="Failed"))
    assert finding.error is errors.OutOfMemoryError


def test_a_child_of_the_function_was_out_of_memory() -> None:
    """``OOMKilled`` also marks containers of which only a subprocess was killed: a returned value is still a value."""
    finding = trouble(pod(terminated(0, "OOMKilled"), COMPLETED, phase="Succeeded"))
    assert finding.error is errors.ResultLostError


@pytest.mark.parametrize("exit_code", [0, 64])
def test_an_end_with_a_result_that_is_gone(exit_code: int) -> None:
    """The runner's own exit codes mean that there was an envelope."""
    finding = trouble(pod(terminated(exit_code), COMPLETED, phase="Failed"))
    assert (finding.error, finding.exit_code) == (errors.ResultLostError, exit_code)


@pytest.mark.parametrize(
    ("exit_code", "signal", "words"),
    [(137, 9, "signal 9 (SIGKILL)"), (139, 11, "signal 11 (SIGSEGV)"), (2, None, "exit code 2")],
)
def test_a_killed_supervisor(exit_code: int, signal: int | None, words: str) -> None:
    """Exit codes above 128 are signals; both are in the error, by number and by name."""
    finding = trouble(pod(terminated(exit_code), RUNNING))
    assert finding.error is errors.WorkerDiedError
    assert (finding.exit_code, finding.signal) == (exit_code, signal)
    assert words in finding.message


def test_an_image_without_python() -> None:
    """containerd's exit code 128, ``StartError``: the image's name and what it lacks."""
    message = 'failed to create containerd task: exec: "python3": executable file not found in $PATH: unknown'
    finding = trouble(pod(terminated(128, "StartError", message), RUNNING))
    assert finding.error is errors.PodConfigError
    assert "python:3.12-slim" in finding.message
    assert "python3" in finding.message
    assert message in finding.words[0]


@pytest.mark.parametrize(
    "words",
    [
        'Usage of EmptyDir volume "kubefunc-tmp" exceeds the limit "10Mi". ',
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
        "Container main exceeded its local ephemeral storage limit 1Gi. ",
    ],
)
def test_evicted_for_what_it_wrote(words: str) -> None:
    """No condition marks it as disrupted, main ended by SIGTERM: so its Job would run it again, to the same end."""
    finding = trouble(pod(terminated(143), COMPLETED, phase="Failed", reason="Evicted", message=words))
    assert finding.error is errors.EvictedError
    assert finding.job_goes_on
    assert any(words.strip() in line for line in finding.words)


def test_evicted_because_the_node_ran_out() -> None:
    """Also where the Pod is not marked as disrupted: it is no fault of the function."""
    words = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. "
    finding = trouble(pod(terminated(137), COMPLETED, phase="Failed", reason="Evicted", message=words))
    assert finding.error is errors.PodLostError
    assert "node-7" in finding.message


@pytest.mark.parametrize(
    "reason", ["TerminationByKubelet", "EvictionByEvictionAPI", "DeletionByTaintManager", "DeletionByPodGC"]
)
@pytest.mark.parametrize("exit_code", [137, 143])
def test_disrupted_pods_are_replaced(reason: str, exit_code: int) -> None:
    """Pressure, drain, a lost node, collected as garbage: no end of the call, its Job makes another Pod."""
    status = pod(terminated(exit_code), COMPLETED, conditions=(disrupted(reason),), phase="Failed", reason="Evicted")
    assert ending.main_trouble(pod_view(status)) is None


def test_preempted_pods_are_replaced() -> None:
    """The scheduler made room for something more important."""
    condition = disrupted("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod")
    status = pod(terminated(143), COMPLETED, conditions=(condition,), deleting=True, phase="Failed")
    assert ending.main_trouble(pod_view(status)) is None


def test_a_pod_deleted_by_hand_is_replaced() -> None:
    """SIGTERM, and no result: whoever sent it."""
    assert ending.main_trouble(pod_view(pod(terminated(143), COMPLETED, deleting=True))) is None


def test_a_pod_that_was_deleted_and_killed() -> None:
    """By force, or while it started: its Job takes exit code 137 for a failure, so the client runs the call again."""
    finding = trouble(pod(terminated(137), COMPLETED, deleting=True))
    assert (finding.error, finding.reason) == (errors.PodLostError, "PodDeleted")
    never_started = trouble(pod(terminated(137, "ContainerStatusUnknown"), deleting=True, phase="Failed"))
    assert never_started.error is errors.PodLostError


def test_a_deleted_pod_that_had_run_out_of_memory_before() -> None:
    """What the kernel did counts: with the same memory the next Pod would end in the same way."""
    assert trouble(pod(terminated(137, "OOMKilled"), deleting=True)).error is errors.OutOfMemoryError


def test_a_node_that_was_restarted() -> None:
    """The kubelet no longer knows how its containers ended."""
    words = "The container could not be located when the pod was terminated"
    finding = trouble(pod(terminated(137, "ContainerStatusUnknown", words), phase="Failed"))
    assert finding.error is errors.PodLostError
    assert "node-7" in finding.message


def test_a_node_that_is_cut_off() -> None:
    """Its Pod stays Terminating for ever; nothing in its status says more."""
    finding = ending.lost(pod_view(pod(RUNNING, RUNNING, deleting=True)))
    assert finding.error is errors.PodLostError
    assert "node-7" in finding.message


def test_the_pods_own_deadline() -> None:
    """The backstop for a supervisor that cannot end the function; main ended by SIGTERM, and must not run again."""
    words = "Pod was active on the node longer than the specified deadline"
    status = pod(terminated(143), COMPLETED, phase="Failed", reason="DeadlineExceeded", message=words)
    finding = trouble(status)
    assert finding.error is errors.CallTimeoutError
    assert finding.job_goes_on
    assert finding.words == ("main Error, exit code 143", f"DeadlineExceeded: {words}")


def test_a_pod_that_never_ran_has_an_end_too() -> None:
    """No container has a status; its reason is all there is."""
    finding = ending.pod_end_trouble(pod_view(pod(phase="Failed", reason="DeadlineExceeded", message="too long")))
    assert finding is not None
    assert finding.words == ("main never started", "DeadlineExceeded: too long")


# -- Jobs


def test_a_job_that_goes_on_has_no_trouble() -> None:
    """Only a condition that holds counts."""
    assert ending.job_trouble(job_view(job()), []) is None


def test_the_jobs_deadline() -> None:
    """Also of a call that never started."""
    failed = job_view(job(reason="DeadlineExceeded", message="Job was active longer than specified deadline"))
    finding = ending.job_trouble(failed, [])
    assert finding is not None
    assert finding.error is errors.CallTimeoutError
    assert "deadline=" in finding.advice


def test_a_deadline_says_what_was_waited_for() -> None:
    """A call that no node could take: the reason, its words and its remedy are in the error."""
    failed = job_view(job(reason="DeadlineExceeded", message="Job was active longer than specified deadline"))
    waited_for = scheduling_trouble("Unschedulable", "0/1 nodes are available: 1 Insufficient cpu.")
    finding = ending.job_trouble(failed, [], waited_for)
    assert finding is not None
    assert finding.error is errors.CallTimeoutError
    assert waited_for.message in finding.message
    assert waited_for.words[0] in finding.words
    assert "cpu=" in finding.advice


def test_pods_taken_away_too_often() -> None:
    """The last Pod's words are there, though the Pod may be gone."""
    failed = job_view(job(reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit"))
    finding = ending.job_trouble(failed, [pod_view(pod(terminated(143), COMPLETED))])
    assert finding is not None
    assert (finding.error, finding.reason) == (errors.PodLostError, "BackoffLimitExceeded")
    assert finding.words[1] == "main Error, exit code 143"


@pytest.mark.parametrize(
    ("exit_code", "error"),
    [
        (137, errors.PodLostError),
        (139, errors.WorkerDiedError),
        (64, errors.ResultLostError),
        (3, errors.WorkerDiedError),
    ],
)
def test_a_job_knows_how_main_ended_whose_pod_is_gone(exit_code: int, error: type[errors.KubefuncError]) -> None:
    """Its podFailurePolicy names the exit code."""
    words = f"Container main for pod ns/train-x1 failed with exit code {exit_code} matching FailJob rule at index 1"
    finding = ending.job_trouble(job_view(job(reason="PodFailurePolicy", message=words)), [])
    assert finding is not None
    assert (finding.error, finding.exit_code) == (error, exit_code)


COURIER_START_ERROR = terminated(128, "StartError", 'exec: "python3": executable file not found in $PATH')


@pytest.mark.parametrize("main", [RUNNING, COMPLETED])
def test_a_courier_that_cannot_start(main: dict[str, object]) -> None:
    """The call ends at once, whatever main does: without a courier there is no way to its result."""
    finding = ending.courier_trouble(pod_view(pod(main, COURIER_START_ERROR)))
    assert finding is not None
    assert (finding.error, finding.reason, finding.container) == (errors.PodConfigError, "StartError", "courier")
    assert "executable file not found" in finding.words[0]
    assert "/opt/conda/bin" in finding.advice


@pytest.mark.parametrize("exit_code", [0, 65, 137, 143])
def test_a_courier_that_was_ended(exit_code: int) -> None:
    """It had done its work, or was ended from outside: that is no fault of its image."""
    assert ending.courier_trouble(pod_view(pod(RUNNING, terminated(exit_code)))) is None


def test_a_courier_that_a_busy_node_did_not_start() -> None:
    """The next Pod may have more luck: this one is lost."""
    finding = ending.courier_trouble(pod_view(pod(RUNNING, terminated(128, "StartError", "context canceled"))))
    assert finding is not None
    assert finding.error is errors.PodLostError


def test_a_job_knows_that_its_courier_has_failed() -> None:
    """Its podFailurePolicy names the container and the exit code."""
    words = "Container courier for pod ns/train-x1 failed with exit code 128 matching FailJob rule at index 3"
    finding = ending.job_trouble(job_view(job(reason="PodFailurePolicy", message=words)), [])
    assert finding is not None
    assert (finding.error, finding.container) == (errors.PodConfigError, "courier")


def test_a_disruption_where_none_is_allowed() -> None:
    """``max_disruptions=0`` ends the Job at the first one."""
    words = "Pod ns/train-x1 has condition DisruptionTarget matching FailJob rule at index 0"
    finding = ending.job_trouble(job_view(job(reason="PodFailurePolicy", message=words)), [])
    assert finding is not None
    assert finding.error is errors.PodLostError


def test_a_damaged_result_says_in_which_way() -> None:
    """Its message and advice are those of the check that failed."""
    from kubefunc.envelope import verify

    with pytest.raises(errors.ResultCorruptedError) as caught:
        verify(b"not an envelope", b"k" * 32, "train-abcdefgh")
    finding = ending.corrupted(caught.value)
    assert finding.error is errors.ResultCorruptedError
    assert "it was cut" in finding.message


def kept_by_courier(message: str) -> dict[str, Any]:
    """The Pod of a function that has ended, and whose courier has too, a day later."""
    ended = {"terminated": {"exitCode": 0, "message": "kubefunc:size:9000000", "finishedAt": "2026-11-01T10:00:00Z"}}
    courier = {"terminated": {"exitCode": 0, "message": message, "finishedAt": "2026-11-02T10:00:00Z"}}
    return pod(ended, courier)


def test_a_result_that_nobody_fetched_in_time() -> None:
    """The message says when it came, until when it was kept, and by which option."""
    finding = trouble(kept_by_courier("kubefunc:unfetched"))
    assert finding.error is errors.ResultLostError
    assert "ended at 2026-11-01T10:00:00Z" in finding.message
    assert "nobody fetched it, and the Pod ended at 2026-11-02T10:00:00Z" in finding.message
    assert "result_ttl=" in finding.message + finding.advice


def test_a_result_that_another_program_has() -> None:
    """The message gives the two possible reasons: it was fetched, or the Pod was stopped."""
    finding = trouble(kept_by_courier(""))
    assert finding.error is errors.ResultLostError
    assert "the courier (the container that hands out the result) ended at 2026-11-02T10:00:00Z" in finding.message

"""Why a call that had a Pod has no result: how its ``main``, its Pod or its Job ended. Pure.

The order of the questions is from the whole to the part: what ended a Pod from outside also ends its containers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.diagnose.mounting import about_volumes
from kubefunc.backends.kubernetes.objects.views import Container, Job, Pod
from kubefunc.reading.failures import signal_name
from kubefunc.runner import (
    COURIER,
    COURIER_ENDS,
    EXIT_COURIER_TERMINATED,
    EXIT_KILLED,
    EXIT_RAISED,
    EXIT_TERMINATED,
    EXIT_VALUE,
    MAIN,
    TERMINATION_UNFETCHED,
)
from kubefunc.untrusted import printable

# -- a Pod whose main has ended without an envelope


def main_trouble(pod: Pod) -> Finding | None:
    """Why ``main`` ended without a result of its own; None where another Pod takes its place."""
    return about_volumes(_main_trouble(pod), pod.volumes)


def _main_trouble(pod: Pod) -> Finding | None:
    whole = pod_end_trouble(pod)
    if whole is not None:
        return whole
    main = pod.main
    if main.exit_code == EXIT_VALUE or (main.exit_code == EXIT_RAISED and main.reason != OOM_KILLED):
        return _result_lost(pod)
    if pod.disruption or main.exit_code == EXIT_TERMINATED:
        return None
    if main.reason == OOM_KILLED:
        return _out_of_memory(pod)
    if pod.deleting:
        return _deleted_and_killed(pod)
    if main.reason == "ContainerStatusUnknown":
        return _container_lost(pod)
    if _did_not_start(main):
        return _node_too_slow(pod) if _TIMED_OUT.search(main.message) else _no_python(pod)
    return _died(pod)


OOM_KILLED = "OOMKilled"
POD_DELETED = "PodDeleted"
_NOT_STARTED = 128  # containerd's exit code for a command that it cannot execute
_LAST_SIGNAL = 64
_TIMED_OUT = re.compile(r"context canceled|deadline exceeded|timed out", re.IGNORECASE)


def _result_lost(pod: Pod) -> Finding:
    return Finding(
        errors.ResultLostError,
        "ResultLost",
        _where_the_result_went(pod),
        "Run it again. result_ttl= sets how long a result above 4 MiB waits in its Pod. Write what must stay "
        "longer to a volume.",
        _pod_words(pod),
        exit_code=pod.main.exit_code,
    )


def _where_the_result_went(pod: Pod) -> str:
    """Since when it is gone, and why."""
    ended = f" at {pod.main.ended_at}" if pod.main.ended_at else ""
    since = f" at {pod.courier.ended_at}" if pod.courier.ended_at else ""
    if pod.courier.message.startswith(TERMINATION_UNFETCHED):
        return (
            f"The function ended{ended}. Its result is too large for a log (above 4 MiB, or results_in_log=False): its "
            f"Pod kept it for result_ttl=, but nobody fetched it, and the Pod ended{since}."
        )
    return (
        f"The function ended{ended}, but its result is gone: the courier (the container that hands out the result) "
        f"ended{since}, because "
        "another program fetched it, or the Pod was stopped."
    )


def _out_of_memory(pod: Pod) -> Finding:
    """The kernel killed the whole container, as it does under cgroup v2; under v1 the supervisor lives to tell."""
    return Finding(
        errors.OutOfMemoryError,
        OOM_KILLED,
        "The function used more memory than its limit, and the kernel killed it.",
        'Raise memory=, or let retries raise it: retries=3, memory=("1Gi", "8Gi").',
        _pod_words(pod),
        exit_code=pod.main.exit_code,
    )


def _container_lost(pod: Pod) -> Finding:
    return Finding(
        errors.PodLostError,
        "ContainerStatusUnknown",
        f"The node {pod.node} does not know how the function ended. The node was probably restarted.",
        "Run it again.",
        _pod_words(pod),
    )


def _deleted_and_killed(pod: Pod) -> Finding:
    """The Job cannot tell this from a failure: it sees exit code 137, and has failed."""
    return Finding(
        errors.PodLostError,
        POD_DELETED,
        f"Somebody deleted the Pod {pod.name}, and its containers were killed before the function ended.",
        "kubefunc runs the function again, up to max_disruptions= times. Ask your cluster's administrator who deletes "
        "Pods.",
        _pod_words(pod),
    )


def courier_trouble(pod: Pod) -> Finding | None:
    """A courier that cannot do its work: no result that needs it can be fetched, now or from another Pod."""
    courier = pod.courier
    if courier.state != "terminated" or courier.exit_code in (None, *COURIER_ENDS) or pod.deleting or pod.disruption:
        return None
    if _did_not_start(courier) and _TIMED_OUT.search(courier.message):
        return _node_too_slow(pod)
    how = "cannot be started" if _did_not_start(courier) else f"ended with exit code {courier.exit_code}"
    return Finding(
        errors.PodConfigError,
        courier.reason or "StartError",
        f"The container {COURIER!r}, which hands out the function's result, {how} (image {courier.image}).",
        f"It needs python3, as the function does. {_PYTHON_ADVICE}",
        (f"{COURIER} {courier.reason}, exit code {courier.exit_code}: {courier.message}",),
        exit_code=courier.exit_code,
        container=COURIER,
        job_goes_on=True,
    )


def _did_not_start(container: Container) -> bool:
    return container.exit_code == _NOT_STARTED or container.reason in ("StartError", "ContainerCannotRun")


_PYTHON_ADVICE = (
    "Use an image with python3 on its PATH, such as the default or one made from it. "
    'If the image has it elsewhere (conda: /opt/conda/bin), set PATH: env={"PATH": "/opt/conda/bin:/usr/bin:/bin"}.'
)


def _no_python(pod: Pod) -> Finding:
    return Finding(
        errors.PodConfigError,
        pod.main.reason or "StartError",
        f"The image {pod.main.image} cannot start the function: it has no python3 on its PATH.",
        _PYTHON_ADVICE,
        _pod_words(pod),
        exit_code=pod.main.exit_code,
    )


def _node_too_slow(pod: Pod) -> Finding:
    """Its command was not reached: an overloaded node gives up after two minutes, and the Pod has failed."""
    return Finding(
        errors.PodLostError,
        pod.main.reason or "StartError",
        f"The node {pod.node} did not start the function's container in time.",
        "kubefunc runs the function again, up to max_disruptions= times. If it happens often, the node is overloaded: "
        "set cpu=, so that Kubernetes does not put more calls on a node than it can run.",
        _pod_words(pod),
    )


def _died(pod: Pod) -> Finding:
    """Not the function's process, which has a supervisor to tell how it ended, but the supervisor itself."""
    code = pod.main.exit_code
    number = code - 128 if code is not None and 128 < code <= 128 + _LAST_SIGNAL else None
    how = f"was killed by signal {number} ({signal_name(number)})" if number else f"ended with exit code {code}"
    return Finding(
        errors.WorkerDiedError,
        "WorkerDied",
        f"kubefunc's own program in the function's container {how}. The function ended with it.",
        "Something on the node kills processes: ask your cluster's administrator. The last output may say more."
        if number
        else "The last output may say why.",
        _pod_words(pod),
        exit_code=code,
        signal=number,
    )


def pod_end_trouble(pod: Pod) -> Finding | None:
    """A Pod that the kubelet ended as a whole. It does so by SIGTERM: to the Job that is an end from outside."""
    return about_volumes(_pod_end_trouble(pod), pod.volumes)


def _pod_end_trouble(pod: Pod) -> Finding | None:
    if pod.reason == "Evicted" and not pod.disruption:
        return _evicted(pod)
    if pod.reason == "DeadlineExceeded":
        return Finding(
            errors.CallTimeoutError,
            "DeadlineExceeded",
            "The Pod's time limit is over. It covers the function's timeout, all attempts and the image pull.",
            "Raise timeout= or pull_allowance=.",
            _pod_words(pod),
            job_goes_on=True,
        )
    return None


_OWN_FAULT = re.compile(r"usage of emptydir|exceeds the total limit|exceeded its local ephemeral", re.IGNORECASE)


def _evicted(pod: Pod) -> Finding:
    if _OWN_FAULT.search(pod.message):
        return Finding(
            errors.EvictedError,
            "Evicted",
            "The function was stopped because it wrote more to disk than its limit.",
            "Write less to /tmp and to the volume that the message names, or raise its limit in pod_template= "
            "(emptyDir.sizeLimit, or limits of ephemeral-storage).",
            _pod_words(pod),
            job_goes_on=True,
        )
    return Finding(
        errors.PodLostError,
        "Evicted",
        f"The node {pod.node} was short of memory or disk space, so it stopped some Pods, including this one.",
        "Set memory= to what the function needs. Pods that use more than they asked for are stopped first.",
        _pod_words(pod),
    )


def _pod_words(pod: Pod) -> tuple[str, ...]:
    main = pod.main
    ended = f"main {main.reason or main.state or 'never started'}" + (
        f", exit code {main.exit_code}" if main.exit_code is not None else ""
    )
    said = "" if main.message.startswith("kubefunc:") else printable(main.message)  # the function may write it
    words = [ended + (f": {said}" if said else "")]
    if pod.reason:
        words.append(f"{pod.reason}: {pod.message}".strip())
    if pod.disruption:
        words.append(f"DisruptionTarget {pod.disruption}: {pod.disruption_message}")
    return tuple(words)


# -- the Job


def job_trouble(job: Job, pods: Sequence[Pod], waited_for: Finding | None = None) -> Finding | None:
    """Why a Job failed that left no result behind.

    ``pods``: those that are there, or the last that was. ``waited_for``: what it was waiting for.
    """
    if not job.failed:
        return None
    words = (f"{job.failed}: {job.failed_message}", *(word for pod in pods for word in _pod_words(pod)))
    if job.failed == "DeadlineExceeded":
        return _deadline(words, waited_for)
    exit_code = _FAILED_BY_MAIN.search(job.failed_message)
    if exit_code is not None:
        return _died_unseen(int(exit_code[1]), words)
    if _FAILED_BY_COURIER.search(job.failed_message):
        return _courier_failed_unseen(words)
    return taken_too_often(job, words)


def taken_too_often(job: Job, words: tuple[str, ...] = ()) -> Finding:
    """Pods were ended from outside, until the Job gave up."""
    return Finding(
        errors.PodLostError,
        job.failed or "FailedIndexes",
        "The function's Pod was ended from outside (deleted, its node drained, SIGTERM) more often than "
        "max_disruptions= allows.",
        "Raise max_disruptions=, or ask your cluster's administrator why Pods are ended.",
        words,
    )


def _deadline(words: tuple[str, ...], waited_for: Finding | None) -> Finding:
    message = "The call's deadline is over. It counts from the submission and includes the wait for the start."
    if waited_for is None:
        return Finding(errors.CallTimeoutError, "DeadlineExceeded", message, "Raise deadline=.", words)
    message = f"{message} The function had not started: {waited_for.message}"
    advice = f"{waited_for.advice} Or raise deadline=."
    return Finding(errors.CallTimeoutError, "DeadlineExceeded", message, advice, (*words, *waited_for.words))


# What a podFailurePolicy says of a container; a Pod's condition has other words.
_FAILED_BY_COURIER = re.compile(
    rf"Container {COURIER} for pod \S+ failed with exit code (?!{EXIT_COURIER_TERMINATED}\b)"
)
_FAILED_BY_MAIN = re.compile(rf"Container {MAIN} for pod \S+ failed with exit code (\d+)")


def _courier_failed_unseen(words: tuple[str, ...]) -> Finding:
    return Finding(
        errors.PodConfigError,
        "StartError",
        f"The container {COURIER!r}, which hands out the function's result, failed.",
        f"It needs python3, as the function does. {_PYTHON_ADVICE}",
        words,
        container=COURIER,
    )


def _died_unseen(exit_code: int, words: tuple[str, ...]) -> Finding:
    """The Job knows the exit code of a Pod that is gone."""
    if exit_code == EXIT_KILLED:  # a Pod that was killed otherwise (for its memory) is still there
        return Finding(
            errors.PodLostError,
            POD_DELETED,
            "Somebody deleted the function's Pod, and its containers were killed.",
            "kubefunc runs the function again, up to max_disruptions= times. Ask your cluster's administrator who "
            "deletes Pods.",
            words,
            exit_code=exit_code,
        )
    if exit_code == EXIT_RAISED:
        return Finding(
            errors.ResultLostError,
            "ResultLost",
            "The function raised an exception, but its Pod was removed before kubefunc could fetch the exception.",
            "Run it again, and keep the client running.",
            words,
            exit_code=exit_code,
        )
    return Finding(
        errors.WorkerDiedError,
        "WorkerDied",
        f"kubefunc's own program in the function's container ended with exit code {exit_code}, and its Pod is gone.",
        "Run it again. The Pod may have run out of memory, or somebody killed it on its node.",
        words,
        exit_code=exit_code,
    )


def result_gone(job: Job) -> Finding:
    """The Job ended well, and no Pod of it is there any more."""
    return Finding(
        errors.ResultLostError,
        "ResultLost",
        f"The Job {job.name} has ended, but its Pod and the result are gone.",
        "Run it again, and fetch the result before its Pod is removed. ttl= sets how long it stays.",
    )


def deleted(job: str) -> Finding:
    """The Job of a call of this program, which did not delete it."""
    return Finding(
        errors.JobDeletedError,
        "JobDeleted",
        f"Somebody deleted the Job {job}.",
        "Run it again. Ask who deletes Jobs in this namespace.",
    )


def deleted_meanwhile(job: str) -> Finding:
    """The Job of a call of another program, which may have deleted it."""
    return Finding(
        errors.JobDeletedError,
        "JobDeleted",
        f"The Job {job} was deleted: its program has cancelled or collected the call, or ended, or somebody deleted "
        "the Job.",
        "Run it again; detach=True lets a call outlive its program.",
    )


def lost(pod: Pod) -> Finding:
    """A Pod that stays Terminating past its grace: its node is dead or cut off."""
    return Finding(
        errors.PodLostError,
        "PodLost",
        f"The Pod is lost: its node {pod.node} does not answer, and the Pod did not stop when Kubernetes asked it to.",
        "kubefunc runs the function again on another node, up to max_disruptions= times.",
        _pod_words(pod),
    )


def stream_lost(pod: str) -> Finding:
    """A generator's Pod is gone, after values had come from it."""
    return Finding(
        errors.PodLostError,
        "StreamLost",
        f"The Pod {pod} was ended from outside (deleted, its node drained or lost) while its values were read.",
        "Call the function again, and have it begin where this stream ended.",
    )


def needs_exec(pod: Pod) -> Finding:
    """A result too large for a log, and no permission to fetch it."""
    return Finding(
        errors.ResultLostError,
        "ResultUnreachable",
        "The function has ended, but its result is too large for the Pod's status and log, or has files, and you lack "
        "the permission to fetch it (pods/exec).",
        "Ask your cluster's administrator for pods/exec (create, get) in your Role, or write large results to a "
        "volume.",
        _pod_words(pod),
    )


def corrupted(error: errors.ResultCorruptedError) -> Finding:
    """What came is not what was written; the error says in which respect."""
    told = error.diagnosis
    return Finding(
        errors.ResultCorruptedError,
        "ResultCorrupted",
        told.message if told is not None else str(error),
        told.advice if told is not None else "",
    )

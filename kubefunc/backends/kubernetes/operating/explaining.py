"""What a call waits for, does, or how it ended: its objects in, a Diagnosis out. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence

from kubefunc.backends.kubernetes.diagnose import ending, starting
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects import views
from kubefunc.backends.kubernetes.objects.fields import BadObject, JsonDict
from kubefunc.backends.kubernetes.objects.views import Job, Pod
from kubefunc.backends.operations import StoredCall
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.runner import EXIT_RAISED, EXIT_VALUE

EventsOf = Callable[[str], Sequence[JsonDict]]  # of the object with this UID

_PHASES = {
    "queued": Phase.PENDING,
    "pending": Phase.PENDING,
    "starting": Phase.STARTING,
    "running": Phase.RUNNING,
    "succeeded": Phase.FINISHED,
    "failed": Phase.FINISHED,
}

_WORDS = {
    "single": ("The function runs.", "The function has returned.", "The function has raised an exception."),
    "map": ("The map runs.", "All items have ended without an error.", "Some items have raised an exception."),
    "gang": ("All ranks run.", "All ranks have returned.", "A rank has raised an exception."),
}


def explain(call: StoredCall, jobs: Sequence[JsonDict], pods: Iterable[JsonDict], events_of: EventsOf) -> Diagnosis:
    """The state of a call in words. ``jobs``: the newest last; ``events_of`` is asked only where they can tell more."""
    job = views.job_view(jobs[-1])
    mine = [pod for pod in _well_formed(pods) if pod.job_uid == job.uid]
    finding, pod = _finding(call, job, mine, events_of)
    if finding is None:
        return _told(call, pod, _in_order(call), _next(call))
    message = " ".join(filter(None, (_many(call, mine), finding.message, finding.outlook)))
    told = _told(call, pod, message, finding.advice)
    return Diagnosis(
        finding.reason,
        told.message,
        told.advice,
        told.phase,
        told.call,
        told.namespace,
        told.pod,
        told.node,
        finding.exit_code,
        finding.signal,
        finding.words,
    )


def _told(call: StoredCall, pod: Pod | None, message: str, advice: str) -> Diagnosis:
    return Diagnosis(
        "",
        message,
        advice,
        _PHASES[call.state],
        call.id,
        call.namespace,
        pod.name if pod else None,
        pod.node if pod else None,
    )


def _well_formed(pods: Iterable[JsonDict]) -> list[Pod]:
    found: list[Pod] = []
    for pod in pods:
        with contextlib.suppress(BadObject):
            found.append(views.pod_view(pod))
    return found


def _finding(call: StoredCall, job: Job, pods: Sequence[Pod], events_of: EventsOf) -> tuple[Finding | None, Pod | None]:
    """What is wrong, and the Pod that shows it."""
    if call.state == "queued":
        return starting.held_back(job.queue), None
    if call.state == "failed":
        return _why_failed(job, pods)
    if call.state in ("pending", "starting"):
        return _why_waiting(job, pods, events_of)
    running = next((pod for pod in pods if pod.where is Phase.RUNNING), None)
    return None, running or (pods[-1] if pods else None)


def _why_waiting(job: Job, pods: Sequence[Pod], events_of: EventsOf) -> tuple[Finding | None, Pod | None]:
    waiting = [pod for pod in pods if pod.where in (Phase.PENDING, Phase.STARTING) and not pod.deleting]
    for pod in waiting:
        finding = starting.start_trouble(pod)
        if finding is not None:
            return finding, pod
    if waiting:
        return starting.event_trouble(events_of(waiting[0].uid), waiting[0].volumes), waiting[0]
    return starting.event_trouble(events_of(job.uid)), None


def _why_failed(job: Job, pods: Sequence[Pod]) -> tuple[Finding | None, Pod | None]:
    """None where the function raised: its exception is in the result."""
    for pod in pods:
        if pod.main.state == "terminated" and pod.main.exit_code not in (EXIT_VALUE, EXIT_RAISED):
            finding = ending.main_trouble(pod) or ending.job_trouble(job, [pod])
            if finding is not None:
                return finding, pod
    raised = next((pod for pod in pods if pod.main.exit_code == EXIT_RAISED), None)
    if raised is not None:
        return None, raised
    return ending.job_trouble(job, pods), pods[-1] if pods else None


def _many(call: StoredCall, pods: Sequence[Pod]) -> str:
    """Of a map: how many Pods wait beside the one whose trouble is told; of a gang: who waits for it."""
    waiting = sum(pod.where in (Phase.PENDING, Phase.STARTING) for pod in pods)
    if call.is_gang and waiting:
        return f"The gang waits until its {call.chunks} ranks can start together; {waiting} cannot yet. Of one:"
    return f"{waiting} Pods of the map wait; of one:" if call.shape == "map" and waiting > 1 else ""


def _in_order(call: StoredCall) -> str:
    """A sentence for a call with which nothing is wrong, or whose function raised."""
    running, succeeded, failed = _WORDS["gang" if call.is_gang else call.shape]
    return {
        "queued": "The Job is suspended.",
        "pending": "There is no Pod yet, or it waits for a node.",
        "starting": "The Pod is being started.",
        "running": running,
        "succeeded": succeeded,
        "failed": failed,
    }[call.state]


def _next(call: StoredCall) -> str:
    if call.state == "failed":
        return f"`kubefunc result {call.address}` shows the exception, `kubefunc logs {call.address}` the output."
    if call.state == "succeeded":
        return f"`kubefunc result {call.address}` shows the result."
    return ""

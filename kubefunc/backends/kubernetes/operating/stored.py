"""Jobs and Pods as the API server lists them, read as calls. Pure.

Anybody who may create objects with our labels chooses what stands in them: what is malformed is left out.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kubefunc.backends.kubernetes.objects import fields, labels, views
from kubefunc.backends.kubernetes.objects.fields import BadObject, JsonDict
from kubefunc.backends.kubernetes.objects.isolation import UNTRUSTED_LABEL
from kubefunc.backends.operations import State, StoredCall, StoredPod
from kubefunc.runner import EXIT_RAISED, EXIT_VALUE, MAIN

_ORDER: tuple[State, ...] = ("running", "starting", "pending", "queued")


def stored_calls(jobs: Iterable[JsonDict], pods: Iterable[JsonDict]) -> list[StoredCall]:
    """The calls that these Jobs and their Pods are, the oldest first."""
    grouped: dict[tuple[str, str], list[JsonDict]] = defaultdict(list)
    for job in jobs:
        with contextlib.suppress(BadObject):
            metadata = fields.mapping(job, "metadata")
            call = fields.text(fields.mapping(metadata, "labels"), labels.CALL_LABEL)
            if call:
                grouped[fields.text(metadata, "namespace"), call].append(job)
    owned = _pods_by_job(pods)
    found: list[StoredCall] = []
    for (namespace, call), group in grouped.items():
        with contextlib.suppress(BadObject):
            found.append(_stored_call(namespace, call, in_order(group), owned))
    return sorted(found, key=lambda each: (each.created, each.id))


def in_order(jobs: Iterable[JsonDict]) -> list[JsonDict]:
    """The Jobs of one call, the newest attempt last."""
    return sorted(jobs, key=lambda job: (len(fields.name_of(job)), fields.name_of(job)))


def _pods_by_job(pods: Iterable[JsonDict]) -> Mapping[str, list[StoredPod]]:
    owned: dict[str, list[StoredPod]] = defaultdict(list)
    for pod in pods:
        with contextlib.suppress(BadObject):
            _, uid, index = views.owner_of(pod)
            if uid:
                owned[uid].append(_stored_pod(pod, index))
    return owned


def _stored_pod(pod: JsonDict, index: int | None) -> StoredPod:
    view = views.pod_view(pod)
    started, finished = _times_of_main(pod)
    return StoredPod(
        name=view.name,
        state=_state_of_pod(view),
        node=view.node,
        index=index,
        exit_code=view.main.exit_code,
        started=started,
        finished=finished,
    )


def _state_of_pod(pod: views.Pod) -> State:
    if pod.main.state == "terminated":
        return "succeeded" if pod.main.exit_code == EXIT_VALUE else "failed"
    if pod.phase == "Failed":
        return "failed"
    if pod.main.state == "running":
        return "running"
    return "starting" if pod.node else "pending"


def _times_of_main(pod: JsonDict) -> tuple[str, str]:
    for status in fields.mappings(fields.mapping(pod, "status"), "containerStatuses"):
        if status.get("name") == MAIN:
            states = fields.mapping(status, "state")
            ended, running = fields.mapping(states, "terminated"), fields.mapping(states, "running")
            return fields.text(ended or running, "startedAt"), fields.text(ended, "finishedAt")
    return "", ""


def _stored_call(
    namespace: str, call: str, jobs: Sequence[JsonDict], owned: Mapping[str, list[StoredPod]]
) -> StoredCall:
    first, newest = fields.mapping(jobs[0], "metadata"), fields.mapping(jobs[-1], "metadata")
    marks, notes = fields.mapping(newest, "labels"), fields.mapping(newest, "annotations")
    is_map = fields.text(fields.mapping(jobs[0], "spec"), "completionMode") == "Indexed"
    parts = [_part(job, owned.get(views.job_view(job).uid, [])) for job in jobs]
    counted = parts if is_map else parts[-1:]
    state = _state_of_call(counted)
    pods = [pod for part in parts for pod in part.pods]
    starts = sorted(pod.started for pod in pods if pod.started)
    return StoredCall(
        id=call,
        namespace=namespace,
        function=fields.text(notes, labels.FUNCTION_ANNOTATION) or call.rpartition("-")[0],
        shape="map" if is_map else "single",
        state=state,
        created=fields.text(first, "creationTimestamp"),
        started=starts[0] if starts else "",
        finished=max((part.finished for part in counted), default="") if state in ("succeeded", "failed") else "",
        attempt=fields.whole_number(fields.text(notes, labels.ATTEMPT_ANNOTATION)) or 1,
        items=_items(jobs) if is_map else 1,
        chunks=sum(part.chunks for part in counted),
        succeeded=sum(part.succeeded for part in counted),
        failed=sum(part.failed for part in counted),
        version=fields.text(notes, labels.VERSION_ANNOTATION),
        is_untrusted=UNTRUSTED_LABEL in marks,
        is_gang=_is_gang(jobs[-1]),
        pool=fields.text(marks, labels.POOL_LABEL),
        jobs=tuple(fields.name_of(job) for job in jobs),
        pods=tuple(sorted(pods, key=lambda pod: (pod.index or 0, pod.started or "~", pod.name))),
        **_who(marks, notes),
    )


def _is_gang(job: JsonDict) -> bool:
    """Only the Pods of a gang have names in DNS, below that of their Job."""
    template = fields.mapping(fields.mapping(job, "spec"), "template")
    return fields.text(fields.mapping(template, "spec"), "subdomain") == fields.name_of(job)


def _who(marks: JsonDict, notes: JsonDict) -> dict[str, str]:
    """Who made it; Jobs of earlier versions do not say."""
    return {
        "user": fields.text(marks, labels.USER_LABEL),
        "program": fields.text(marks, labels.PROGRAM_LABEL),
        "host": fields.text(notes, labels.HOST_ANNOTATION),
        "module": fields.text(notes, labels.MODULE_ANNOTATION),
    }


def _items(jobs: Sequence[JsonDict]) -> int:
    """Of a map: its first Job has all of them, further ones a part."""
    notes = fields.mapping(fields.mapping(jobs[0], "metadata"), "annotations")
    return fields.whole_number(fields.text(notes, labels.ITEMS_ANNOTATION)) or 0


def _state_of_call(parts: Sequence[_Part]) -> State:
    states = {part.state for part in parts}
    for state in _ORDER:
        if state in states:
            return state
    return "failed" if "failed" in states else "succeeded"


@dataclass(frozen=True)
class _Part:
    """One Job of a call, with its Pods."""

    pods: Sequence[StoredPod]
    state: State
    chunks: int
    succeeded: int
    failed: int
    finished: str


def _part(job: JsonDict, pods: Sequence[StoredPod]) -> _Part:
    view = views.job_view(job)
    spec, status = fields.mapping(job, "spec"), fields.mapping(job, "status")
    chunks = fields.number(spec, "completions") or 1
    conditions = fields.mappings(status, "conditions")
    ended = [fields.text(each, "lastTransitionTime") for each in conditions if each.get("status") == "True"]
    # The controller counts Pods some time after their end, and of a call's kept result only when that goes.
    codes = [pod.exit_code for pod in {pod.index: pod for pod in pods}.values()]
    return _Part(
        pods=pods,
        state=_state_of_gang(view, pods, chunks) if _is_gang(job) else _state_of_job(view, pods, chunks),
        chunks=chunks,
        succeeded=max(fields.number(status, "succeeded") or 0, codes.count(EXIT_VALUE)),
        failed=max(len(views.indexes(view.failed_indexes)), codes.count(EXIT_RAISED)),
        finished=max((pod.finished for pod in pods), default="") or max(ended, default=""),
    )


def _state_of_gang(job: views.Job, pods: Sequence[StoredPod], chunks: int) -> State:
    """None of its ranks runs its function before all are there, though their programs run."""
    state, states = _state_of_job(job, pods, chunks), {pod.state for pod in pods}
    if state != "running" or states.isdisjoint(("pending", "starting")):
        return state
    return "pending" if "pending" in states else "starting"


def _state_of_job(job: views.Job, pods: Sequence[StoredPod], chunks: int) -> State:
    if job.failed:
        return "failed"
    if job.complete:
        return "succeeded"
    if job.suspended:
        return "queued"
    states = {pod.state for pod in pods}
    for state in _ORDER:
        if state in states:
            return state
    # A result may wait in its Pod for a day, and the Job is not over before. Of a Pod with another exit code the Job
    # controller decides whether a new one takes its place.
    ended = {pod.index: pod for pod in pods if pod.exit_code in (EXIT_VALUE, EXIT_RAISED)}
    if len(ended) < chunks:
        return "pending"
    return "failed" if any(pod.exit_code == EXIT_RAISED for pod in ended.values()) else "succeeded"

"""What matters of a Pod, a Job and an Event, as the API server sends them. Pure: dicts in, small values out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.fields import BadObject, JsonDict
from kubefunc.backends.kubernetes.objects.labels import (
    CALL_LABEL,
    COMPLETION_INDEX,
    INDEX_FAILURES,
    INDEX_IGNORED_FAILURES,
)
from kubefunc.backends.kubernetes.objects.user_volumes import Mounted, mounted
from kubefunc.diagnosis import Phase
from kubefunc.runner import COURIER, MAIN, TERMINATION_AT, TERMINATION_ENVELOPE, TERMINATION_SIZE

CONTROLLER_UID = "batch.kubernetes.io/controller-uid"  # the Job controller's own label on its Pods
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"  # a label of Jobs that Kueue suspends until it admits them


@dataclass(frozen=True)
class Container:
    """The state of one container. ``state`` is ``waiting``, ``running``, ``terminated`` or empty."""

    state: str = ""
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    signal: int | None = None
    name: str = ""
    image: str = ""
    ended_at: str = ""


@dataclass(frozen=True)
class Pod:
    """What matters of a Pod.

    Attributes:
        initial: the containers that run before all others, as far as they have a status.
        containers: all that have a status, the initial ones first.
        unscheduled, unscheduled_message: reason and words of the scheduler, as long as it has no node.
        disruption, disruption_message: of its condition ``DisruptionTarget``: it was ended from outside.
        grace: seconds that it has to end, once it is told to.
        index: which chunk of a map it runs, or None for a call.
        replaces: there were other Pods of this index before it.
        volumes: those that the option ``volumes`` has put there.
    """

    name: str
    uid: str
    job: str
    job_uid: str
    phase: str
    node: str | None
    main: Container
    courier: Container
    initial: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()
    reason: str = ""
    message: str = ""
    unscheduled: str = ""
    unscheduled_message: str = ""
    disruption: str = ""
    disruption_message: str = ""
    deleting: bool = False
    grace: float = 30.0
    index: int | None = None
    replaces: bool = False
    volumes: tuple[Mounted, ...] = ()

    @property
    def has_result(self) -> bool:
        """Whether ``main`` has left a result, in the message or where that says."""
        return self.main.message.startswith((TERMINATION_ENVELOPE, TERMINATION_SIZE))

    @property
    def at(self) -> int | None:
        """The item of a map that ``main`` was at, where it left that word and no other."""
        message = self.main.message
        if not message.startswith(TERMINATION_AT):
            return None
        text = message[len(TERMINATION_AT) :].strip()
        return fields.whole_number(text)

    @property
    def where(self) -> Phase:
        if self.main.state == "terminated":
            return Phase.FETCHING
        if self.main.state == "running":
            return Phase.RUNNING
        return Phase.STARTING if self.node else Phase.PENDING


@dataclass(frozen=True)
class Job:
    """What matters of a Job."""

    name: str
    uid: str
    call: str
    suspended: bool
    failed: str
    failed_message: str
    complete: bool = False
    failed_indexes: str = ""
    queue: str = ""  # of Kueue


def items_of(body: JsonDict) -> list[JsonDict]:
    """What a list holds. An empty one of metadata alone says null: Go writes a slice that nothing was added to so."""
    return fields.mappings(body, "items")


def owner_of(pod: JsonDict) -> tuple[str, str, int | None]:
    """Name and UID of a Pod's Job, and its index there: cheap to ask, before anything else is read.

    Empty for a Pod that the Job controller did not make: a reference to the Job alone can be put into any Pod.

    Raises:
        BadObject: a field is not of the type that the API gives it.
    """
    metadata = fields.mapping(pod, "metadata")
    labels = fields.mapping(metadata, "labels")
    owner = next(filter(_is_controller, fields.mappings(metadata, "ownerReferences")), {})
    uid = fields.text(owner, "uid")
    if not uid or uid != labels.get(CONTROLLER_UID):
        return "", "", None
    # What a watch remembers of a Pod, to report that it is gone, has labels and no annotations.
    index = fields.mapping(metadata, "annotations").get(COMPLETION_INDEX) or labels.get(COMPLETION_INDEX)
    return fields.text(owner, "name"), uid, _number(index)


def _is_controller(reference: JsonDict) -> bool:
    return reference.get("kind") == "Job" and reference.get("controller") is True


def pod_view(pod: JsonDict) -> Pod:
    """The fields that matter, each of which may be missing.

    Raises:
        BadObject: a field is not of the type that the API gives it.
    """
    metadata, spec, status = (fields.mapping(pod, name) for name in ("metadata", "spec", "status"))
    job, job_uid, index = owner_of(pod)
    conditions = {fields.text(each, "type"): each for each in fields.mappings(status, "conditions")}
    node = fields.text(spec, "nodeName") or None
    scheduled = conditions.get("PodScheduled", {})
    unscheduled = scheduled.get("status") == "False" and node is None
    disruption = conditions.get("DisruptionTarget", {})
    disrupted = disruption.get("status") == "True"
    initial, others = (_containers(spec, status, kind) for kind in ("initContainer", "container"))
    containers = (*initial, *others)
    notes = fields.mapping(metadata, "annotations")
    named = {container.name: container for container in containers}
    return Pod(
        name=fields.name_of(pod),
        uid=fields.text(metadata, "uid"),
        job=job,
        job_uid=job_uid,
        phase=fields.text(status, "phase", "Pending"),
        node=node,
        main=named.get(MAIN, Container()),
        courier=named.get(COURIER, Container()),
        initial=initial,
        containers=containers,
        reason=fields.text(status, "reason"),
        message=fields.text(status, "message"),
        unscheduled=fields.text(scheduled, "reason", "Unschedulable") if unscheduled else "",
        unscheduled_message=fields.text(scheduled, "message") if unscheduled else "",
        disruption=fields.text(disruption, "reason") if disrupted else "",
        disruption_message=fields.text(disruption, "message") if disrupted else "",
        deleting="deletionTimestamp" in metadata,
        grace=float(fields.number(metadata, "deletionGracePeriodSeconds") or 30),
        index=index,
        replaces=any(_number(notes.get(name)) for name in (INDEX_FAILURES, INDEX_IGNORED_FAILURES)),
        volumes=mounted(spec),
    )


def _number(written: object) -> int | None:
    return fields.whole_number(written) if isinstance(written, str) else None


def _containers(spec: JsonDict, status: JsonDict, kind: str) -> tuple[Container, ...]:
    # The image as the call named it: the status has the runtime's name for it.
    images = {fields.text(each, "name"): fields.text(each, "image") for each in fields.mappings(spec, f"{kind}s")}
    statuses = fields.mappings(status, f"{kind}Statuses")
    return tuple(_container(each, images.get(fields.text(each, "name"), "")) for each in statuses)


def _container(status: JsonDict, image: str) -> Container:
    name, states = fields.text(status, "name"), fields.mapping(status, "state")
    for state in ("terminated", "running", "waiting"):
        if states.get(state) is None:
            continue
        found = fields.mapping(states, state)
        return Container(
            state,
            fields.text(found, "reason"),
            fields.text(found, "message"),
            fields.number(found, "exitCode"),
            fields.number(found, "signal"),
            name,
            image,
            fields.text(found, "finishedAt"),
        )
    return Container(name=name, image=image)


def job_view(job: JsonDict) -> Job:
    """The fields that matter of a Job.

    Raises:
        BadObject: a field is not of the type that the API gives it.
    """
    metadata, spec, status = (fields.mapping(job, name) for name in ("metadata", "spec", "status"))
    labels = fields.mapping(metadata, "labels")
    conditions = fields.mappings(status, "conditions")
    failed: JsonDict = next((each for each in conditions if _holds(each, "Failed", "FailureTarget")), {})
    failed_indexes = fields.text(status, "failedIndexes")
    if not _INDEXES.fullmatch(failed_indexes):
        raise BadObject(f"failedIndexes is {failed_indexes[:80]!r}")
    return Job(
        name=fields.name_of(job),
        uid=fields.text(metadata, "uid"),
        call=fields.text(labels, CALL_LABEL),
        suspended=bool(spec.get("suspend")),
        failed=fields.text(failed, "reason"),
        failed_message=fields.text(failed, "message"),
        complete=any(_holds(each, "Complete", "SuccessCriteriaMet") for each in conditions),
        failed_indexes=failed_indexes,
        queue=fields.text(labels, KUEUE_QUEUE),
    )


# At most 10**6 numbers: a Job with a limit for each index has no more than 10**5.
_INDEXES = re.compile(r"(?:[0-9]{1,6}(?:-[0-9]{1,6})?(?:,[0-9]{1,6}(?:-[0-9]{1,6})?)*)?", re.ASCII)


def indexes(text: str) -> set[int]:
    """Numbers as Kubernetes writes many of them.

    >>> sorted(indexes("1,3-5,7"))
    [1, 3, 4, 5, 7]
    """
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _holds(condition: Mapping[str, Any], *types: str) -> bool:
    return condition.get("type") in types and condition.get("status") == "True"

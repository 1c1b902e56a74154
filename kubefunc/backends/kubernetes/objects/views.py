"""What matters of a Pod, a Job and an Event, as the API server sends them. Pure: dicts in, small values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubefunc.backends.kubernetes.objects.manifest import COMPLETION_INDEX, INDEX_FAILURES, INDEX_IGNORED_FAILURES
from kubefunc.diagnosis import Phase
from kubefunc.runner import COURIER, MAIN, TERMINATION_AT, TERMINATION_ENVELOPE, TERMINATION_SIZE

JsonDict = dict[str, Any]


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
        return int(text) if text.isdigit() else None

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


def items_of(body: JsonDict) -> list[JsonDict]:
    """What a list holds. An empty one of metadata alone says null: Go writes a slice that nothing was added to so."""
    return body.get("items") or []


def owner_of(pod: JsonDict) -> tuple[str, str, int | None]:
    """Name and UID of a Pod's Job, and its index there: cheap to ask, before anything else is read."""
    metadata = pod["metadata"]
    owner: JsonDict = next((ref for ref in metadata.get("ownerReferences", ()) if ref.get("kind") == "Job"), {})
    index = metadata.get("annotations", {}).get(COMPLETION_INDEX)
    return owner.get("name", ""), owner.get("uid", ""), _number(index)


def pod_view(pod: JsonDict) -> Pod:
    """The fields that matter, each of which may be missing."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    job, job_uid, index = owner_of(pod)
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
    scheduled = conditions.get("PodScheduled", {})
    unscheduled = scheduled.get("status") == "False" and not spec.get("nodeName")
    disruption = conditions.get("DisruptionTarget", {})
    disrupted = disruption.get("status") == "True"
    initial, others = (_containers(spec, status, kind) for kind in ("initContainer", "container"))
    containers = (*initial, *others)
    notes = metadata.get("annotations", {})
    named = {container.name: container for container in containers}
    return Pod(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        job=job,
        job_uid=job_uid,
        phase=status.get("phase", "Pending"),
        node=spec.get("nodeName"),
        main=named.get(MAIN, Container()),
        courier=named.get(COURIER, Container()),
        initial=initial,
        containers=containers,
        reason=status.get("reason", ""),
        message=status.get("message", ""),
        unscheduled=scheduled.get("reason", "Unschedulable") if unscheduled else "",
        unscheduled_message=scheduled.get("message", "") if unscheduled else "",
        disruption=disruption.get("reason", "") if disrupted else "",
        disruption_message=disruption.get("message", "") if disrupted else "",
        deleting="deletionTimestamp" in metadata,
        grace=float(metadata.get("deletionGracePeriodSeconds") or 30),
        index=index,
        replaces=any(_number(notes.get(name)) for name in (INDEX_FAILURES, INDEX_IGNORED_FAILURES)),
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _containers(spec: JsonDict, status: JsonDict, kind: str) -> tuple[Container, ...]:
    # The image as the call named it: the status has the runtime's name for it.
    images = {each["name"]: each.get("image", "") for each in spec.get(f"{kind}s", [])}
    return tuple(_container(each, images.get(each["name"], "")) for each in status.get(f"{kind}Statuses", []))


def _container(status: JsonDict, image: str) -> Container:
    for state in ("terminated", "running", "waiting"):
        found = status.get("state", {}).get(state)
        if found is not None:
            return Container(
                state,
                found.get("reason", ""),
                found.get("message", ""),
                found.get("exitCode"),
                found.get("signal"),
                status["name"],
                image,
            )
    return Container(name=status["name"], image=image)


def job_view(job: JsonDict) -> Job:
    """The fields that matter of a Job."""
    metadata, status = job["metadata"], job.get("status", {})
    conditions = status.get("conditions", [])
    failed: Mapping[str, Any] = next((each for each in conditions if _holds(each, "Failed", "FailureTarget")), {})
    return Job(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        call=metadata.get("labels", {}).get("kubefunc/call", ""),
        suspended=bool(job.get("spec", {}).get("suspend")),
        failed=failed.get("reason", ""),
        failed_message=failed.get("message", ""),
        complete=any(_holds(each, "Complete", "SuccessCriteriaMet") for each in conditions),
        failed_indexes=status.get("failedIndexes", ""),
    )


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
    return condition["type"] in types and condition.get("status") == "True"

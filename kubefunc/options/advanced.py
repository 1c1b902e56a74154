"""Options that most functions need not set: whom to trust, and further fields of the Job and its Pod."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

from kubefunc.options.kind import Kind, none
from kubefunc.options.option import OBJECT_NAME, SWITCH, Group, Unset, by_key, option
from kubefunc.options.parsers import mappings, names, numbers

JobTemplate: TypeAlias = Mapping[str, object] | Callable[[dict[str, object]], dict[str, object]]
Fields: TypeAlias = Mapping[str, Any]


def _parser(name: str) -> Callable[[object], object]:
    """A parser that is loaded when it is used: a Pod that imports kubefunc hardly ever needs it."""

    def parse(value: object) -> object:
        from kubefunc.options import kube_objects

        parsed: object = getattr(kube_objects, name)(value)
        return parsed

    return parse


def _merged_containers(below: object, above: object) -> object:
    from kubefunc.options import kube_objects

    return kube_objects.by_name(below, above)


_CONTAINERS = Kind(
    "a list of containers as in a Pod's spec, each with its name, or None",
    _parser("containers"),
    mappings.read_json,
    tuple,
)


class AdvancedChanges(TypedDict, total=False):
    """What these options accept."""

    untrusted: bool | Unset
    runtime_class: str | Unset | None
    queue: str | Unset | None
    affinity: Fields | Unset | None
    topology_spread: Sequence[Fields] | Unset | None
    init_containers: Sequence[Fields] | Unset | None
    sidecars: Sequence[Fields] | Unset | None
    host_aliases: Mapping[str, str | Sequence[str]] | Unset | None
    security_context: Fields | Unset | None
    backoff_limit: int | Unset | None
    job_template: JobTemplate | Unset | None


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Advanced(Group):
    """Whom to trust, and further fields of the Job and its Pod."""

    untrusted: bool = option(False, SWITCH)
    """Run a function that you do not trust: generated code, or other people's.

    Results travel as JSON and exceptions as text (``errors.RemoteError``). Your program unpickles nothing that the
    function sends. The Pod gets no token, a read-only file system and a user namespace of its own. Each item of a map
    has its own Pod.

    Default: False, so that a function may return any Python object.
    Local: results travel in the same way, but the function runs as your user on this machine.
    """

    runtime_class: str | None = option(None, OBJECT_NAME)
    """The RuntimeClass of the Pod, such as ``gvisor`` or ``kata``, where the cluster has one.

    Default: None, the cluster's usual container runtime.
    Local: ignored.
    """

    queue: str | None = option(
        None, Kind("the name of a LocalQueue of Kueue, or None", names.object_name, nothing=none)
    )
    """The LocalQueue of Kueue that admits the Job. Kueue suspends the Job until its quota has room.

    It becomes the label ``kueue.x-k8s.io/queue-name``. ``schedule_timeout`` limits the wait. Set ``cpu`` and
    ``memory``, which Kueue counts.

    Default: None.
    Local: ignored.
    """

    affinity: Fields = option(
        {},
        Kind(
            "a dict with nodeAffinity, podAffinity or podAntiAffinity as in a Pod's spec, or None",
            _parser("affinity"),
            mappings.read_json,
            dict,
        ),
        merge=by_key,
    )
    """Which nodes and neighbours the Pod prefers, needs or avoids. Merged by key.

    Default: none. For labels of nodes that must be there, ``node_selector`` is simpler.
    Local: ignored.
    """

    topology_spread: tuple[Fields, ...] = option(
        (),
        Kind(
            "a list of constraints with maxSkew, topologyKey and whenUnsatisfiable, or None",
            _parser("spread"),
            mappings.read_json,
            tuple,
        ),
    )
    """How the Pods of a map are spread over nodes or zones, as ``topologySpreadConstraints`` in Kubernetes.

    A constraint without ``labelSelector`` counts the Pods of this call.

    Default: none, the cluster's own.
    Local: ignored.
    """

    init_containers: tuple[Fields, ...] = option((), _CONTAINERS, merge=_merged_containers)
    """Containers that run to their end before the function, one after another. Merged by name.

    Without ``image`` a container has the function's.

    Default: none.
    Local: ignored.
    """

    sidecars: tuple[Fields, ...] = option((), _CONTAINERS, merge=_merged_containers)
    """Containers that run beside the function, such as a proxy. They start before it and end with it. Merged by name.

    They start before ``init_containers``, too. They do not keep the Job from ending.

    Default: none.
    Local: ignored.
    """

    host_aliases: Mapping[str, tuple[str, ...]] = option(
        {},
        Kind(
            "a dict of IP addresses to host names, or None",
            _parser("host_aliases"),
            mappings.read_json,
            dict,
        ),
        merge=by_key,
    )
    """Host names that ``/etc/hosts`` of the Pod has: ``{"10.0.0.7": ["db.internal"]}``. Merged by address.

    Default: none.
    Local: ignored.
    """

    security_context: Fields = option(
        {},
        Kind(
            "a dict of fields of a securityContext, or None",
            _parser("security_context"),
            mappings.read_json,
            dict,
        ),
        merge=by_key,
    )
    """Fields of the securityContext of Pod and containers, such as ``{"fsGroup": 1000}``. Merged by key.

    A field goes where Kubernetes has it: ``fsGroup`` to the Pod, ``capabilities`` to the function's container and to
    kubefunc's own, and what both have to the Pod.

    Default: none beside kubefunc's own: no capabilities, no privilege escalation, seccomp ``RuntimeDefault``.
    Local: ignored.
    """

    backoff_limit: int | None = option(
        None,
        Kind("an int from 0 to 1000, or None", numbers.whole_number(0, 1000), numbers.read_whole_number, none),
    )
    """How often Kubernetes replaces a Pod that failed from outside without being drained, preempted or evicted.

    That is: a Pod that was deleted, or whose containers were killed. It counts neither exceptions (``retries``) nor
    drained nodes (``max_disruptions``, which has no limit in Kubernetes itself).

    Default: None, the same as ``max_disruptions``.
    Local: ignored.
    """

    job_template: JobTemplate | None = option(
        None,
        Kind(
            "a dict with 'metadata' and 'spec' of a Job, a V1Job, a function from Job to Job, or None",
            _parser("job_template"),
            mappings.read_json,
            none,
        ),
    )
    """Any other field of the Job itself: a dict that is merged into it, or a function that takes and returns it.

    Fields that kubefunc needs must stay. The Pod's fields belong in ``pod_template``.

    Default: None.
    Local: ignored.
    """

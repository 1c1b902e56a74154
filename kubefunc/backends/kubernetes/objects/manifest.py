"""The Secrets and the Job of a call: data in, dicts out. No I/O, and nothing of the Kubernetes client.

One Pod of two containers: ``main`` runs the function, ``courier`` keeps the Pod's volume reachable until the
result was fetched. They share ``/kubefunc/in`` (Secrets, read-only) and ``/kubefunc/out`` (an emptyDir).
"""

from __future__ import annotations

import base64
import copy
import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from kubefunc import __version__
from kubefunc.backends.kubernetes.objects.demands import NOTHING, Demands, meeting
from kubefunc.backends.kubernetes.objects.interpreter import PYTHON, share_python
from kubefunc.backends.kubernetes.objects.shards import ITEMS, PAYLOAD, Shard, Shards, spread
from kubefunc.backends.kubernetes.objects.template import Json, customised, deep_copy, items, join_tolerations
from kubefunc.backends.kubernetes.objects.version import NEWEST, ServerVersion
from kubefunc.errors import ConfigurationError
from kubefunc.options import ConfigMapKey, Options, SecretKey
from kubefunc.options.parsers.quantities import quantity
from kubefunc.runner import (
    ARCHIVE,
    COURIER,
    COURIER_ENDS,
    ENV_FAILURES,
    ENV_IGNORED_FAILURES,
    ENV_STOP_GRACE,
    EXIT_COURIER_TERMINATED,
    EXIT_TERMINATED,
    EXIT_VALUE,
    IN_DIR,
    MAIN,
    OUT_DIR,
    STOP_GRACE,
)

CONTAINER_ORDER: Final = (MAIN, COURIER)
"""Who stands first is started first. Courier first gains an express result 50 ms and costs one that comes by
the Pod's status as much: measured, see ``docs/benchmarks.md``."""

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "kubefunc"
SESSION_LABEL: Final = "kubefunc/session"
CALL_LABEL: Final = "kubefunc/call"
FUNCTION_ANNOTATION: Final = "kubefunc/function"
ATTEMPT_ANNOTATION: Final = "kubefunc/attempt"
VERSION_ANNOTATION: Final = "kubefunc/version"
ITEMS_ANNOTATION: Final = "kubefunc/items"

SECRETS_LIMIT: Final = 8 * 1024**2  # a larger payload is uploaded through the courier: etcd is no file store

ITEMS_LIMIT: Final = 900 * 1024  # a node writes all of them into each Pod of a map; more is uploaded, to each its own

IN_VOLUME: Final = "kubefunc-in"
OUT_VOLUME: Final = "kubefunc-out"
TMP_VOLUME: Final = "kubefunc-tmp"

_READABLE_BY_ALL: Final = 0o444  # any run_as_user must be able to read; in JSON it stands in decimal, as 292
_ARCHIVE_PATH: Final = f"{IN_DIR}/{ARCHIVE}"
_COMMANDS: Final = {
    MAIN: (PYTHON, _ARCHIVE_PATH, MAIN),
    # No site and no variables of the image: a faster start, and nothing of the image's that could disturb it.
    COURIER: (PYTHON, "-I", "-S", "-E", _ARCHIVE_PATH, COURIER),
}

# 10m of a CPU limit would make a reader's start take a second, so there is no limit unless one is forced.
_COURIER_RESOURCES: Final[Mapping[str, Mapping[str, str]]] = {"requests": {"cpu": "10m", "memory": "64Mi"}}
_COURIER_GUARANTEED: Final[Mapping[str, Mapping[str, str]]] = {
    "requests": {"cpu": "250m", "memory": "64Mi"},
    "limits": {"cpu": "250m", "memory": "64Mi"},
}

_LOST_NODE_GRACE: Final = 30  # Kubernetes' default of 300 s is a long time to wait for a dead node
_ATTEMPT_GRACE: Final = 11.0  # seconds that the supervisor gives a child to write its stacks and to exit
_DEADLINE_SLACK: Final = 60.0
_MOST_SECONDS: Final = 2**31 - 1


COMPLETION_INDEX: Final = "batch.kubernetes.io/job-completion-index"
INDEX_FAILURES: Final = "batch.kubernetes.io/job-index-failure-count"
INDEX_IGNORED_FAILURES: Final = "batch.kubernetes.io/job-index-ignored-failure-count"
_MANY_COMPLETIONS: Final = 100_000
_MOST_FAILED_OF_MANY: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """What makes a Job one of many Pods.

    Attributes:
        items: how many there are.
        chunks: into how many they are split; an index of the Job each.
        longest: items of the largest one.
        parallelism: Pods at once.
        server: what it knows decides about some fields.
    """

    items: int
    chunks: int
    longest: int
    parallelism: int
    server: ServerVersion = NEWEST


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """All that the objects of one call are made of.

    Attributes:
        call: the call's id.
        session: the id of the client's session.
        function: the function's name, for people.
        namespace: the Kubernetes namespace.
        options: all of them, resolved.
        files: the content of ``/kubefunc/in`` by name; a missing ``payload`` is uploaded through the courier, and so
            are a map's missing ``items``.
        indexed: for a map.
        attempt: 1, or a higher number for a Job that replaces an earlier one of the same call.
        backoff: as in ``spec.json``: seconds before the first new attempt, factor, most seconds.
        demands: what the namespace is known to demand of each container.
    """

    call: str
    session: str
    function: str
    namespace: str
    options: Options
    files: Mapping[str, bytes] = field(repr=False)
    attempt: int = 1
    backoff: tuple[float, float, float] = (1.0, 2.0, 60.0)
    indexed: Indexed | None = None
    demands: Demands = NOTHING

    @property
    def name(self) -> str:
        """The name of the Job and of its first Secret."""
        return job_name(self.call, self.attempt)


def job_name(call: str, attempt: int) -> str:
    """The name of the Job that this attempt of a call or map is."""
    return call if attempt == 1 else f"{call}-r{attempt}"


def secrets(spec: JobSpec) -> list[Json]:
    """The Secrets of a call, to be created before the Job: a Pod that misses one backs off for minutes.

    Raises:
        ValueError: the files beside ``payload`` do not fit into one Secret.
    """
    return [_secret(spec, name, shard) for name, shard in _shards(spec).by_name.items()]


def encoded(secret: Json) -> bytes:
    """A Secret as JSON. Base64 has nothing to escape: ``json.dumps`` would look at each letter of it, in every call.

    >>> encoded({"kind": "Secret", "data": {"key": "YQ=="}})
    b'{"kind":"Secret","data":{"key":"YQ=="}}'
    """
    rest = json.dumps({name: value for name, value in secret.items() if name != "data"}, separators=(",", ":"))
    data = cast("Mapping[str, str]", secret["data"])
    pairs = ",".join(f'{json.dumps(name)}:"{text}"' for name, text in data.items())
    return "".join((rest[:-1], ',"data":{', pairs, "}}")).encode()


def job(spec: JobSpec) -> Json:
    """The Job of a call.

    Raises:
        ConfigurationError: ``pod_template`` takes away what kubefunc needs.
    """
    options = spec.options
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "labels": _labels(spec),
            "annotations": {**_notes(spec), **_size(spec), **options.annotations},
        },
        "spec": {
            **_repetition(spec),
            # The TTL counts from the Job's end; only this ends a Job whose Pod never starts.
            "activeDeadlineSeconds": _job_deadline(options),
            "ttlSecondsAfterFinished": math.ceil(options.ttl),
            "template": _final_template(spec),
        },
    }


def _job_deadline(options: Options) -> int:
    """A detached result may wait in its Pod for longer than the function ran: the Job must not end before that."""
    waiting = options.result_wait if options.detach else 0.0
    return min(_MOST_SECONDS, math.ceil(options.deadline + waiting))


def owner_patch(job_name: str, job_uid: str) -> Json:
    """The merge patch that gives a Secret to its Job, so that deleting the Job deletes the Secret.

    ``blockOwnerDeletion`` stays away: where OwnerReferencesPermissionEnforcement is on (OpenShift) it needs a
    further permission.
    """
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job_name, "uid": job_uid}
    return {"metadata": {"ownerReferences": [owner]}}


def _repetition(spec: JobSpec) -> Json:
    """How many Pods there are, and when another takes the place of one."""
    most = spec.options.max_disruptions
    indexed = spec.indexed
    if indexed is None:
        return {"backoffLimit": most, "podFailurePolicy": {"rules": _failure_rules(most, "FailJob")}}
    pods: Json = {
        "completionMode": "Indexed",
        "completions": indexed.chunks,
        "parallelism": min(indexed.chunks, indexed.parallelism),
    }
    if indexed.server.counts_per_index:
        return {
            **pods,
            "backoffLimitPerIndex": most,
            # A Job that fails kills the Pods whose results are still to be fetched: so no number of them fails it.
            "maxFailedIndexes": _most_failed(indexed.chunks),
            "podFailurePolicy": {"rules": _failure_rules(most, "FailIndex")},
        }
    if indexed.server.has_failure_policy:
        return {**pods, "backoffLimit": most, "podFailurePolicy": {"rules": _failure_rules(most, "FailJob")}}
    return {**pods, "backoffLimit": most}


def _most_failed(chunks: int) -> int:
    return chunks if chunks <= _MANY_COMPLETIONS else _MOST_FAILED_OF_MANY


# --- Secrets


def _shards(spec: JobSpec) -> Shards:
    return spread(spec.name, spec.files, spec.options.env)


def _secret(spec: JobSpec, name: str, shard: Shard) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": spec.namespace, "labels": _labels(spec)},
        "type": "Opaque",
        "immutable": True,  # spares every kubelet a watch on it
        "data": {key: _base64_of_archive(data) if key == ARCHIVE else _base64(data) for key, data in shard.items()},
    }


def _base64(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")


# The same bytes in each call of a process, and most of what travels with a small one.
_base64_of_archive = functools.lru_cache(maxsize=1)(_base64)


# --- what Job and Pod carry


def _labels(spec: JobSpec) -> dict[str, str]:
    return {**spec.options.labels, **_own_labels(spec)}


def _own_labels(spec: JobSpec) -> dict[str, str]:
    return {MANAGED_BY_LABEL: MANAGED_BY, SESSION_LABEL: spec.session, CALL_LABEL: spec.call}


def _notes(spec: JobSpec) -> dict[str, str]:
    return {
        FUNCTION_ANNOTATION: spec.function,
        ATTEMPT_ANNOTATION: str(spec.attempt),
        VERSION_ANNOTATION: __version__,
    }


def _size(spec: JobSpec) -> dict[str, str]:
    return {} if spec.indexed is None else {ITEMS_ANNOTATION: str(spec.indexed.items)}


def _failure_rules(max_disruptions: int, end: str) -> list[Json]:
    """Which ends of a Pod are the Job controller's business; it takes the first rule that matches.

    What no rule matches counts against ``backoffLimit``: SIGTERM without a result, a Pod deleted by hand (a
    plain DELETE sets no DisruptionTarget), a courier that was killed. A courier that ends by an error of its own would
    do so each time, and the function would run each time. ``end``: how to fail, the Job or the index.
    """
    disrupted = "Ignore" if max_disruptions else end  # Ignore has no cap, so "never again" must fail
    return [
        {"action": disrupted, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": end, "onExitCodes": _exit_codes(MAIN, "NotIn", EXIT_VALUE, EXIT_TERMINATED)},
        {"action": disrupted, "onExitCodes": _exit_codes(COURIER, "In", EXIT_COURIER_TERMINATED)},
        {"action": end, "onExitCodes": _exit_codes(COURIER, "NotIn", *COURIER_ENDS)},
    ]


def _exit_codes(container: str, operator: str, *codes: int) -> Json:
    return {"containerName": container, "operator": operator, "values": sorted(codes)}


# --- the Pod


def _final_template(spec: JobSpec) -> Json:
    template = _pod_template(spec)
    custom = spec.options.pod_template
    if custom is not None:
        changed = customised(template, custom)
        containers = _checked_containers(spec, changed)
        _tell_stop_grace(changed, containers[MAIN])
        _courier_follows_main(_containers(template)[MAIN], containers)
        template = changed
    containers = _containers(template)
    share_python(containers[MAIN], containers[COURIER], _ARCHIVE_PATH)
    _keep_guaranteed(containers)
    return meeting(template, spec.demands)


def _pod_template(spec: JobSpec) -> Json:
    options = spec.options
    return {
        "metadata": {
            "labels": {**_mesh_labels(options), **_labels(spec)},
            "annotations": {**_notes(spec), **_pod_annotations(options), **options.annotations},
        },
        "spec": _without_none(
            {
                "restartPolicy": "Never",  # a podFailurePolicy demands it
                "activeDeadlineSeconds": pod_deadline(spec),
                "terminationGracePeriodSeconds": STOP_GRACE,
                "serviceAccountName": options.service_account,
                # A token volume costs the start 0.2 s, beside what it may be stolen for.
                "automountServiceAccountToken": options.service_account is not None,
                "enableServiceLinks": False,
                "priorityClassName": options.priority_class,
                "imagePullSecrets": [{"name": name} for name in options.image_pull_secrets] or None,
                "nodeSelector": {"kubernetes.io/os": "linux", **options.node_selector},
                "tolerations": _tolerations(options),
                "securityContext": _pod_security(options.run_as_user),
                "containers": [_container(spec, name) for name in CONTAINER_ORDER],
                "volumes": _volumes(spec),
            }
        ),
    }


def pod_deadline(spec: JobSpec) -> int | None:
    """Seconds after which the kubelet ends the Pod: the backstop for a supervisor that failed to.

    It counts from the Pod's start, image pull included, and would fail a Pod whose ``main`` ended well; so it
    has room for the pull, for every attempt, and for the longest time that a result may wait.
    """
    options = spec.options
    if options.timeout is None:
        return None
    initial, factor, most = spec.backoff
    starting = options.pull_allowance * (1 if _all_in_secrets(spec) else 2)  # an upload may take as long again
    one_after_another = 1 if spec.indexed is None else spec.indexed.longest
    attempts = (options.retries + 1) * (options.timeout + _ATTEMPT_GRACE) * one_after_another
    backoffs = sum(min(most, initial * factor**number) for number in range(options.retries)) * one_after_another
    waiting = options.fetch_grace + options.result_wait
    return min(_MOST_SECONDS, math.ceil(starting + attempts + backoffs + waiting + _DEADLINE_SLACK))


def _all_in_secrets(spec: JobSpec) -> bool:
    return PAYLOAD in spec.files and (spec.indexed is None or ITEMS in spec.files)


def _mesh_labels(options: Options) -> dict[str, str]:
    """Istio looks at the label first; the annotation below is for its older releases."""
    return {} if options.mesh else {"sidecar.istio.io/inject": "false"}


def _pod_annotations(options: Options) -> dict[str, str]:
    notes = {"kubectl.kubernetes.io/default-container": MAIN}
    if not options.mesh:
        notes |= {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"}
    if not options.evictable:
        notes |= {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "karpenter.sh/do-not-disrupt": "true",
        }
    return notes


def _tolerations(options: Options) -> list[Json]:
    """Give a lost node up soon, accept nodes that are kept for the GPUs asked for, and what the user says."""
    lost = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _LOST_NODE_GRACE}
        for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    ]
    gpus = [{"key": name, "operator": "Exists", "effect": "NoSchedule"} for name in options.gpu or {}]
    return join_tolerations([*lost, *gpus], options.tolerations)


def _pod_security(run_as_user: int | None) -> Json:
    """With a user id this meets the *restricted* Pod Security Standard.

    No fsGroup: an emptyDir is writable by everybody, and the Secrets' files are readable by everybody.
    """
    context: Json = {"seccompProfile": {"type": "RuntimeDefault"}}
    if run_as_user is not None:
        context["runAsUser"] = run_as_user
    if run_as_user:
        context["runAsNonRoot"] = True
    return context


def _container(spec: JobSpec, name: str) -> Json:
    options = spec.options
    return _without_none(
        {
            "name": name,
            "image": options.resolved_image,
            "imagePullPolicy": options.image_pull_policy,
            "command": list(_COMMANDS[name]),
            "env": _environment(spec) + _index_history(spec) if name == MAIN else None,
            "resources": _main_resources(options) if name == MAIN else deep_copy(_COURIER_RESOURCES),
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": _mounts(name),
        }
    )


def _mounts(container: str) -> list[Json]:
    mounts: list[Json] = [
        {"name": IN_VOLUME, "mountPath": IN_DIR, "readOnly": True},
        {"name": OUT_VOLUME, "mountPath": OUT_DIR},
    ]
    # The courier writes nothing there.
    return [*mounts, {"name": TMP_VOLUME, "mountPath": "/tmp"}] if container == MAIN else mounts


def _volumes(spec: JobSpec) -> list[Json]:
    return [
        {"name": IN_VOLUME, "projected": {"defaultMode": _READABLE_BY_ALL, "sources": _shards(spec).sources()}},
        {"name": OUT_VOLUME, "emptyDir": {}},
        {"name": TMP_VOLUME, "emptyDir": {}},
    ]


def _main_resources(options: Options) -> Json | None:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if options.cpu is not None:
        requests["cpu"] = options.cpu
    if options.memory_start is not None:
        requests["memory"] = limits["memory"] = options.memory_start
    if options.cpu_limit is not None:
        limits["cpu"] = options.cpu_limit
    for name, number in (options.gpu or {}).items():
        limits[name] = str(number)  # the request of such a resource follows its limit
    resources: Json = {}
    if requests:
        resources["requests"] = requests
    if limits:
        resources["limits"] = limits
    return resources or None


def _environment(spec: JobSpec) -> list[Json]:
    """Each name once: duplicates keep some releases from 1.26 to 1.28 from ever removing the Pod.

    The user's values stand in the call's own Secrets: who may read Jobs and Pods must not see them.
    """
    shards = _shards(spec)
    merged: dict[str, Json] = {
        "HOME": {"value": "/tmp"},
        "PYTHONUNBUFFERED": {"value": "1"},
        **{
            name: {"valueFrom": shards.variable(name) if isinstance(value, str) else _reference(value)}
            for name, value in spec.options.env.items()
        },
    }
    return [{"name": name, **source} for name, source in merged.items()]


def _index_history(spec: JobSpec) -> list[Json]:
    """How many Pods of its index there were before it: a replacement asks what it may skip."""
    if spec.indexed is None or not spec.indexed.server.counts_per_index:
        return []
    fields = {ENV_FAILURES: INDEX_FAILURES, ENV_IGNORED_FAILURES: INDEX_IGNORED_FAILURES}
    return [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}}
        for name, annotation in fields.items()
    ]


def _reference(value: SecretKey | ConfigMapKey) -> Json:
    kind = "secretKeyRef" if isinstance(value, SecretKey) else "configMapKeyRef"
    return {kind: {"name": value.name, "key": value.key}}


def _without_none(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


# --- what must survive a pod_template


def _containers(template: Json) -> dict[str, Json]:
    pod = template.get("spec")
    if not isinstance(pod, dict):
        raise ConfigurationError("pod_template: the result has no 'spec'")
    containers = items(cast(Json, pod).get("containers") or [], "pod_template.spec.containers")
    return {str(container.get("name")): container for container in containers}


def _checked_containers(spec: JobSpec, template: Json) -> dict[str, Json]:
    """The containers by name, once it is sure that the result can be found and fetched."""
    containers = _containers(template)
    pod = cast(Json, template["spec"])
    if pod.get("restartPolicy") != "Never":
        raise ConfigurationError("pod_template: restartPolicy must stay 'Never'; `retries` is the option for that")
    _check_labels(spec, template)
    volumes = {str(item.get("name")) for item in items(pod.get("volumes") or [], "pod_template.spec.volumes")}
    for name in CONTAINER_ORDER:
        if name not in containers:
            raise ConfigurationError(
                f"pod_template: the container {name!r} is missing; change it by name, add others beside it"
            )
        _check_container(containers[name], name, volumes)
    return containers


def _check_labels(spec: JobSpec, template: Json) -> None:
    metadata = template.get("metadata")
    labels = cast(Json, metadata).get("labels") if isinstance(metadata, dict) else None
    found = cast(Json, labels) if isinstance(labels, dict) else {}
    for key, value in _own_labels(spec).items():
        if found.get(key) != value:
            raise ConfigurationError(f"pod_template: the label {key}={value} must stay: the Pod is found by it")


def _check_container(container: Json, name: str, volumes: set[str]) -> None:
    started = [*_texts(container.get("command")), *_texts(container.get("args"))]
    if _ARCHIVE_PATH not in started or name not in started:
        raise ConfigurationError(
            f"pod_template: the container {name!r} must run {' '.join(_COMMANDS[name])!r}; "
            f"another interpreter in place of python3 is fine"
        )
    mounts = items(container.get("volumeMounts") or [], f"pod_template: volumeMounts of {name}")
    found = {(mount.get("name"), mount.get("mountPath")) for mount in mounts}
    for volume, path in ((IN_VOLUME, IN_DIR), (OUT_VOLUME, OUT_DIR)):
        if volume not in volumes or (volume, path) not in found:
            raise ConfigurationError(f"pod_template: the container {name!r} needs the volume {volume} at {path}")


def _texts(value: object) -> list[str]:
    return [str(item) for item in cast("list[object]", value)] if isinstance(value, list) else []


def _tell_stop_grace(template: Json, main: Json) -> None:
    """The supervisor ends the function before the kubelet does; a Pod cannot read its own grace period."""
    grace = cast(Json, template["spec"]).get("terminationGracePeriodSeconds", STOP_GRACE)
    if grace != STOP_GRACE:
        variables = items(main.get("env") or [], "pod_template: env of main")
        main["env"] = [*variables, {"name": ENV_STOP_GRACE, "value": str(grace)}]


def _courier_follows_main(before: Json, containers: Mapping[str, Json]) -> None:
    """What the template changes of main's image and security holds for the courier too, unless changed.

    Both read and write the same files, and an image that is there already costs no second pull.
    """
    main, courier = containers[MAIN], containers[COURIER]
    for name in ("image", "imagePullPolicy", "securityContext"):
        if courier.get(name) == before.get(name) and name in main:
            courier[name] = copy.deepcopy(main[name])


def _keep_guaranteed(containers: Mapping[str, Json]) -> None:
    """Where main is Guaranteed, the courier needs limits too, or the Pod is not."""
    courier = containers[COURIER]
    if courier.get("resources") == _COURIER_RESOURCES and _is_guaranteed(containers[MAIN]):
        courier["resources"] = deep_copy(_COURIER_GUARANTEED)


def _is_guaranteed(container: Json) -> bool:
    resources = cast("dict[str, dict[str, object]]", container.get("resources") or {})
    limits = resources.get("limits") or {}
    requests = {**limits, **(resources.get("requests") or {})}  # a request that is not set follows the limit
    try:
        return all(
            name in limits and quantity(str(limits[name])) == quantity(str(requests[name]))
            for name in ("cpu", "memory")
        )
    except ValueError as error:
        raise ConfigurationError(f"pod_template: resources of 'main': {error}") from None

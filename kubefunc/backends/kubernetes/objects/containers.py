"""The two containers: ``main`` runs the function, ``courier`` hands out what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from kubefunc.backends.kubernetes.objects.interpreter import PYTHON
from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.labels import INDEX_FAILURES, INDEX_IGNORED_FAILURES
from kubefunc.backends.kubernetes.objects.ports import container_ports, lifecycle, readiness_probe
from kubefunc.backends.kubernetes.objects.secrets import shards_of
from kubefunc.backends.kubernetes.objects.security import CONTAINER_SECURITY
from kubefunc.backends.kubernetes.objects.template import Json, deep_copy, without_none
from kubefunc.backends.kubernetes.objects.volumes import mounts
from kubefunc.errors import ConfigurationError
from kubefunc.options import ConfigMapKey, Options, SecretKey
from kubefunc.options.parsers.quantities import quantity
from kubefunc.runner import ARCHIVE, COURIER, ENV_FAILURES, ENV_IGNORED_FAILURES, IN_DIR, MAIN

CONTAINER_ORDER: Final = (MAIN, COURIER)
"""The kubelet starts containers in list order. Courier first gains an express result 50 ms and costs one that comes by
the Pod's status as much: measured, see ``docs/benchmarks.md``."""


ARCHIVE_PATH: Final = f"{IN_DIR}/{ARCHIVE}"
COMMANDS: Final = {
    MAIN: (PYTHON, ARCHIVE_PATH, MAIN),
    # No site and no variables of the image: a faster start, and nothing of the image's that could disturb it.
    COURIER: (PYTHON, "-I", "-S", "-E", ARCHIVE_PATH, COURIER),
}

# 10m of a CPU limit would make a reader's start take a second, so there is no limit unless one is forced.
_COURIER_RESOURCES: Final[Mapping[str, Mapping[str, str]]] = {"requests": {"cpu": "10m", "memory": "64Mi"}}
_COURIER_GUARANTEED: Final[Mapping[str, Mapping[str, str]]] = {
    "requests": {"cpu": "250m", "memory": "64Mi"},
    "limits": {"cpu": "250m", "memory": "64Mi"},
}


def container(spec: JobSpec, name: str) -> Json:
    """One of the two, by its name."""
    options = spec.options
    return without_none(
        {
            "name": name,
            "image": options.resolved_image,
            "imagePullPolicy": options.image_pull_policy,
            "command": list(COMMANDS[name]),
            "env": _environment(spec) + _index_history(spec) if name == MAIN else None,
            "ports": container_ports(options) if name == MAIN else None,
            "readinessProbe": readiness_probe(options) if name == MAIN else None,
            "lifecycle": lifecycle(options) if name == MAIN else None,
            "resources": _main_resources(options) if name == MAIN else deep_copy(_COURIER_RESOURCES),
            "securityContext": deep_copy(CONTAINER_SECURITY),
            "volumeMounts": mounts(name, options),
        }
    )


def _environment(spec: JobSpec) -> list[Json]:
    """Each name once: duplicates keep some releases from 1.26 to 1.28 from ever removing the Pod.

    The user's values stand in the call's own Secrets: who may read Jobs and Pods must not see them.
    """
    shards = shards_of(spec)
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
    if spec.indexed is None:
        return []
    fields = {ENV_FAILURES: INDEX_FAILURES, ENV_IGNORED_FAILURES: INDEX_IGNORED_FAILURES}
    return [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}}
        for name, annotation in fields.items()
    ]


def _reference(value: SecretKey | ConfigMapKey) -> Json:
    kind = "secretKeyRef" if isinstance(value, SecretKey) else "configMapKeyRef"
    return {kind: {"name": value.name, "key": value.key}}


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


def keep_guaranteed(containers: Mapping[str, Json]) -> None:
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

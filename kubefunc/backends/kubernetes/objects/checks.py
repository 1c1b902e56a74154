"""What must survive a user's ``pod_template``, and what follows from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

from kubefunc.backends.kubernetes.objects.containers import ARCHIVE_PATH, COMMANDS, CONTAINER_ORDER
from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.labels import own_labels
from kubefunc.backends.kubernetes.objects.template import Json, items
from kubefunc.backends.kubernetes.objects.volumes import IN_VOLUME, OUT_VOLUME
from kubefunc.errors import ConfigurationError
from kubefunc.runner import COURIER, ENV_STOP_GRACE, IN_DIR, MAIN, OUT_DIR, STOP_GRACE


def containers_of(template: Json) -> dict[str, Json]:
    """The containers of a Pod template by name."""
    pod = template.get("spec")
    if not isinstance(pod, dict):
        raise ConfigurationError("pod_template: the result has no 'spec'")
    containers = items(cast(Json, pod).get("containers") or [], "pod_template.spec.containers")
    return {str(container.get("name")): container for container in containers}


def checked_containers(spec: JobSpec, template: Json) -> dict[str, Json]:
    """The containers by name, once it is sure that the result can be found and fetched.

    Raises:
        ConfigurationError: a template takes away what kubefunc needs.
    """
    containers = containers_of(template)
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
    for key, value in own_labels(spec).items():
        if found.get(key) != value:
            raise ConfigurationError(f"pod_template: the label {key}={value} must stay: the Pod is found by it")


def _check_container(container: Json, name: str, volumes: set[str]) -> None:
    started = [*_texts(container.get("command")), *_texts(container.get("args"))]
    if ARCHIVE_PATH not in started or name not in started:
        raise ConfigurationError(
            f"pod_template: the container {name!r} must run {' '.join(COMMANDS[name])!r}; "
            f"another interpreter in place of python3 is fine"
        )
    mounts = items(container.get("volumeMounts") or [], f"pod_template: volumeMounts of {name}")
    found = {(mount.get("name"), mount.get("mountPath")) for mount in mounts}
    for volume, path in ((IN_VOLUME, IN_DIR), (OUT_VOLUME, OUT_DIR)):
        if volume not in volumes or (volume, path) not in found:
            raise ConfigurationError(f"pod_template: the container {name!r} needs the volume {volume} at {path}")


def _texts(value: object) -> list[str]:
    return [str(item) for item in cast("list[object]", value)] if isinstance(value, list) else []


def tell_stop_grace(template: Json, main: Json) -> None:
    """The supervisor ends the function before the kubelet does; a Pod cannot read its own grace period."""
    grace = cast(Json, template["spec"]).get("terminationGracePeriodSeconds", STOP_GRACE)
    if grace != STOP_GRACE:
        variables = items(main.get("env") or [], "pod_template: env of main")
        main["env"] = [*variables, {"name": ENV_STOP_GRACE, "value": str(grace)}]


def courier_follows_main(before: Json, containers: Mapping[str, Json]) -> None:
    """What the template changes of main's image and security holds for the courier too, unless changed.

    Both read and write the same files, and an image that is there already costs no second pull.
    """
    main, courier = containers[MAIN], containers[COURIER]
    for name in ("image", "imagePullPolicy", "securityContext"):
        if courier.get(name) == before.get(name) and name in main:
            courier[name] = copy.deepcopy(main[name])

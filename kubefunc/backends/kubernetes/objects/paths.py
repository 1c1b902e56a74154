"""Where the API server keeps each kind of object: the paths of its requests. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

_CORE: Final = "/api/v1"
_BATCH: Final = "/apis/batch/v1"
ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1"
SELF_REVIEWS: Final = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


def namespace_path(namespace: str) -> str:
    """A namespace itself."""
    return f"{_CORE}/namespaces/{_quoted(namespace)}"


def objects_path(resource: str, namespace: str, group: str = "") -> str:
    """All objects of a kind, such as ``services``, in one namespace.

    >>> objects_path("jobs", "team", "batch")
    '/apis/batch/v1/namespaces/team/jobs'
    """
    root = f"/apis/{group}/v1" if group else _CORE
    return f"{root}/namespaces/{_quoted(namespace)}/{resource}"


def jobs_path(namespace: str | None) -> str:
    """The Jobs of one namespace, or of all."""
    return f"{_BATCH}/jobs" if namespace is None else objects_path("jobs", namespace, "batch")


def pods_path(namespace: str | None) -> str:
    """The Pods of one namespace, or of all."""
    return f"{_CORE}/pods" if namespace is None else objects_path("pods", namespace)


def pod_path(namespace: str, pod: str, part: str = "") -> str:
    """One Pod, or a part of it such as ``exec``.

    >>> pod_path("team", "train-x7k2", "exec")
    '/api/v1/namespaces/team/pods/train-x7k2/exec'
    """
    path = f"{pods_path(namespace)}/{_quoted(pod)}"
    return f"{path}/{part}" if part else path


def log_path(namespace: str, pod: str) -> str:
    """The log of a Pod."""
    return pod_path(namespace, pod, "log")


def secrets_path(namespace: str) -> str:
    """The Secrets of a namespace."""
    return objects_path("secrets", namespace)


def events_path(namespace: str) -> str:
    """The Events of a namespace."""
    return objects_path("events", namespace)


def _quoted(name: str) -> str:
    """A name may come from a kubeconfig or a user: it must not lead elsewhere."""
    return quote(name, safe="")

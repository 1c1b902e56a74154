"""The Pod in which this program runs, as the owner of its Jobs: Kubernetes deletes them when the Pod is deleted.

An owner that is not there is as one that was deleted: the Job would go at once. So what is not sure is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kubefunc.backends.kubernetes.api.answers import is_named
from kubefunc.backends.kubernetes.api.kubeconfig import IN_CLUSTER, SERVICE_ACCOUNT
from kubefunc.backends.kubernetes.api.requests import Api, ApiError
from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.kubernetes.objects.paths import pod_path
from kubefunc.errors import ConfigurationError

_TELL = (
    "Give this program's Pod the variables POD_NAME and POD_UID by the downward API (fieldRef metadata.name and "
    'metadata.uid), or this rule to its Role: {apiGroups: [""], resources: ["pods"], verbs: ["get"]}.'
)


def own_pod_reference(
    api: Api, namespace: str, environ: Mapping[str, str], service_account: Path = SERVICE_ACCOUNT
) -> JsonDict:
    """The ownerReference for a Job in this namespace.

    Raises:
        ConfigurationError: this program runs in no Pod, in one of another namespace, or may not know its UID.
    """
    inside = bool(environ.get("KUBERNETES_SERVICE_HOST"))
    name = environ.get("POD_NAME") or (environ.get("HOSTNAME") if inside else None)
    if not name:
        raise ConfigurationError(
            "owner='pod': this program does not run in a Pod. Leave owner= out, or set POD_NAME to the Pod's name."
        )
    home = environ.get("POD_NAMESPACE") or _read(service_account / "namespace")
    if home and home != namespace:
        raise ConfigurationError(
            f"owner='pod': this program's Pod is in the namespace {home!r}, the Job in {namespace!r}. An owner must be "
            "in the same namespace: leave owner= out, or set namespace= to the Pod's."
        )
    told = environ.get("POD_UID") if home and api.config.source == IN_CLUSTER else None
    uid = told or _uid(api, namespace, name)
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _uid(api: Api, namespace: str, name: str) -> str:
    try:
        path = pod_path(namespace, name)
        pod = api.request("GET", path, is_expected=is_named(name)).body
    except ApiError as error:
        if error.denied_by_role:
            raise ConfigurationError(f"owner='pod': the UID of the Pod {name} is not known here. {_TELL}") from error
        if error.not_found:
            raise ConfigurationError(
                f"owner='pod': there is no Pod {name} in the namespace {namespace}. If it has another name than its "
                "host, set POD_NAME by the downward API."
            ) from error
        raise
    return fields.text(fields.mapping(pod, "metadata"), "uid")

"""The Service in front of a call's Pods, and how an existing Job's Pods are reached. Data in, dicts out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubefunc.backends.kubernetes.objects.job import owner_of_job
from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.labels import CALL_LABEL, JOB_NAME_LABEL, SERVICE_ANNOTATION, labels
from kubefunc.backends.kubernetes.objects.template import Json
from kubefunc.runner import MAIN


@dataclass(frozen=True)
class Reach:
    """How a call's Pods are reached.

    Attributes:
        namespace: where they are.
        ports: the numbers of their ports, by name.
        service: the name of the Service in front of them, or None.
    """

    namespace: str
    ports: Mapping[str, int]
    service: str | None


def reach_of(namespace: str, job: Mapping[str, Any]) -> Reach:
    """How the Pods of an existing Job are reached."""
    containers = job["spec"]["template"]["spec"]["containers"]
    (main,) = (container for container in containers if container["name"] == MAIN)
    ports = {str(port["name"]): int(port["containerPort"]) for port in main.get("ports", ()) if "name" in port}
    return Reach(namespace, ports, job["metadata"].get("annotations", {}).get(SERVICE_ANNOTATION))


def build_gang_service(spec: JobSpec, job_uid: str | None) -> Json | None:
    """The headless Service that gives the Pods of a gang's Job their names in DNS, also before they are ready."""
    if spec.options.gang is None:
        return None
    headless: Json = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {JOB_NAME_LABEL: spec.name},
    }
    return _service(spec, spec.name, job_uid, headless)


def build_service(spec: JobSpec, job_uid: str | None) -> Json | None:
    """The Service in front of the Pods of a call, where it has one; with an owner where that is known already."""
    options = spec.options
    if options.service is None:
        return None
    ports = [{"name": name, "port": number, "targetPort": name} for name, number in options.ports.items()]
    balancing: Json = {"type": "ClusterIP", "selector": {CALL_LABEL: spec.call}, "ports": ports}
    return _service(spec, options.service, job_uid, balancing)


def _service(spec: JobSpec, name: str, job_uid: str | None, content: Json) -> Json:
    metadata: Json = {"name": name, "namespace": spec.namespace, "labels": labels(spec)}
    if job_uid is not None:
        metadata["ownerReferences"] = [owner_of_job(spec.name, job_uid)]
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": content}

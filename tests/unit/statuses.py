"""Pods as the API server sends them: what kubelets, schedulers and controllers were seen to write, shortened."""

from __future__ import annotations

from typing import Any

JsonDict = dict[str, Any]

IMAGE = "python:3.12-slim"
RUNNING: JsonDict = {"running": {"startedAt": "2025-06-01T10:00:01Z"}}
COMPLETED: JsonDict = {"terminated": {"exitCode": 0, "reason": "Completed"}}
CREATING: JsonDict = {"waiting": {"reason": "ContainerCreating"}}


def terminated(exit_code: int, reason: str = "Error", message: str = "") -> JsonDict:
    """A container that has ended."""
    return {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}}


def waiting(reason: str, message: str = "") -> JsonDict:
    """A container that does not start."""
    return {"waiting": {"reason": reason, "message": message}}


def pod(
    main: JsonDict | None = None,
    courier: JsonDict | None = None,
    *,
    init: JsonDict | None = None,
    conditions: tuple[JsonDict, ...] = (),
    node: str | None = "node-7",
    deleting: bool = False,
    **status: str,
) -> JsonDict:
    """A Pod of ours, with the states of its containers and what else its status says."""
    containers = {"courier": courier, "main": main}
    metadata: JsonDict = {
        "name": "train-abcdefgh-x1y2z",
        "uid": "0b5c",
        "labels": {"batch.kubernetes.io/controller-uid": "77aa"},
        "ownerReferences": [{"kind": "Job", "name": "train-abcdefgh", "uid": "77aa", "controller": True}],
    }
    if deleting:
        metadata["deletionTimestamp"] = "2025-06-01T10:00:31Z"
    spec: JsonDict = {"containers": [{"name": name, "image": IMAGE} for name in containers]}
    if node is not None:
        spec["nodeName"] = node
    told: JsonDict = {
        "phase": "Running",
        "conditions": list(conditions),
        "containerStatuses": [{"name": name, "state": state} for name, state in containers.items() if state],
        **status,
    }
    if init is not None:
        spec["initContainers"] = [{"name": "prepare", "image": "busybox"}]
        told["initContainerStatuses"] = [{"name": "prepare", "state": init}]
    return {"metadata": metadata, "spec": spec, "status": told}


def disrupted(reason: str, message: str = "") -> JsonDict:
    """The condition of a Pod that was ended from outside."""
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


def job(**failed: str) -> JsonDict:
    """A Job of ours; with ``reason`` and ``message`` one that has failed."""
    conditions = [{"type": "Failed", "status": "True", **failed}] if failed else []
    metadata = {"name": "train-abcdefgh", "uid": "77aa", "labels": {"kubefunc/call": "train-abcdefgh"}}
    return {"metadata": metadata, "status": {"conditions": conditions}}

"""Objects of other people in the same namespace, with our labels: they cost no call its result."""

from __future__ import annotations

from typing import Any

import pytest

import kubefunc
from tests.cluster import failing, work
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left, until_running


def stranger(name: str, job: dict[str, Any], command: str) -> dict[str, Any]:
    """A Pod that refers to the Job of a call, and has the labels of its session."""
    mine = job["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {name: text for name, text in mine["labels"].items() if name.startswith("kubefunc/")},
            "annotations": {"batch.kubernetes.io/job-completion-index": "\u00b2"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": mine["name"], "uid": mine["uid"]}],
        },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "python:3.11-slim", "command": ["sh", "-c", command]}],
        },
    }


def test_a_strangers_pod_does_not_end_a_call(calling: Space) -> None:
    """It refers to the call's Job, its index is no number, and it fails: the call and those after it go on."""
    call = work.double_later.remote(21, 12)
    until_running(call)
    job = calling.admin.get("job", call.id)
    for name, command in (("fails", "exit 3"), ("cannot-be-pulled", "exit 0")):
        pod = stranger(f"{call.id}-{name}", job, command)
        if name == "cannot-be-pulled":
            pod["spec"]["containers"][0]["image"] = "no.such.registry.invalid/image:1"
        calling.admin.apply(pod)
    eventually(lambda: "Failed" in str(calling.admin.get("pod", f"{call.id}-fails").get("status")), 20)
    assert call.result(60) == 42
    assert work.double_later.remote(1, 0).result(60) == 2
    calling.admin.run("delete", "pods", "--all", "--wait=false")
    nothing_left(calling, 40)


@pytest.mark.usefixtures("calling")
def test_an_exception_with_strange_attributes_is_raised() -> None:
    """An attribute ``exceptions`` makes no group of it."""
    call = failing.raise_strange.remote()
    error = call.exception(60)
    assert isinstance(error, failing.Strange)
    assert isinstance(error.__cause__, kubefunc.errors.RemoteTraceback)

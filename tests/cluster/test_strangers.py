"""Objects of other people in the same namespace, with our labels: they cost no call its result."""

from __future__ import annotations

import json
from typing import Any

import pytest

import kubefunc
from tests.cluster import failing, work
from tests.cluster.conftest import fresh_session
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


def copied(obj: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """An object as its owner would make it under another id: without what the server has added."""
    text = json.dumps(
        {**obj, "metadata": {name: obj["metadata"].get(name) for name in ("name", "labels", "annotations")}}
    )
    made: dict[str, Any] = json.loads(text.replace(old, new))
    made.pop("status", None)
    return made


def test_a_forged_job_is_refused(calling: Space) -> None:
    """Somebody puts a Job and a Secret under the id of another call: attach() sees that the key is not that call's."""
    call = work.double.options(detach=True).remote(4)
    assert call.result(60) == 8
    victim = f"double-{'a' * 16}"
    job = copied(calling.admin.get("job", call.id), call.id, victim)
    job["spec"].pop("selector", None)
    job["spec"]["template"]["metadata"].pop("labels", None)
    for obj in (copied(calling.admin.get("secret", call.id), call.id, victim), job):
        calling.admin.run("create", "-f", "-", stdin=json.dumps(obj))
    with fresh_session():
        with pytest.raises(kubefunc.errors.ResultCorruptedError, match="its key is another one"):
            kubefunc.attach(f"{calling.namespace}/{victim}").result(60)
        assert kubefunc.attach(f"{calling.namespace}/{call.id}").result(60) == 8
    call.discard()
    kubefunc.attach(f"{calling.namespace}/{victim}").discard()
    nothing_left(calling, 40)

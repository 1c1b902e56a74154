"""Secrets that a killed client has left are given to their Job or deleted, where one may list Secrets."""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Iterator

import pytest

from kubefunc.backends.kubernetes import configured
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.control.jobs import Jobs
from kubefunc.backends.kubernetes.control.sweep import Sweep
from kubefunc.backends.kubernetes.threads import Clock, Workers
from tests.cluster import work
from tests.cluster.spaces import OURS, Space
from tests.cluster.waiting import eventually, nothing_left, pod_security, until_running


@pytest.fixture
def api(kube: Space) -> Iterator[Api]:
    """As somebody who may list Secrets."""
    config = configured(None, {**os.environ, "KUBECONFIG": str(kube.admin.kubeconfig)})
    assert config is not None
    api = Api(config)
    yield api
    api.close()


def sweep(api: Api, age: datetime.timedelta) -> Sweep:
    """With threads of its own."""
    requests, clock = Workers("sweep-requests", 2), Clock("sweep-clock")
    return Sweep(api, Jobs(api, requests, clock, ExecPermission(api), lambda *_: None), age)


def make_secret(kube: Space, name: str, call: str) -> None:
    """As a client leaves it that was killed before the patch."""
    kube.admin.run("create", "secret", "generic", name, "--from-literal=key=x")
    kube.admin.run("label", "secret", name, OURS, f"kubefunc/call={call}")


def test_a_secret_whose_job_is_not_there_is_deleted(kube: Space, api: Api) -> None:
    """Its client was killed before it made the Job; what is young, or not ours, stays."""
    kube.admin.run("create", "secret", "generic", "somebodys", "--from-literal=key=x")
    make_secret(kube, "f-aaaaaaaa", "f-aaaaaaaa")
    sweep(api, datetime.timedelta(hours=1)).run(kube.namespace)
    assert kube.leftovers() == ["secret/f-aaaaaaaa"]
    sweep(api, datetime.timedelta(0)).run(kube.namespace)
    assert kube.leftovers() == []
    assert "somebodys" in kube.admin.run("get", "secrets", "-o", "name")


def test_where_there_is_nothing_nothing_happens(kube: Space, api: Api) -> None:
    """The server says null where such a list is empty."""
    sweep(api, datetime.timedelta(0)).run(kube.namespace)
    assert kube.leftovers() == []


def test_a_secret_whose_job_runs_is_given_to_it(calling: Space, api: Api) -> None:
    """Then deleting the Job deletes it, as it should have been."""
    call = work.double_later.remote(1, 60)
    until_running(call)
    make_secret(calling, f"{call.id}-1", call.id)
    sweep(api, datetime.timedelta(0)).run(calling.namespace)
    owner = calling.admin.get("secrets", f"--field-selector=metadata.name={call.id}-1")[0]["metadata"][
        "ownerReferences"
    ]
    assert [each["name"] for each in owner] == [call.id]
    call.cancel()
    nothing_left(calling)


def test_without_permission_nothing_happens(kube: Space) -> None:
    """The Role does not let Secrets be listed: the sweep says nothing and changes nothing."""
    config = configured(None, {**os.environ, "KUBECONFIG": str(kube.kubeconfig)})
    assert config is not None
    api = Api(config)
    make_secret(kube, "f-bbbbbbbb", "f-bbbbbbbb")
    sweep(api, datetime.timedelta(0)).run(kube.namespace)
    assert kube.leftovers() == ["secret/f-bbbbbbbb"]
    api.close()
    kube.clear()


def test_a_warning_of_the_server_is_kept(calling: Space) -> None:
    """What it warned of at the Job's creation stands in the diagnosis, beside what went wrong."""
    pod_security(calling, "warn")
    call = work.double_later.remote(1, 60)
    until_running(call)
    threading.Thread(target=lambda: calling.admin.run("delete", "job", call.id, "--wait=false")).start()
    eventually(call.done, 20, "the end of the call")
    assert any("Warning: would violate PodSecurity" in words for words in call.diagnosis.events), call.diagnosis

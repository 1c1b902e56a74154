"""Functions that listen: a Service in front of their Pods, and ports that are forwarded to the caller."""

from __future__ import annotations

import concurrent.futures
import os
import urllib.request

import pytest

import kubefunc
from kubefunc import errors
from tests.cluster import serving
from tests.cluster.conftest import fresh_session
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left, until_running

WAIT = 90


def services(space: Space) -> list[str]:
    """The names of the Services in the namespace."""
    return [each["metadata"]["name"] for each in space.admin.get("services")]


def get(address: tuple[str, int], path: str = "/", data: bytes | None = None) -> bytes:
    """One request to a forwarded port."""
    host, port = address
    with urllib.request.urlopen(f"http://{host}:{port}{path}", data, timeout=30) as answer:
        return bytes(answer.read())


def test_a_service_spreads_requests_over_the_pods_of_a_map(calling: Space) -> None:
    """Another call's requests are answered by all three Pods; one of them is deleted, and no request fails for it."""
    serve = serving.serve.options(service="scores")
    a_map = serve.map(range(3), chunksize=1)
    assert a_map.endpoint == f"scores.{calling.namespace}.svc:8080"
    answers = serving.ask_until.remote(a_map.endpoint, 3, 60).result(WAIT)
    assert len(answers) == 3
    lost = next(iter(answers))
    pod = next(name for name in _pods(calling, a_map.id) if name.startswith(lost.partition("/")[0]))
    asking = serving.ask_until_silent.remote(a_map.endpoint, lost, 60)
    eventually(lambda: lost in asking.logs(), what="its answer")
    calling.admin.run("delete", "pod", pod, "--wait=false")
    assert asking.result(WAIT) > 50
    again = serving.ask_until.remote(a_map.endpoint, 3, 60).result(WAIT)
    assert len(again) == 3
    assert lost not in again  # another Pod has taken its place
    a_map.cancel()
    eventually(lambda: services(calling) == [], what="the end of the Service")
    nothing_left(calling)


def _pods(space: Space, call: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in space.admin.get("pods", "-l", f"kubefunc/call={call}")]


def test_a_port_is_forwarded_to_the_caller(calling: Space) -> None:
    """Many connections at once, megabytes both ways; the function ends when it is asked to, with its result."""
    call = serving.serve.remote()
    data = os.urandom(3_000_000)
    with call.forward("http") as address:
        assert get(address).decode().partition("/")[0] == call.stats.pod
        with concurrent.futures.ThreadPoolExecutor(20) as threads:
            assert set(threads.map(lambda _: get(address, data=data), range(10))) == {data}
            assert len(list(threads.map(lambda _: get(address), range(60)))) == 60
        get(address, "/stop")
    assert call.result(WAIT) == "stopped"
    with pytest.raises(errors.PortForwardError, match="has ended"), call.forward():
        pass
    nothing_left(calling)


def test_a_pod_that_dies_while_its_port_is_forwarded(calling: Space) -> None:
    """The broken connection becomes an error that says so; the call has its own."""
    call = serving.serve.remote()
    with pytest.raises(errors.PortForwardError, match="ended while its port"), call.forward("http") as address:
        get(address, "/die")
    with pytest.raises(errors.WorkerDiedError):
        call.result(WAIT)


def test_a_handle_from_elsewhere_knows_its_ports(calling: Space) -> None:
    """An attached call has the endpoint and the ports of its Job."""
    call = serving.serve.options(service="attached", detach=True).remote()
    until_running(call)
    attached = kubefunc.attach(call.id)
    assert attached.endpoint == call.endpoint == f"attached.{calling.namespace}.svc:8080"
    with attached.forward("http") as address:
        get(address, "/stop")
    assert attached.result(WAIT) == "stopped"
    attached.discard()


def test_a_service_of_somebody_else_is_left_alone(calling: Space) -> None:
    """The call is refused before anything is created, and names the Service."""
    calling.admin.run("create", "service", "clusterip", "taken", "--tcp=80")
    call = serving.serve.options(service="taken").remote()
    with pytest.raises(errors.ConfigurationError, match=r"'taken'.* was not created by kubefunc"):
        call.result(WAIT)
    assert calling.admin.get("jobs") == []
    assert services(calling) == ["taken"]


def test_a_service_name_is_free_again_when_its_call_has_ended(calling: Space) -> None:
    """While it runs, a second call with the same name is refused; the next one after it gets it, at once."""
    serve = serving.serve.options(service="one")
    first = serve.remote()
    with first.forward() as address:
        get(address)
        with pytest.raises(errors.ConfigurationError, match=f"leads to the call {first.id}, which still runs"):
            serve.remote().result(WAIT)
        get(address, "/stop")
    assert first.result(WAIT) == "stopped"
    second = serve.remote()
    with second.forward() as address:
        get(address, "/stop")
    assert second.result(WAIT) == "stopped"
    nothing_left(calling)


@pytest.mark.parametrize(
    ("lacking", "rule"),
    [
        ("services", 'resources: ["services"], verbs: ["create"]'),
        ("pods/portforward", 'resources: ["pods/portforward"], verbs: ["get"]'),
    ],
)
def test_a_missing_right_is_named(kube: Space, monkeypatch: pytest.MonkeyPatch, lacking: str, rule: str) -> None:
    """By the rule that the Role lacks."""
    monkeypatch.setenv("KUBECONFIG", str(kube.without(lacking)))
    with fresh_session():
        call = serving.serve.options(service="scores").remote()
        with pytest.raises(errors.PermissionDeniedError) as denied, call.forward():
            pass
        call.cancel()
    assert rule in str(denied.value)
    nothing_left(kube)

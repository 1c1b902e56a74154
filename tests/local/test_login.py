"""Calls of somebody whose credentials the cluster does not accept."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubefunc import configure, remote
from kubefunc.errors import AuthenticationError
from tests.cluster.conftest import fresh_session
from tests.local import work
from tests.local.api_server import Handler, Peer, Request, Server, write_kubeconfig

ANONYMOUS = (
    'secrets is forbidden: User "system:anonymous" cannot create resource "secrets" in API group "" '
    'in the namespace "n"'
)


double = remote(verbose=False)(work.double)


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the kubeconfig of this process goes, which has a session of its own."""
    path = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(path))
    with fresh_session():
        configure(backend="kubernetes")
        yield path
    for thread in threading.enumerate():  # a watch that was stopped may still be asking a server that is gone
        if thread.name.startswith("kubefunc-watch-"):
            thread.join(15)


def answering_last(slow: str, answer: Handler) -> Handler:
    """The requests of one method have their answer when the others have had theirs."""
    others = threading.Event()

    def handle(request: Request, peer: Peer) -> None:
        if request.method == slow:
            others.wait(2)
        answer(request, peer)
        if request.method != slow:
            others.set()

    return handle


@pytest.mark.parametrize("slow", ["POST", "GET"])
@pytest.mark.parametrize(("status", "message"), [(401, "Unauthorized"), (403, ANONYMOUS)])
def test_credentials_that_are_not_accepted(kubeconfig: Path, slow: str, status: int, message: str) -> None:
    """Whichever request learns it first, the watch or the creation: log in again, nothing was started."""
    answer = answering_last(slow, lambda request, peer: peer.refuse(status, "Refused", message))
    with Server(answer) as server:
        write_kubeconfig(kubeconfig, server.url, {"token": "expired"})
        with pytest.raises(AuthenticationError, match=r"(?s)credentials.*Log in again.*Nothing was started\."):
            double.remote(1).result(timeout=20)


@pytest.mark.parametrize("attempt", range(4))
def test_a_plugin_that_fails(kubeconfig: Path, attempt: int) -> None:
    """The credential plugin is named; nothing is sent, and the advice is the same."""
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "false", "interactiveMode": "Never"}
    with Server(lambda request, peer: peer.json(200, {})) as server:
        write_kubeconfig(kubeconfig, server.url, {"exec": plugin})
        with pytest.raises(AuthenticationError, match=r"(?s)plugin 'false'.*Log in again.*Nothing was started\."):
            double.remote(1).result(timeout=20)
        assert not server.requests


def test_a_server_that_takes_no_calls_is_told_within_seconds(
    kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While a POST is refused with 503 and sent again, a line says so, with the server's words."""

    def away(request: Request, peer: Peer) -> None:
        if request.path.endswith("/secrets"):
            return peer.refuse(503, "ServiceUnavailable", "etcd is away")
        return peer.json(200, {"kind": "List", "items": [], "metadata": {"resourceVersion": "1"}})

    with Server(away) as server:
        write_kubeconfig(kubeconfig, server.url, {"token": "good"})
        call = double.options(verbose=True).remote(1)
        with pytest.raises(concurrent.futures.TimeoutError):
            call.result(timeout=8)
        call.cancel()
    told = capsys.readouterr().err
    assert "The cluster cannot take the call now. etcd is away" in told


def test_a_login_that_expires_while_a_call_runs(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The call is not given up: a line says that the login has expired, and after the next one it is followed on."""
    created, renewed = threading.Event(), threading.Event()

    def cluster(request: Request, peer: Peer) -> None:
        if dict(request.query).get("watch") == "true":
            if created.is_set() and request.headers["authorization"] == "Bearer old":
                return peer.refuse(401, "Unauthorized", "Unauthorized")
            if created.is_set():
                renewed.set()
                return peer.wait_gone()
            created.wait(10)
            return peer.cut()
        if request.method == "POST" and "/namespaces/" in request.path:
            peer.json(201, {"metadata": {**request.json()["metadata"], "uid": "u-1"}})
            return created.set() if request.path.endswith("/jobs") else None
        if request.method == "PATCH":
            return peer.json(200, {"metadata": {"name": request.path.rsplit("/", 1)[-1], "uid": "u-1"}})
        return peer.json(200, {"items": [], "metadata": {"resourceVersion": "1"}, "status": {}})

    with Server(cluster) as server:
        write_kubeconfig(kubeconfig, server.url, {"token": "old"})
        call = double.options(verbose=True).remote(1)
        assert created.wait(10)
        told = ""
        until = time.monotonic() + 15
        while "log in again" not in told and time.monotonic() < until:
            time.sleep(0.1)
            told += capsys.readouterr().err
        assert "your credentials are not accepted any more: log in again" in told
        assert not call.done()
        write_kubeconfig(kubeconfig, server.url, {"token": "new"})
        assert renewed.wait(15)
        assert not call.done()
        call.cancel()

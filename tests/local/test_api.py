"""The API client against a small API server on real sockets."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubefunc.backends.kubernetes.api.pool import CONNECTIONS
from kubefunc.backends.kubernetes.api.requests import (
    Api,
    ApiError,
    ConnectionFailed,
    as_error,
    find_config,
)
from kubefunc.errors import AuthenticationError, ClusterUnreachableError, ConfigurationError
from tests.conftest import ROOT
from tests.local.api_server import Handler, Peer, Request, Server, tls

User = dict[str, Any]


class Time:
    """A clock that only sleeping moves; remembers the naps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.naps.append(seconds)
        self.now += seconds


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Makes an Api for a URL, through a kubeconfig file; `user` and `cluster` are entries of it."""
    apis = []

    def make(url: str, user: User | None = None, cluster: dict[str, Any] | None = None, **clock: Any) -> Api:
        path = tmp_path / "kubeconfig"
        write_kubeconfig(path, url, user or {"token": "secret"}, cluster or {})
        config = find_config(None, {"KUBECONFIG": str(path)})
        assert config is not None
        api = Api(config, **clock)
        apis.append(api)
        return api

    yield make
    for api in apis:
        api.close()


def write_kubeconfig(path: Path, url: str, user: User, cluster: dict[str, Any]) -> None:
    """A kubeconfig with one context."""
    content = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(content))


def in_turn(*handlers: Handler) -> Handler:
    """The first request goes to the first handler and so on; the last one takes the rest."""
    left = list(handlers)

    def handle(request: Request, peer: Peer) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(request, peer)

    return handle


def fine(request: Request, peer: Peer) -> None:
    """A server without trouble."""
    peer.json(200, {"kind": "Fine", "method": request.method})


def overloaded(request: Request, peer: Peer) -> None:
    """429 with Retry-After."""
    peer.refuse(429, "TooManyRequests", "slow down", ("Retry-After", "3"))


def cut(request: Request, peer: Peer) -> None:
    """The connection ends without an answer."""
    peer.cut()


def refuse(status: int, reason: str = "", message: str = "no") -> Handler:
    """Answers with a Status."""
    return lambda request, peer: peer.refuse(status, reason, message)


def test_json_goes_out_and_comes_back(connect: Callable[..., Api]) -> None:
    """A POST carries JSON, token and query; the answer is a plain dict, with the server's warnings."""

    def created(request: Request, peer: Peer) -> None:
        peer.json(201, {"a": [1]}, ("Warning", '299 - "old, \\"very\\""'), ("Warning", '299 - "two"'))

    with Server(created) as server:
        reply = connect(server.url).request("POST", "/apis/x", query={"dryRun": "All"}, body={"kind": "Job"})
    request = server.requests[0]
    assert (reply.status, reply.body, reply.attempts) == (201, {"a": [1]}, 1)
    assert reply.warnings == ('old, "very"', "two")
    assert (request.method, request.path, request.query) == ("POST", "/apis/x", [("dryRun", "All")])
    assert request.json() == {"kind": "Job"}
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["content-type"] == "application/json"


def test_a_server_below_a_path(connect: Callable[..., Api]) -> None:
    """Rancher's proxies serve a cluster below a prefix of the URL."""
    with Server(fine) as server:
        connect(f"{server.url}/k8s/clusters/c-1").request("GET", "/api/v1/pods")
    assert server.requests[0].path == "/k8s/clusters/c-1/api/v1/pods"


def test_requests_share_one_connection(connect: Callable[..., Api]) -> None:
    """One after the other needs no second connection."""
    with Server(fine) as server:
        api = connect(server.url)
        for _ in range(20):
            api.request("GET", "/")
        assert server.connections == 1


def test_no_more_than_the_allowed_connections(connect: Callable[..., Api]) -> None:
    """60 threads at once wait for a free connection; there are never more than 40."""

    def slow(request: Request, peer: Peer) -> None:
        time.sleep(0.05)
        fine(request, peer)

    with Server(slow) as server:
        api = connect(server.url)
        threads = [threading.Thread(target=api.request, args=("GET", f"/{number}")) for number in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) == 60
        assert 1 < server.connections <= CONNECTIONS


@pytest.mark.parametrize("trouble", [overloaded, refuse(500), refuse(503), cut])
def test_trouble_is_tried_again(connect: Callable[..., Api], trouble: Handler) -> None:
    """429, 5xx and a lost connection do not fail a request; the reply counts the attempts."""
    moments = Time()
    with Server(in_turn(trouble, trouble, fine)) as server:
        api = connect(server.url, sleep=moments.sleep, clock=moments.clock)
        assert api.request("POST", "/", body={}).attempts == 3
    assert len(moments.naps) == 2


def test_the_server_says_how_long_to_wait(connect: Callable[..., Api]) -> None:
    """Retry-After is honoured, with a little more at random so that not all come back at once."""
    moments = Time()
    with Server(in_turn(overloaded, fine)) as server:
        connect(server.url, sleep=moments.sleep, clock=moments.clock).request("GET", "/")
    assert 3.0 <= moments.naps[0] <= 3.6


def test_an_overloaded_server_is_given_up_at_the_deadline(connect: Callable[..., Api]) -> None:
    """The deadline covers all attempts; the error is the server's last word."""
    moments = Time()
    with Server(refuse(503, message="etcd is away")) as server:
        api = connect(server.url, sleep=moments.sleep, clock=moments.clock)
        with pytest.raises(ApiError, match="etcd is away") as caught:
            api.request("GET", "/", deadline=20.0)
    assert sum(moments.naps) == pytest.approx(20.0, abs=0.1)
    assert caught.value.attempts == len(server.requests) > 5


@pytest.mark.parametrize("status", [400, 403, 404, 409, 410, 422])
def test_a_refusal_is_final(connect: Callable[..., Api], status: int) -> None:
    """What the server has decided is not asked again."""
    with Server(refuse(status, "AlreadyExists", "because")) as server, pytest.raises(ApiError) as caught:
        connect(server.url).request("POST", "/x", body={})
    error = caught.value
    assert (error.status, error.reason, error.message, error.attempts) == (
        status,
        "AlreadyExists",
        "because",
        1,
    )
    assert error.already_exists == (status == 409)
    assert len(server.requests) == 1


def test_an_error_that_is_no_status_object(connect: Callable[..., Api]) -> None:
    """A proxy's page instead of a Status: its text is kept."""
    with (
        Server(lambda request, peer: peer.json(404, "<html>nothing here")) as server,
        pytest.raises(ApiError, match="nothing here"),
    ):
        connect(server.url).request("GET", "/")


def test_a_restarted_server_is_waited_for(connect: Callable[..., Api]) -> None:
    """A server known to exist that refuses connections is restarting: no request fails of it."""
    first = Server(fine)
    with first:
        api = connect(first.url)
        api.request("GET", "/")
    restarted: list[Server] = []

    def restart() -> None:
        restarted.append(Server(fine, port=first.port).__enter__())

    timer = threading.Timer(1.0, restart)
    timer.start()
    reply = api.request("GET", "/")
    timer.join()
    restarted[0].stop()
    assert reply.attempts > 2


def test_after_a_restart_the_roles_may_not_be_read_yet(connect: Callable[..., Api]) -> None:
    """Just after a lost connection, 403 for want of a role is tried again: it may not be read yet."""
    rbac = 'jobs is forbidden: User "u" cannot list resource "jobs" in API group "batch" in the namespace "n"'
    moments = Time()
    with Server(in_turn(fine, cut, refuse(403, "Forbidden", rbac), fine)) as server:
        api = connect(server.url, sleep=moments.sleep, clock=moments.clock)
        api.request("GET", "/")
        assert api.request("GET", "/").attempts == 3
        moments.now += 60
        server.handler = refuse(403, "Forbidden", rbac)
        with pytest.raises(ApiError, match="cannot list"):
            api.request("GET", "/")
    assert len(server.requests) == 5


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_server_that_was_never_reached_is_given_up_soon(connect: Callable[..., Api]) -> None:
    """Nobody listens there: three attempts within seconds, and an error that names the host."""
    url = f"https://127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(ConnectionFailed) as caught:
        connect(url).request("GET", "/")
    assert time.monotonic() - began < 3
    assert (caught.value.reason, caught.value.attempts) == ("refused", 3)
    error = as_error(caught.value)
    assert isinstance(error, ClusterUnreachableError)
    assert url in str(error)
    assert "'test'" in str(error)


def test_a_host_that_does_not_exist(connect: Callable[..., Api]) -> None:
    """A name that does not resolve is said to be one."""
    with pytest.raises(ConnectionFailed) as caught:
        connect("https://no-such-host.invalid:6443").request("GET", "/")
    assert caught.value.reason == "dns"


def test_a_server_that_accepts_and_says_nothing(connect: Callable[..., Api]) -> None:
    """A first contact without an answer ends after 10 s by the deadline, here shortened."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        began = time.monotonic()
        with pytest.raises(ConnectionFailed) as caught:
            connect(f"http://127.0.0.1:{listener.getsockname()[1]}").request("GET", "/", deadline=0.5)
        assert time.monotonic() - began < 2
    assert caught.value.reason == "timeout"


def test_who_hurries_is_held_by_no_request(connect: Callable[..., Api]) -> None:
    """At a program's end: what begins from then on has as long as the end may take, whatever was asked for."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        api = connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
        api.hurry(0.5)
        began = time.monotonic()
        with pytest.raises(ConnectionFailed):
            api.request("DELETE", "/", deadline=60.0)
        assert time.monotonic() - began < 2


# -- credentials


def test_a_program_can_still_send_requests_while_it_exits(tmp_path: Path) -> None:
    """urllib3 clears its own pools when a program exits; ours gives connections until the last Job is deleted."""
    text = """
import atexit, sys
from pathlib import Path
import kubefunc.session  # whose exit handler runs after that of urllib3, which is registered later
from kubefunc.backends.kubernetes.api.requests import Api
from tests.local.api_server import config_of

def delete_the_job():
    api.hurry(3)
    print(api.request("DELETE", "/job").status)

atexit.register(delete_the_job)
api = Api(config_of(sys.argv[1], Path(sys.argv[2])))
print(api.request("GET", "/job").status)
"""
    with Server(fine) as server:
        arguments = [sys.executable, "-c", text, server.url, str(tmp_path)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["200", "200"], done.stderr


def test_a_401_reloads_the_credentials_once(connect: Callable[..., Api], tmp_path: Path) -> None:
    """A token that was renewed in the kubeconfig is picked up, without a word to the caller."""

    def guarded(request: Request, peer: Peer) -> None:
        if request.headers.get("authorization") == "Bearer new":
            return fine(request, peer)
        return refuse(401, "Unauthorized")(request, peer)

    with Server(guarded) as server:
        api = connect(server.url, {"token": "old"})
        with pytest.raises(ApiError) as caught:
            api.request("GET", "/")
        assert caught.value.status == 401
        write_kubeconfig(tmp_path / "kubeconfig", server.url, {"token": "new"}, {})
        assert api.request("GET", "/").attempts == 1
        with api.stream_lines("/", {}) as stream:
            assert len(list(stream)) == 1
        assert server.connections == 1


def test_many_threads_reload_the_credentials_only_once(connect: Callable[..., Api], tmp_path: Path) -> None:
    """A credential plugin that takes seconds is not run by each of the threads that got a 401."""
    log = tmp_path / "runs"
    plugin = tmp_path / "plugin"
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    plugin.write_text(
        f"#!{sys.executable}\nimport json\nopen({str(log)!r}, 'a').write('x')\n"
        f"runs = len(open({str(log)!r}).read())\n"
        f"print(json.dumps({{**{credential!r}, 'status': {{'token': f'token-{{runs}}'}}}}))\n"
    )
    plugin.chmod(0o755)
    barrier = threading.Barrier(8)

    def expired(request: Request, peer: Peer) -> None:
        if request.headers.get("authorization") == "Bearer token-1":
            barrier.wait(10)
            return refuse(401, "Unauthorized")(request, peer)
        return fine(request, peer)

    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}}
    with Server(expired) as server:
        api = connect(server.url, user)
        replies: list[int] = []
        threads = [threading.Thread(target=lambda: replies.append(api.request("GET", "/").status)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert replies == [200] * 8
    assert log.read_text() == "xx"


def test_a_credential_plugin_that_fails_is_named(connect: Callable[..., Api]) -> None:
    """kubernetes.config would go on as system:anonymous; the plugin's failure is the error."""
    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-plugin"}}
    with Server(fine) as server, pytest.raises(AuthenticationError, match=r"'no-such-plugin'.*no credentials"):
        connect(server.url, user).request("GET", "/")
    assert not server.requests


@pytest.mark.parametrize("user", [{"tokenFile": "token"}, {"token": ""}], ids=["empty file", "empty token"])
def test_an_empty_token_is_no_login(connect: Callable[..., Api], tmp_path: Path, user: User) -> None:
    """A token file that is empty is named; no request is sent as system:anonymous."""
    (tmp_path / "token").write_text("")
    with Server(fine) as server, pytest.raises(AuthenticationError, match=r"token.*gave no credentials"):
        connect(server.url, user).request("GET", "/")
    assert not server.requests


ANONYMOUS = (
    'jobs.batch is forbidden: User "system:anonymous" cannot list resource "jobs" in API group "batch" '
    'in the namespace "n"'
)


def test_who_is_taken_for_anonymous_reloads_the_credentials_once(connect: Callable[..., Api]) -> None:
    """A 403 as system:anonymous is about who asks, not about a Role: for requests and streams."""
    with Server(in_turn(refuse(403, "Forbidden", ANONYMOUS), fine)) as server:
        assert connect(server.url).request("GET", "/").attempts == 1
        assert len(server.requests) == 2
    with (
        Server(in_turn(refuse(403, "Forbidden", ANONYMOUS), fine)) as server,
        connect(server.url).stream_lines("/", {}) as stream,
    ):
        assert len(list(stream)) == 1
    with Server(refuse(403, "Forbidden", ANONYMOUS)) as server, pytest.raises(ApiError) as caught:
        connect(server.url).request("GET", "/")
    assert len(server.requests) == 2
    assert isinstance(as_error(caught.value), AuthenticationError)


def test_credentials_that_cannot_be_loaded(connect: Callable[..., Api], tmp_path: Path) -> None:
    """A certificate file that is not there is named, with the kubeconfig."""
    with pytest.raises(ConfigurationError, match=r"kubeconfig cannot be loaded.*absent\.crt"):
        connect("https://127.0.0.1:1", None, {"certificate-authority": "absent.crt"}).request("GET", "/")


# -- TLS


def test_tls_with_the_clusters_own_authority(connect: Callable[..., Api], certificate: Path) -> None:
    """The kubeconfig's certificate authority is trusted, for requests and streams."""
    with Server(fine, tls=tls(certificate)) as server:
        api = connect(server.url, None, {"certificate-authority": str(certificate)})
        assert api.request("GET", "/").status == 200
        with api.stream_lines("/", {}) as stream:
            assert len(list(stream)) == 1


def test_a_certificate_that_does_not_verify_is_no_reason_to_try_again(
    connect: Callable[..., Api], certificate: Path
) -> None:
    """Another cluster's certificate: one attempt, and the advice to look at the kubeconfig."""
    with Server(fine, tls=tls(certificate)) as server, pytest.raises(ConnectionFailed) as caught:
        connect(server.url).request("GET", "/")
    assert (caught.value.reason, caught.value.attempts) == ("tls", 1)
    assert "certificate-authority" in str(as_error(caught.value))


def test_no_private_key_stays_in_the_temporary_directory(
    connect: Callable[..., Api], certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kubeconfig holds as text is written to files to be loaded, and removed at once; a reload works, too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    text = base64.b64encode(certificate.read_bytes()).decode()
    user = {"client-certificate-data": text, "client-key-data": text}
    with Server(in_turn(fine, refuse(401, "Unauthorized"), fine), tls=tls(certificate)) as server:
        api = connect(server.url, user, {"certificate-authority-data": text})
        for _ in range(2):
            api.request("GET", "/")
            assert list((tmp_path / "temporary").iterdir()) == []
    assert len(server.requests) == 3


def test_connections_survive_a_reload_of_a_token(connect: Callable[..., Api], certificate: Path) -> None:
    """A certificate authority that is the same text is the same authority: no connection is made anew for it."""
    authority = {"certificate-authority-data": base64.b64encode(certificate.read_bytes()).decode()}
    with Server(in_turn(fine, refuse(401, "Unauthorized"), fine), tls=tls(certificate)) as server:
        api = connect(server.url, None, authority)
        api.request("GET", "/")
        api.request("GET", "/")
        assert (len(server.requests), server.connections) == (3, 1)


def test_a_certificate_that_is_none(connect: Callable[..., Api], tmp_path: Path) -> None:
    """A damaged certificate authority is the kubeconfig's fault and is said to be, before anything is sent."""
    (tmp_path / "ca.crt").write_text("garbage")
    with pytest.raises(ConfigurationError, match=r"certificates of the context 'test' in .*kubeconfig"):
        connect("https://127.0.0.1:1", None, {"certificate-authority": "ca.crt"}).request("GET", "/")


# -- streams


def test_an_event_is_handed_on_the_moment_it_comes(connect: Callable[..., Api]) -> None:
    """Nothing waits for a buffer to fill: half of 50 events are with the reader within 2 ms."""

    def events(request: Request, peer: Peer) -> None:
        peer.start_chunks()
        for _ in range(50):
            peer.event("ADDED", {"sent": time.perf_counter(), "padding": "x" * 5000})
            time.sleep(0.005)
        peer.chunk(b"")

    with Server(events) as server, connect(server.url).stream_lines("/", {"watch": "true"}) as stream:
        delays = [time.perf_counter() - json.loads(line)["object"]["sent"] for line in stream]
    assert len(delays) == 50
    assert sorted(delays)[25] < 0.002


def test_a_stream_that_ends_leaves_its_connection_to_the_next(connect: Callable[..., Api]) -> None:
    """A log that was followed to its end costs no new connection afterwards."""

    def log(request: Request, peer: Peer) -> None:
        peer.start_chunks()
        peer.chunk(b"one\ntwo")
        peer.chunk(b"")

    with Server(log) as server:
        api = connect(server.url)
        for _ in range(3):
            with api.stream_bytes("/log", {"follow": "true"}) as stream:
                assert b"".join(stream) == b"one\ntwo"
        assert server.connections == 1


def test_a_log_through_a_proxy_that_does_not_chunk(connect: Callable[..., Api]) -> None:
    """An answer that only the connection's end delimits arrives piece by piece too."""
    go_on = threading.Event()

    def old(request: Request, peer: Peer) -> None:
        peer.send(b"HTTP/1.0 200 OK\r\n\r\nfirst")
        go_on.wait(10)
        peer.send(b"second")
        peer.cut()

    with Server(old) as server, connect(server.url).stream_bytes("/", {}) as stream:
        pieces = iter(stream)
        assert next(pieces) == b"first"
        go_on.set()
        assert b"".join(pieces) == b"second"


@pytest.mark.parametrize("where", ["between chunks", "inside a chunk"])
def test_a_cut_is_not_an_end(connect: Callable[..., Api], where: str) -> None:
    """A broken connection is told from the server's own end of the answer."""

    def broken(request: Request, peer: Peer) -> None:
        peer.start_chunks()
        peer.chunk(b"one\n")
        if where == "inside a chunk":
            peer.send(b"ff\r\ntwo\n")
        peer.cut()

    with (
        Server(broken) as server,
        connect(server.url).stream_lines("/", {}) as stream,
        pytest.raises(ConnectionFailed) as caught,
    ):
        list(stream)
    assert caught.value.reason == "lost"


def test_silence_ends_a_stream(connect: Callable[..., Api]) -> None:
    """Without a byte for the idle timeout the connection counts as dead."""

    def silent(request: Request, peer: Peer) -> None:
        peer.start_chunks()
        peer.chunk(b"one\n")
        peer.wait_gone()

    with (
        Server(silent) as server,
        connect(server.url).stream_lines("/", {}, idle_timeout=0.3) as stream,
        pytest.raises(ConnectionFailed) as caught,
    ):
        list(stream)
    assert caught.value.reason == "timeout"


def test_a_refused_stream(connect: Callable[..., Api]) -> None:
    """A stream that the server refuses raises what a request would, and gives its connection back."""
    with Server(in_turn(refuse(410, "Expired", "too old"), fine)) as server:
        api = connect(server.url)
        with pytest.raises(ApiError, match="too old"), api.stream_lines("/", {}):
            pass
        api.request("GET", "/")
        assert server.connections == 1


@pytest.mark.parametrize("moment", ["before the headers", "while reading"])
@pytest.mark.parametrize("encrypted", ["http", "https"])
def test_another_thread_can_end_a_stream(
    connect: Callable[..., Api], certificate: Path, moment: str, encrypted: str
) -> None:
    """close() wakes the reader at once, also where kubelet has not even sent the headers of a silent log."""

    def silent(request: Request, peer: Peer) -> None:
        if moment == "while reading":
            peer.start_chunks()
        peer.wait_gone()

    context = tls(certificate) if encrypted == "https" else None
    with Server(silent, tls=context) as server:
        stream = connect(server.url, None, {"certificate-authority": str(certificate)}).stream_bytes("/", {})
        woken: list[float] = []

        def read() -> None:
            try:
                with stream:
                    assert list(stream) == []
            except ConnectionFailed:
                assert moment == "before the headers"
            woken.append(time.monotonic())

        reader = threading.Thread(target=read)
        reader.start()
        while not server.requests:
            time.sleep(0.01)
        time.sleep(0.1)
        closed = time.monotonic()
        stream.close()
        reader.join(5)
        assert woken
        assert woken[0] - closed < 0.5


def test_closing_the_api_ends_its_streams(connect: Callable[..., Api]) -> None:
    """Api.close() wakes whoever reads."""

    def silent(request: Request, peer: Peer) -> None:
        peer.start_chunks()
        peer.wait_gone()

    with Server(silent) as server:
        api = connect(server.url)
        with api.stream_bytes("/", {}) as stream:
            threading.Timer(0.1, api.close).start()
            assert list(stream) == []


def test_a_log_is_read_whole(connect: Callable[..., Api]) -> None:
    """read_bytes gives back what is no JSON, and tries again like any request."""

    def log(request: Request, peer: Peer) -> None:
        peer.start_chunks()
        peer.chunk(b"line\n\xff")
        peer.chunk(b"")

    with Server(in_turn(cut, log)) as server:
        assert connect(server.url).read_bytes("/log", query={"tailLines": "2"}) == b"line\n\xff"

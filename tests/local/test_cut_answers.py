"""Answers that end too early, at each of their bytes, and answers that are not Kubernetes' own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from kubefunc.backends.kubernetes.api.answers import is_any, is_list, is_named
from kubefunc.backends.kubernetes.api.requests import Api, ApiError, ConnectionFailed, as_error
from kubefunc.backends.kubernetes.api.watcher import Watcher, WatchState
from kubefunc.errors import ClusterUnreachableError
from tests.local.api_server import Handler, Peer, Request, Server, config_of, upgrade_answer

SECRET = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "f-1", "uid": "u-1"}}
PODS = {
    "kind": "PodList",
    "apiVersion": "v1",
    "metadata": {"resourceVersion": "7"},
    "items": [{"metadata": {"name": "f-1-x", "uid": "u-2", "resourceVersion": "6"}}],
}
DELETED = {"kind": "Status", "apiVersion": "v1", "status": "Success"}
EXISTS = {"kind": "Status", "status": "Failure", "reason": "AlreadyExists", "message": "it exists", "code": 409}
MISSING = {"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "not found", "code": 404}
PAGE = b"<html>please log in</html>"


def with_length(status: int, body: bytes, kind: str = "application/json") -> bytes:
    """An answer with a Content-Length."""
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\nAudit-Id: 1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def in_chunks(status: int, body: bytes, kind: str = "application/json") -> bytes:
    """An answer in two chunks."""
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    parts = (body[:20], body[20:], b"")
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def until_the_end(status: int, body: bytes, kind: str = "application/json") -> bytes:
    """An answer that the end of the connection ends, as proxies send."""
    return f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode() + body


class CutThenWhole:
    """Sends so many bytes of an answer to the next request, and the whole of it to all others."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.cut_at: int | None = None

    def __call__(self, request: Request, peer: Peer) -> None:
        """Answer one request."""
        size, self.cut_at = self.cut_at, None
        peer.send(self.answer[:size])
        if size is not None or b"Connection: close" in self.answer:
            peer.cut()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[[Server], Api]]:
    """Makes an Api that does not sleep between two attempts."""
    apis: list[Api] = []

    def make(server: Server) -> Api:
        apis.append(Api(config_of(server.url, tmp_path, token="t"), sleep=lambda seconds: None))
        return apis[-1]

    yield make
    for api in apis:
        api.close()


@pytest.mark.parametrize("framed", [with_length, in_chunks, until_the_end])
@pytest.mark.parametrize(
    ("method", "status", "body", "is_expected"),
    [
        ("POST", 201, SECRET, is_named("f-1")),
        ("PATCH", 200, SECRET, is_named("f-1")),
        ("GET", 200, PODS, is_list),
        ("DELETE", 200, DELETED, is_any),
    ],
    ids=["post", "patch", "list", "delete"],
)
def test_an_answer_cut_at_any_byte_is_asked_for_again(
    connect: Callable[[Server], Api],
    method: Literal["GET", "POST", "PATCH", "DELETE"],
    status: int,
    body: dict[str, Any],
    is_expected: Callable[[dict[str, Any]], bool],
    framed: Callable[[int, bytes], bytes],
) -> None:
    """Wherever the connection ends, in the headers or in the body, the request gets its whole answer in the end."""
    handler = CutThenWhole(framed(status, json.dumps(body).encode()))
    with Server(handler) as server:
        api = connect(server)
        api.request(method, "/")
        for size in range(len(handler.answer) - (4 if framed is in_chunks else 0)):
            handler.cut_at = size
            reply = api.request(method, "/", is_expected=is_expected)
            assert (reply.body, reply.attempts) == (body, 2), handler.answer[:size]


@pytest.mark.parametrize("status", [EXISTS, MISSING], ids=["exists", "missing"])
def test_a_refusal_cut_at_any_byte_is_asked_for_again(connect: Callable[[Server], Api], status: dict[str, Any]) -> None:
    """A refusal is believed when all of it has come: what is missing may be the reason."""
    handler = CutThenWhole(with_length(status["code"], json.dumps(status).encode()))
    with Server(handler) as server:
        api = connect(server)
        for size in range(len(handler.answer)):
            handler.cut_at = size
            with pytest.raises(ApiError) as caught:
                api.request("POST", "/", body={})
            assert (caught.value.reason, caught.value.attempts) == (status["reason"], 2), handler.answer[:size]


@pytest.mark.parametrize("framed", [with_length, in_chunks])
def test_a_log_cut_at_any_byte_is_read_again(
    connect: Callable[[Server], Api], framed: Callable[[int, bytes, str], bytes]
) -> None:
    """The kubelet's logs have a length or chunks: no part of one counts as the whole."""
    handler = CutThenWhole(framed(200, b"printed first\nprinted last\n", "text/plain"))
    with Server(handler) as server:
        api = connect(server)
        for size in range(len(handler.answer) - (4 if framed is in_chunks else 0)):
            handler.cut_at = size
            assert api.read_bytes("/log") == b"printed first\nprinted last\n"
        assert len(server.requests) == 2 * (size + 1)


def test_a_stream_cut_at_any_byte_has_not_ended(connect: Callable[[Server], Api]) -> None:
    """Whoever reads a watch or follows a log gets what has come, and then ConnectionFailed instead of an end."""
    handler = CutThenWhole(in_chunks(200, b'{"type":"ADDED"}\n{"type":"DELETED"}\n'))
    with Server(handler) as server:
        api = connect(server)
        for size in range(len(handler.answer) - 4):
            handler.cut_at = size
            with pytest.raises(ConnectionFailed) as caught, api.stream_bytes("/", {}) as stream:
                list(stream)
            assert caught.value.reason == "lost"


def test_an_upgrade_cut_at_any_byte_fails(connect: Callable[[Server], Api]) -> None:
    """An exec stream opens when all headers of its upgrade have come."""
    sizes: list[int] = []

    def upgrade(request: Request, peer: Peer) -> None:
        answer = upgrade_answer(request)
        sizes.append(len(answer))
        peer.send(answer[: len(sizes) - 1])
        peer.cut()

    with Server(upgrade) as server:
        api = connect(server)
        while not sizes or len(sizes) < sizes[0]:
            with pytest.raises(ConnectionFailed) as caught:
                api.websocket("/exec", {}, ["v5.channel.k8s.io"]).open()
            assert caught.value.reason == "lost", len(sizes) - 1


def test_a_list_cut_at_any_byte_reports_no_deletion(connect: Callable[[Server], Api]) -> None:
    """A watcher that must list anew, and gets a part of the list, does not take the rest for deleted."""
    whole = with_length(200, json.dumps(PODS).encode())
    lists: list[bytes] = []

    def collection(request: Request, peer: Peer) -> None:
        if dict(request.query).get("watch") == "true":
            return peer.refuse(410, "Expired", "too old") if lists else peer.wait_gone()
        answer = lists.pop(0) if lists else whole
        peer.send(answer)
        return peer.cut() if answer != whole else None

    with Server(collection) as server:
        api = connect(server)
        for size in range(len(whole)):
            lists[:] = [whole, whole[:size]]
            seen: list[str] = []
            states: list[WatchState] = []
            watcher = Watcher(
                api,
                "/api/v1/namespaces/n/pods",
                {},
                lambda kind, obj, seen=seen: seen.append(kind),  # type: ignore[misc]
                lambda state, words, states=states: states.append(state),  # type: ignore[misc]
                pause=lambda seconds: None,
            )
            watcher.start()
            while WatchState.RELISTED not in states:
                watcher.join(0.001)
            watcher.stop()
            watcher.join(5)
            assert seen == ["ADDED"], whole[:size]


# -- what is not Kubernetes


def page(status: int, *headers: str) -> Handler:
    """A proxy's page in place of an answer."""

    def handle(request: Request, peer: Peer) -> None:
        lines = [f"HTTP/1.1 {status} X", "Content-Type: text/html; charset=utf-8", f"Content-Length: {len(PAGE)}"]
        peer.send("\r\n".join([*lines, *headers, "", ""]).encode() + PAGE)

    return handle


def empty(request: Request, peer: Peer) -> None:
    """A success without a word."""
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def other(request: Request, peer: Peer) -> None:
    """JSON that Kubernetes would not send."""
    peer.json(200, {"error": "please log in"})


def fine(request: Request, peer: Peer) -> None:
    """A list of Pods."""
    peer.json(200, PODS)


IMPOSTORS = [page(200), page(302, "Location: https://login"), page(404), page(403), empty, other]
IMPOSTOR_NAMES = ["page", "redirect", "not found", "forbidden", "empty", "JSON"]


@pytest.mark.parametrize("impostor", IMPOSTORS, ids=IMPOSTOR_NAMES)
def test_what_kubernetes_would_not_answer_is_no_answer(connect: Callable[[Server], Api], impostor: Handler) -> None:
    """A proxy's page, a redirect, an empty success: the request is sent again."""
    answers: list[Handler] = [impostor, fine]
    with Server(lambda request, peer: answers.pop(0)(request, peer)) as server:
        reply = connect(server).request("GET", "/", is_expected=is_list)
    assert (reply.body, reply.attempts) == (PODS, 2)


@pytest.mark.parametrize("impostor", IMPOSTORS, ids=IMPOSTOR_NAMES)
def test_a_login_page_is_told_from_a_cluster(connect: Callable[[Server], Api], impostor: Handler) -> None:
    """Where only a proxy answers, the error comes after three attempts, quotes it, and says whom to ask."""
    with Server(impostor) as server, pytest.raises(ConnectionFailed) as caught:
        connect(server).request("GET", "/", is_expected=is_list)
    assert (caught.value.reason, caught.value.attempts) == ("unreadable", 3)
    error = as_error(caught.value)
    assert isinstance(error, ClusterUnreachableError)
    assert "a proxy or a login page" in str(error)
    assert impostor is empty or "please log in" in str(error)


@pytest.mark.parametrize("impostor", [page(200), page(302), page(404)], ids=["page", "redirect", "not found"])
def test_a_page_is_neither_a_log_nor_a_watch(connect: Callable[[Server], Api], impostor: Handler) -> None:
    """No line of a proxy's page is shown as printed by a function, or taken for an event."""
    with Server(impostor) as server:
        api = connect(server)
        for read in (lambda: api.read_bytes("/log"), lambda: list(_lines(api))):
            with pytest.raises(ConnectionFailed) as caught:
                read()
            assert caught.value.reason == "unreadable"


def _lines(api: Api) -> Iterator[bytes]:
    with api.stream_lines("/", {}) as stream:
        yield from stream


def test_only_kubernetes_says_that_an_object_is_not_there(connect: Callable[[Server], Api]) -> None:
    """A 404 in other words than a Status is a wrong address, not an object that is gone."""

    def plain(request: Request, peer: Peer) -> None:
        peer.send(with_length(404, b"404 page not found", "text/plain"))

    for answer, gone in ((plain, False), (lambda request, peer: peer.json(404, MISSING), True)):
        with Server(answer) as server, pytest.raises(ApiError) as caught:
            connect(server).request("GET", "/")
        assert caught.value.not_found is gone


def test_a_request_that_may_have_arrived_is_remembered(connect: Callable[[Server], Api]) -> None:
    """Lost once and then refused: its object may be there, and must be deleted."""
    handlers: list[Handler] = [lambda request, peer: peer.cut(), lambda request, peer: peer.json(403, {})]
    with Server(lambda request, peer: handlers.pop(0)(request, peer)) as server:
        with pytest.raises(ApiError) as caught:
            connect(server).request("POST", "/", body={})
        assert caught.value.maybe_carried_out
        handlers.append(lambda request, peer: peer.json(403, {}))
        with pytest.raises(ApiError) as caught:
            connect(server).request("POST", "/", body={})
        assert not caught.value.maybe_carried_out

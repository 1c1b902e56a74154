"""The watcher against a small API server that forgets, cuts, restarts and refuses."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubefunc.backends.kubernetes.api.calls_watcher import CallsWatcher
from kubefunc.backends.kubernetes.api.requests import Api, ApiError
from kubefunc.backends.kubernetes.api.watcher import TailWatcher, Watcher, WatchState
from tests.local.api_server import Handler, Peer, Request, Server, config_of

PODS = "/api/v1/namespaces/team/pods"


def pod(name: str, version: int) -> dict[str, Any]:
    """A Pod, as far as the watcher looks."""
    return {"metadata": {"uid": f"uid-{name}", "name": name, "resourceVersion": str(version)}}


class Collection:
    """The server's side: a list, and what a watch of it does, connection by connection."""

    def __init__(self, *watches: Handler) -> None:
        self.items: list[dict[str, Any]] = []
        self.version = 1
        self.watches = list(watches)
        self.lists: list[Request] = []
        self.seen: list[Request] = []

    def __call__(self, request: Request, peer: Peer) -> None:
        """Answer a LIST or a WATCH; when all watches are used up, the last connection just stays open."""
        if dict(request.query).get("watch") != "true":
            self.lists.append(request)
            body = {"kind": "PodList", "apiVersion": "v1", "items": self.listed(request)}
            return peer.json(200, {**body, "metadata": {"resourceVersion": str(self.version)}})
        self.seen.append(request)
        if self.watches:
            return self.watches.pop(0)(request, peer)
        peer.start_chunks()
        return peer.wait_gone()

    def listed(self, request: Request) -> list[dict[str, Any]]:
        """The items that a LIST gives."""
        del request
        return self.items

    def versions(self) -> list[str]:
        """The resourceVersions at which watches began."""
        return [dict(request.query)["resourceVersion"] for request in self.seen]


def events(*items: tuple[str, object], then: Callable[[Peer], None]) -> Handler:
    """A watch that sends events, and then ends in some way."""

    def handle(request: Request, peer: Peer) -> None:
        peer.start_chunks()
        for kind, obj in items:
            peer.event(kind, obj)
        then(peer)

    return handle


def end(peer: Peer) -> None:
    """The server ends the watch politely."""
    peer.chunk(b"")


def gone(peer: Peer) -> None:
    """The version is too old."""
    peer.event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})
    peer.wait_gone()


class Log:
    """What a watcher reports."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[str, str]] = queue.Queue()
        self.states: list[tuple[WatchState, str]] = []

    def event(self, kind: str, obj: dict[str, Any]) -> None:
        """An event came."""
        metadata = obj["metadata"]
        self.events.put((kind, f"{metadata['name']}@{metadata.get('resourceVersion')}"))

    def state(self, state: WatchState, detail: str) -> None:
        """The watcher says how it is."""
        self.states.append((state, detail))

    def next(self, count: int) -> list[tuple[str, str]]:
        """The next events."""
        return [self.events.get(timeout=5) for _ in range(count)]

    def seen(self, state: WatchState) -> bool:
        """Whether the watcher was ever in that state."""
        return any(one is state for one, _ in self.states)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., tuple[Watcher, Log]]]:
    """Starts a watcher; stops all of them at the end."""
    watchers: list[tuple[Api, Watcher]] = []

    def start(server: Server, kind: type[Watcher] = Watcher, **options: Any) -> tuple[Watcher, Log]:
        config = config_of(server.url, tmp_path)
        log = Log()
        query = {"labelSelector": "kubefunc/session=s"}
        api = Api(config)
        watcher = kind(api, PODS, query, log.event, log.state, **options)
        watchers.append((api, watcher))
        watcher.start()
        return watcher, log

    yield start
    for api, watcher in watchers:
        watcher.stop()
        api.close()
        watcher.join(5)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    limit = time.monotonic() + 5
    while not condition():
        if time.monotonic() > limit:
            pytest.fail("waited for 5 s")
        time.sleep(0.01)


def test_what_is_there_and_what_happens(watch: Callable[..., tuple[Watcher, Log]]) -> None:
    """The list comes as ADDED, then each change; both ask for the same labels, the watch for bookmarks too."""
    collection = Collection(events(("MODIFIED", pod("a", 7)), ("DELETED", pod("a", 8)), then=Peer.wait_gone))
    collection.items, collection.version = [pod("a", 5)], 6
    with Server(collection) as server:
        watcher, log = watch(server)
        assert watcher.wait_synced(5)
        assert log.next(3) == [("ADDED", "a@5"), ("MODIFIED", "a@7"), ("DELETED", "a@8")]
        watcher.stop()
    assert dict(collection.lists[0].query)["labelSelector"] == "kubefunc/session=s"
    query = dict(collection.seen[0].query)
    assert (query["labelSelector"], query["resourceVersion"]) == ("kubefunc/session=s", "6")
    assert query["allowWatchBookmarks"] == "true"


def test_a_list_in_pages(watch: Callable[..., tuple[Watcher, Log]]) -> None:
    """A list that comes in pages is put together before anything is concluded from it."""

    def paged(request: Request, peer: Peer) -> None:
        query = dict(request.query)
        if query.get("watch"):
            peer.start_chunks()
            return peer.wait_gone()
        if query.get("continue") == "more":
            return peer.json(200, {"items": [pod("b", 2)], "metadata": {"resourceVersion": "9"}})
        metadata = {"resourceVersion": "9", "continue": "more"}
        return peer.json(200, {"kind": "PodList", "items": [pod("a", 1)], "metadata": metadata})

    with Server(paged) as server:
        watcher, log = watch(server)
        assert log.next(2) == [("ADDED", "a@1"), ("ADDED", "b@2")]
        watcher.stop()


@pytest.mark.parametrize("how", [end, Peer.cut], ids=["politely", "cut"])
def test_a_watch_that_ends_is_resumed_at_the_last_version(
    watch: Callable[..., tuple[Watcher, Log]], how: Callable[[Peer], None]
) -> None:
    """Neither events nor time are lost: bookmarks move the version on, and nothing is listed again."""
    bookmark = {"kind": "Pod", "metadata": {"resourceVersion": "30"}}
    collection = Collection(
        events(("ADDED", pod("a", 20)), ("BOOKMARK", bookmark), then=how),
        events(("MODIFIED", pod("a", 31)), then=Peer.wait_gone),
    )
    with Server(collection) as server:
        watcher, log = watch(server)
        assert log.next(2) == [("ADDED", "a@20"), ("MODIFIED", "a@31")]
        watcher.stop()
    assert collection.versions()[:2] == ["1", "30"]
    assert len(collection.lists) == 1


def expired(request: Request, peer: Peer) -> None:
    """410 as the answer itself."""
    peer.refuse(410, "Expired", "too old resource version")


@pytest.mark.parametrize("inside", [True, False], ids=["as an event", "as a status"])
def test_a_version_that_the_server_forgot(watch: Callable[..., tuple[Watcher, Log]], inside: bool) -> None:
    """After a 410 the list says what happened unseen: gone, changed and new objects."""
    first = [("ADDED", pod(name, version)) for name, version in (("gone", 10), ("same", 11), ("old", 12))]

    def change(peer: Peer) -> None:
        collection.items, collection.version = [pod("same", 11), pod("old", 50), pod("new", 51)], 60
        gone(peer) if inside else end(peer)

    collection = Collection(events(*first, then=change), *([] if inside else [expired]))
    with Server(collection) as server:
        watcher, log = watch(server)
        log.next(3)
        assert log.next(3) == [("DELETED", "gone@10"), ("MODIFIED", "old@50"), ("ADDED", "new@51")]
        until(lambda: collection.versions()[-1] == "60")
        watcher.stop()
    assert log.seen(WatchState.RELISTED)


def test_a_silent_connection_is_dead(watch: Callable[..., tuple[Watcher, Log]]) -> None:
    """Without a byte for the idle timeout the watch begins anew where it was."""
    collection = Collection(
        events(("ADDED", pod("a", 20)), then=Peer.wait_gone),
        events(("MODIFIED", pod("a", 21)), then=Peer.wait_gone),
    )
    with Server(collection) as server:
        watcher, log = watch(server, idle_timeout=0.3)
        assert log.next(2) == [("ADDED", "a@20"), ("MODIFIED", "a@21")]
        watcher.stop()
    assert collection.versions()[:2] == ["1", "20"]


def test_a_server_that_restarts(watch: Callable[..., tuple[Watcher, Log]]) -> None:
    """The server is away for a second; the watch goes on where it was, and says LOST meanwhile."""
    collection = Collection(events(("ADDED", pod("a", 20)), then=Peer.wait_gone))
    with Server(collection) as server:
        _, log = watch(server)
        assert log.next(1) == [("ADDED", "a@20")]
        server.stop()
        time.sleep(1.0)
        collection.watches = [events(("MODIFIED", pod("a", 21)), then=Peer.wait_gone)]
        with Server(collection, port=server.port):
            assert log.next(1) == [("MODIFIED", "a@21")]
    assert log.seen(WatchState.LOST)
    assert len(collection.lists) == 1


def test_an_overloaded_server_is_not_hammered(watch: Callable[..., tuple[Watcher, Log]]) -> None:
    """Each failure in a row doubles the pause; after five the list is asked again."""
    pauses: list[float] = []

    def busy(request: Request, peer: Peer) -> None:
        peer.refuse(503, "ServiceUnavailable", "starting")

    collection = Collection(*[busy] * 6, events(("ADDED", pod("a", 3)), then=Peer.wait_gone))
    with Server(collection) as server:
        watcher, log = watch(server, pause=pauses.append)
        assert log.next(1) == [("ADDED", "a@3")]
        watcher.stop()
    assert len(pauses) == 6
    assert pauses[0] <= 0.1 < 0.4 <= pauses[4] <= 2.0
    assert len(collection.lists) == 2


def test_a_server_that_hangs_up_at_once_is_not_asked_in_a_tight_loop(
    watch: Callable[..., tuple[Watcher, Log]],
) -> None:
    """A connection that ends at once and brought nothing is a failure, however politely it ended."""
    pauses: list[float] = []
    collection = Collection(*[events(then=end)] * 4)
    with Server(collection) as server:
        watcher, _ = watch(server, pause=pauses.append)
        until(lambda: len(collection.seen) == 5)
        watcher.stop()
    assert len(pauses) == 4


def test_without_permission(watch: Callable[..., tuple[Watcher, Log]]) -> None:
    """Forbidden from the start: said once, in the server's own words, and the watcher ends."""
    words = 'pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "team"'
    with Server(lambda request, peer: peer.refuse(403, "Forbidden", words)) as server:
        watcher, log = watch(server)
        assert not watcher.wait_synced(5)
        watcher.join(5)
        assert watcher.forbidden
        assert len(server.requests) == 1
    assert [state for state, _ in log.states] == [WatchState.FORBIDDEN, WatchState.STOPPED]
    assert log.states[0][1] == words


def test_without_a_login(watch: Callable[..., tuple[Watcher, Log]]) -> None:
    """A server that does not accept the credentials from the start: said once, and the error is kept."""
    with Server(lambda request, peer: peer.refuse(401, "Unauthorized", "Unauthorized")) as server:
        watcher, log = watch(server)
        assert not watcher.wait_synced(5)
        watcher.join(5)
    assert [state for state, _ in log.states] == [WatchState.FAILED, WatchState.STOPPED]
    assert isinstance(watcher.error, ApiError)
    assert watcher.error.status == 401


def test_a_watch_that_was_stopped_reports_no_trouble(watch: Callable[..., tuple[Watcher, Log]]) -> None:
    """What its end looks like to it, an error of the server or of the connection, is nobody's concern."""
    answering = threading.Event()

    def late(request: Request, peer: Peer) -> None:
        answering.wait(5)
        peer.refuse(401, "Unauthorized", "Unauthorized")

    with Server(late) as server:
        watcher, log = watch(server)
        until(lambda: len(server.requests) == 1)
        watcher.stop()
        answering.set()
        watcher.join(5)
    assert [state for state, _ in log.states] == [WatchState.STOPPED]


def test_stop_is_prompt(watch: Callable[..., tuple[Watcher, Log]]) -> None:
    """stop() ends a watch that waits for events at once."""
    with Server(Collection()) as server:
        watcher, log = watch(server)
        watcher.wait_synced(5)
        time.sleep(0.1)
        began = time.monotonic()
        watcher.stop()
        watcher.join(5)
        assert time.monotonic() - began < 0.5
    assert log.states[-1][0] is WatchState.STOPPED
    assert not [thread for thread in threading.enumerate() if thread.name == "kubefunc-watch-pods"]


def test_a_listener_that_fails_is_not_silence(
    watch: Callable[..., tuple[Watcher, Log]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in on_event ends the watcher, which says so: nobody waits for events that will not come."""
    collection = Collection(events(("ADDED", {"metadata": {"uid": "1"}}), then=Peer.wait_gone))
    uncaught: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", uncaught.append)
    with Server(collection) as server:
        watcher, log = watch(server)
        watcher.join(5)
    assert [args.exc_type for args in uncaught] == [KeyError]
    assert log.states[-2] == (WatchState.FAILED, "KeyError: 'name'")


def test_a_tail_begins_now_and_renews_its_version(watch: Callable[..., tuple[Watcher, Log]]) -> None:
    """For Events: what is there is not told, every connection begins at the list's version of that moment."""
    collection = Collection(events(("ADDED", pod("e1", 20)), then=end), events(("ADDED", pod("e2", 90)), then=gone))
    collection.items = [pod("before", 1)]
    with Server(collection) as server:
        watcher, log = watch(server, TailWatcher)
        assert watcher.wait_synced(5)
        collection.version = 70
        assert log.next(2) == [("ADDED", "e1@20"), ("ADDED", "e2@90")]
        collection.version = 95
        until(lambda: len(collection.seen) >= 3)
        watcher.stop()
    assert collection.versions()[0] == "1"
    assert int(collection.versions()[-1]) >= 70
    assert {dict(request.query)["limit"] for request in collection.lists} == {"1"}


# -- one watch for many calls


def pod_of(call: str, version: int) -> dict[str, Any]:
    """The one Pod of a call."""
    made = pod(call, version)
    made["metadata"]["labels"] = {"kubefunc/call": call}
    return made


class Selecting(Collection):
    """Lists only what the selector names."""

    def listed(self, request: Request) -> list[dict[str, Any]]:
        """As a server does."""
        selector = dict(request.query)["labelSelector"]
        return [each for each in self.items if each["metadata"]["labels"]["kubefunc/call"] in selector]

    def selectors(self) -> list[str]:
        """Of the lists."""
        return [dict(request.query)["labelSelector"] for request in self.lists]


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[..., tuple[CallsWatcher, Log]]]:
    """Starts a watch of some calls; stops it at the end."""
    made: list[tuple[Api, CallsWatcher]] = []

    def start(server: Server, *calls: str) -> tuple[CallsWatcher, Log]:
        api, log = Api(config_of(server.url, tmp_path)), Log()
        watcher = CallsWatcher(api, PODS, log.event, log.state)
        made.append((api, watcher))
        for call in calls:
            watcher.add(call)
        watcher.start()
        return watcher, log

    yield start
    for api, watcher in made:
        watcher.stop()
        api.close()
        watcher.join(5)


def test_a_call_is_added_to_a_watch_that_runs(follow: Callable[..., tuple[CallsWatcher, Log]]) -> None:
    """The same two requests are for all calls; what another call has is neither reported again nor taken for gone."""
    collection = Selecting()
    collection.items = [pod_of("f-1", 1), pod_of("f-2", 2), pod_of("f-3", 3)]
    with Server(collection) as server:
        watcher, log = follow(server, "f-1")
        assert log.next(1) == [("ADDED", "f-1@1")]
        watcher.add("f-2")
        watcher.relist()
        assert log.next(1) == [("ADDED", "f-2@2")]
        assert not watcher.remove("f-1")
        watcher.add("f-3")
        watcher.relist()
        assert log.next(1) == [("ADDED", "f-3@3")]
        assert log.events.empty()
        assert collection.selectors() == [
            "kubefunc/call in (f-1)",
            "kubefunc/call in (f-1,f-2)",
            "kubefunc/call in (f-2,f-3)",
        ]
        assert not watcher.remove("f-2")
        assert watcher.remove("f-3")


def test_a_second_follower_of_a_call_hears_all_of_it(follow: Callable[..., tuple[CallsWatcher, Log]]) -> None:
    """Two handles of one call: the later one learns what is there, too, and what goes is told to both."""
    collection = Selecting()
    collection.items = [pod_of("f-1", 1), pod_of("f-2", 2)]
    with Server(collection) as server:
        watcher, log = follow(server, "f-1", "f-2")
        assert log.next(2) == [("ADDED", "f-1@1"), ("ADDED", "f-2@2")]
        watcher.add("f-1")
        watcher.relist()
        assert log.next(1) == [("MODIFIED", "f-1@1")]
        collection.items = [pod_of("f-2", 2)]
        watcher.add("f-1")
        watcher.relist()
        kind, name = log.next(1)[0]
        assert (kind, name.partition("@")[0]) == ("DELETED", "f-1")
        assert not watcher.remove("f-1")


def test_an_object_that_goes_before_the_first_list_is_told_of(
    follow: Callable[..., tuple[CallsWatcher, Log]],
) -> None:
    """Who attaches has seen the Job of a call that may be cancelled in that moment: nobody waits for it in vain."""
    collection = Selecting()
    collection.items = [pod_of("f-2", 2)]
    with Server(collection) as server:
        watcher, log = follow(server, "f-2")
        assert log.next(1) == [("ADDED", "f-2@2")]
        watcher.expect(pod_of("f-1", 1))
        watcher.expect(pod_of("f-2", 2))
        watcher.add("f-1")
        watcher.relist()
        kind, name = log.next(1)[0]
        assert (kind, name.partition("@")[0]) == ("DELETED", "f-1")
        assert log.events.empty()


def test_calls_too_many_to_name(follow: Callable[..., tuple[CallsWatcher, Log]]) -> None:
    """A selector with all their ids would be longer than a proxy takes: then all of kubefunc's are watched."""
    calls = [f"a-function-with-a-long-name-{number:08}" for number in range(200)]
    collection = Collection()
    collection.items = [pod_of(call, 1) for call in calls]
    with Server(collection) as server:
        _, log = follow(server, *calls)
        assert len(log.next(200)) == 200
        assert dict(collection.lists[0].query)["labelSelector"] == "kubefunc/call"

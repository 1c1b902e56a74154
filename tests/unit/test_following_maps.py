"""A map's Pods, told of in any order and as often as it pleases: each item ends once, with its own outcome."""

from __future__ import annotations

import binascii
import pickle
import random
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubefunc.backends.base import Lost, Sink, Whereabouts
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.attempts.items import ItemsSink
from kubefunc.backends.kubernetes.attempts.job_objects import JobObjects
from kubefunc.backends.kubernetes.attempts.layout import Layout
from kubefunc.backends.kubernetes.attempts.map_attempt import ChunkAttempt, MapAttempt
from kubefunc.backends.kubernetes.attempts.pods import Progress
from kubefunc.backends.kubernetes.attempts.receipt import ChunkReceipt
from kubefunc.backends.kubernetes.control.cluster import Cluster
from kubefunc.backends.kubernetes.control.maps import blame
from kubefunc.backends.kubernetes.control.tracker import Tracker
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects.views import Pod, indexes
from kubefunc.backends.kubernetes.results.collect import Collector
from kubefunc.backends.kubernetes.results.output import Outputs
from kubefunc.backends.kubernetes.results.traffic import Traffic
from kubefunc.backends.kubernetes.results.uploads import Uploads
from kubefunc.backends.kubernetes.results.value_streams import ValueStreams
from kubefunc.backends.kubernetes.threads import Clock, Workers
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Envelope
from kubefunc.errors import KubefuncError
from kubefunc.options import Options
from kubefunc.runner import CHUNK
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.protocol.records import Record

CALL = "f-abcdefgh"
KEY = b"k" * 32
UID = "uid-1"


class Items:
    """A map's sink that remembers the first outcome of each item."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.values: dict[int, Any] = {}
        self.errors: dict[int, KubefuncError] = {}
        self.where: dict[int, Phase] = {}
        self.printed: dict[int, bytes] = {}

    @property
    def settled(self) -> bool:
        return len(self.values) + len(self.errors) == self.count

    def missing(self, indexes: Iterable[int]) -> list[int]:
        return [index for index in indexes if index not in self.values and index not in self.errors]

    def has_failures(self, indexes: Iterable[int]) -> bool:
        return any(index in self.errors for index in indexes)

    def lost(self, indexes: Sequence[int], how: Lost) -> None:
        self.fail(indexes, how.error)

    def later(self, indexes: Iterable[int]) -> Items:
        return self

    def opened(self, count: int, function: str) -> None:
        self.count = count

    def moved(self, indexes: Sequence[int], where: Whereabouts) -> None:
        self.where.update(dict.fromkeys(indexes, where.phase))

    def output(self, indexes: Sequence[int], data: bytes) -> None:
        self.printed[indexes[0]] = self.printed.get(indexes[0], b"") + data

    def take(self, outcomes: Sequence[Record]) -> None:
        for each in outcomes:
            if self.missing([each.index]):
                self.values[each.index] = pickle.loads(each.body)

    def fail(self, indexes: Sequence[int] | None, error: KubefuncError) -> None:
        self.errors.update(dict.fromkeys(self.missing(range(self.count) if indexes is None else indexes), error))


def lead_of(sink: Sink, layout: Layout, **changes: Any) -> MapAttempt:
    """The attempt of a map's Job that exists."""
    options = {"verbose": False, **changes}
    return MapAttempt(
        call=CALL,
        job=CALL,
        function="f",
        namespace="team",
        key=KEY,
        options=Options.of(**options),
        sink=ItemsSink(sink, layout.indexes),
        stays=False,
        whole=sink,
        chunks=layout.chunks,
        objects=JobObjects(uid=UID, created=True),
        progress=Progress(Phase.PENDING),
    )


class Following:
    """A tracker and a collector as they are in a session, and a test in place of the cluster."""

    def __init__(self, lead: MapAttempt, kind: type[Collector] = Collector) -> None:
        self.lead = lead
        self.ended: list[int] = []
        self.failed: list[tuple[Attempt, Finding]] = []
        api = cast("Api", None)  # nothing here may ask the cluster for anything
        outputs = Outputs(api)
        permission = ExecPermission(api)
        self.collector = kind(api, outputs, permission, self._done, self._fail)
        uploads = Uploads(api, self.collector.streams, permission, self._fail)
        clock, requests = Clock("test-clock"), Workers("test-requests", 1)
        values = ValueStreams(api, permission, self.collector, self._fail)
        traffic = Traffic(self.collector, outputs, uploads, values)
        self.tracker = Tracker(Cluster(api, "s", requests, clock, permission), traffic, self._fail)
        self.tracker._attempts[lead.job].append(lead)  # tracked, without watches

    def _done(self, attempt: Attempt, envelope: Envelope) -> None:
        assert isinstance(attempt, ChunkAttempt)
        self.ended.append(attempt.number)
        self.lead.end(attempt)

    def _fail(self, attempt: Attempt, finding: Finding) -> None:
        if attempt.claim():
            self.failed.append((attempt, finding))

    def tell(self, events: Iterable[tuple[str, dict[str, Any]]]) -> None:
        for kind, pod in events:
            self.tracker._on_pod(kind, pod)
            assert self.collector._collectors.drain(10)


def pod(number: int, state: str, message: str = "", attempt: int = 0, exit_code: int = 0) -> dict[str, Any]:
    """A Pod of the map in one of its states."""
    status: dict[str, Any] = {"phase": "Pending", "containerStatuses": []}
    if state != "pending":
        details = {"running": {}, "terminated": {"exitCode": exit_code, "message": message}}[state]
        running = {"name": "courier", "state": {"running": {}}}
        status = {"phase": "Running", "containerStatuses": [{"name": "main", "state": {state: details}}, running]}
    return {
        "metadata": {
            "name": f"{CALL}-{number}-x{attempt}",
            "uid": f"pod-{number}-{attempt}",
            "labels": {"batch.kubernetes.io/controller-uid": UID},
            "ownerReferences": [{"kind": "Job", "name": CALL, "uid": UID, "controller": True}],
            "annotations": {"batch.kubernetes.io/job-completion-index": str(number)},
        },
        "spec": {"nodeName": "node"} if state != "pending" else {},
        "status": status,
    }


def inline(number: int, items: Sequence[int], *, complete: bool = True) -> str:
    """The termination message of a chunk whose items doubled their index."""
    bodies = [pickle.dumps(2 * index) for index in items]
    content = b"".join(
        records.pack_record(index, 1.0, 2.0, 1, b"", len(body)) + body
        for index, body in zip(items, bodies, strict=True)
    )
    blocks = records.seal_block(KEY, CALL, number, 0, content) if items else b""
    header = {
        "outcome": CHUNK,
        "call": CALL,
        "chunk": number,
        "blocks": 1 if items else 0,
        "complete": complete,
        "printed": 0,
    }
    data = zlib.compress(blocks + wire.tail(header, KEY))
    return "kubefunc:envelope:" + binascii.b2a_base64(data, newline=False).decode()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.randoms(use_true_random=False), st.integers(0, 12))
def test_status_events_in_any_order(chunks: int, size: int, shuffle: random.Random, twice: int) -> None:
    """Duplicates change nothing, nor does a Pod that is told to run after it was told to have ended."""
    layout = Layout(chunks * size, size, range(chunks * size))
    items = Items(layout.count)
    following = Following(lead_of(items, layout))
    events = [
        ("MODIFIED", each)
        for number, chunk in enumerate(layout.chunks)
        for each in (pod(number, "pending"), pod(number, "running"), pod(number, "terminated", inline(number, chunk)))
    ]
    events += [shuffle.choice(events) for _ in range(twice)]
    shuffle.shuffle(events)
    following.tell(events)
    assert items.values == {index: 2 * index for index in range(layout.count)}
    assert sorted(following.ended) == list(range(chunks))
    assert following.failed == []
    assert following.lead.parts() == [following.lead]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 6), st.randoms(use_true_random=False))
def test_a_pod_that_is_replaced(size: int, before: int, shuffle: random.Random) -> None:
    """What the lost Pod had is taken; its late news do not disturb the one that replaces it."""
    layout = Layout(size, size, range(size))
    items = Items(size)
    following = Following(lead_of(items, layout))
    first = list(range(min(before, size - 1)))
    lost = pod(0, "terminated", inline(0, first, complete=False), exit_code=143)
    old = [("MODIFIED", pod(0, "running")), ("MODIFIED", lost), ("DELETED", lost)]
    new = [pod(0, "pending", attempt=1), pod(0, "running", attempt=1)]
    while old or new:  # each Pod's news in their order, the two mixed
        if old and (not new or shuffle.random() < 0.6):
            following.tell([old.pop(0)])
        else:
            following.tell([("MODIFIED", new.pop(0))])
    # The replacement was told what is here already, and has run the rest.
    rest = items.missing(range(size))
    following.tell([("MODIFIED", pod(0, "terminated", inline(0, rest), attempt=1))])
    assert items.values == {index: 2 * index for index in range(size)}
    assert rest == [index for index in range(size) if index not in first]
    assert following.ended == [0]
    assert following.failed == []


def test_a_container_that_was_killed_names_its_item() -> None:
    """The item in the termination log is at fault; the chunk's others are not."""
    layout = Layout(4, 4, range(4))
    items = Items(4)
    following = Following(lead_of(items, layout))
    following.tell([("MODIFIED", pod(0, "terminated", "kubefunc:at:2                   ", exit_code=137))])
    ((attempt, finding),) = following.failed
    died = attempt.pods.current()
    assert died is not None
    assert died.at == 2
    assert blame(items.missing(range(4)), died.at, finding.reason) == ([2], [0, 1, 3])


def test_a_chunk_whose_outcomes_come_first_is_running() -> None:
    """The courier's stream is faster than the kubelet: what it brings is news, and later news do not undo it."""
    items = Items(3)
    following = Following(lead_of(items, Layout(3, 3, range(3))))
    following.tell([("ADDED", pod(0, "pending"))])
    chunk = following.lead.of_index(0)
    assert chunk is not None
    body = pickle.dumps(0)
    content = records.pack_record(0, 1.0, 2.0, 1, b"", len(body)) + body
    receipt = cast("ChunkReceipt", chunk.receipt_of(f"{CALL}-0-x0"))
    receipt.add(records.seal_block(KEY, CALL, 0, 0, content))
    assert items.values == {0: 0}
    assert items.where == {1: Phase.RUNNING}
    following.tell([("MODIFIED", pod(0, "pending"))])
    assert items.where == {1: Phase.RUNNING}
    following.tell([("MODIFIED", pod(0, "running"))])
    assert items.where == {1: Phase.RUNNING}


class Followed(Collector):
    """Remembers which chunks it was asked to follow."""

    chunks: list[int]

    def follow(self, attempt: Attempt, pod: str) -> None:
        assert isinstance(attempt, ChunkAttempt)
        assert pod == f"{CALL}-{attempt.number}-abcde"
        self.chunks.append(attempt.number)


@pytest.mark.parametrize(("chunks", "express", "followed"), [(4, True, [2]), (5, True, []), (4, False, [])])
def test_a_small_map_is_followed_from_its_start(chunks: int, express: object, followed: list[int]) -> None:
    """Where there are few Pods, each has a stream as soon as its courier has started, as a call has."""
    following = Following(lead_of(Items(chunks), Layout(chunks, 1, range(chunks)), express=express), Followed)
    asked = cast("Followed", following.collector)
    asked.chunks = []
    following.tracker._events.started("ADDED", {"involvedObject": {"name": f"{CALL}-2-abcde"}})
    following.tracker._events.started("ADDED", {"involvedObject": {"name": "another-call-2-abcde"}})
    assert asked.chunks == followed


def waiting(number: int, reason: str, words: str) -> dict[str, Any]:
    """A Pod whose containers cannot start for now."""
    made = pod(number, "running")
    state = {"waiting": {"reason": reason, "message": words}}
    made["status"] = {
        "phase": "Pending",
        "containerStatuses": [{"name": name, "state": state} for name in ("main", "courier")],
    }
    return made


def test_what_passed_does_not_end_the_map_later() -> None:
    """The map waits for what its Pods wait for, and no longer than they do."""
    lead = lead_of(Items(2), Layout(2, 1, range(2)))
    following = Following(lead)
    following.tell([("ADDED", waiting(0, "ErrImagePull", "dial tcp: lookup registry: no such host"))])
    lead.parts()
    assert lead.waiting.finding is not None
    assert lead.progress.phase is Phase.PENDING
    following.tell([("MODIFIED", pod(0, "running"))])
    lead.parts()
    assert lead.waiting.finding is None
    assert lead.progress.phase is Phase.RUNNING
    following.tell([("MODIFIED", pod(0, "terminated", inline(0, [0]))), ("ADDED", pod(1, "pending"))])
    lead.parts()
    assert lead.waiting.finding is None
    assert lead.progress.phase is Phase.PENDING


def test_one_line_says_for_all_what_they_wait_for() -> None:
    """Of a hundred Pods that wait, the first speaks; the Job itself only while it has none."""
    lead = lead_of(Items(3), Layout(3, 1, range(3)))
    following = Following(lead)
    lead.parts()
    assert not lead.waiting.quiet
    following.tell([("ADDED", pod(number, "pending")) for number in range(3)] + [("MODIFIED", pod(0, "running"))])
    assert [part.waiting.quiet for part in lead.parts()] == [True, False, False, True]


def test_a_chunk_of_one_item_is_not_followed() -> None:
    """Its only outcome comes with its Pod's end; a stream for each of 100 such Pods would cost the nodes more."""
    for size, gradual in ((1, False), (2, True)):
        part = lead_of(Items(6), Layout(6, size, range(6))).of_index(0)
        assert part is not None
        assert part.is_gradual is gradual


class JustAfter:
    """A lock; something happens just after the thread that holds it has let it go, once."""

    def __init__(self, what: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._what = what
        self._due = True

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._due:
            self._due = False
            self._what()


def test_an_attempt_that_comes_while_the_last_one_goes_is_looked_at() -> None:
    """Whatever the moment: either this tick sees it, or it starts the ticking again."""
    following = Following(lead_of(Items(1), Layout(1, 1, range(1))))
    tracker, looked_at = following.tracker, []
    looked = threading.Event()
    tracker._checks._look = lambda attempt, now: (looked_at.append(attempt), looked.set())  # type: ignore[method-assign]
    tracker._attempts.clear()
    tracker._ticking = True
    later = lead_of(Items(1), Layout(1, 1, range(1)))
    tracker._lock = JustAfter(lambda: tracker._register(later))  # type: ignore[assignment]
    tracker._tick()
    assert looked.wait(10)
    assert looked_at[0] is later


def test_a_look_that_fails_ends_one_attempt_and_no_other() -> None:
    """Whatever is raised while the clock looks at one of them is told by that one; the others go on."""
    broken, sound = (lead_of(Items(1), Layout(1, 1, range(1))) for _ in range(2))
    following = Following(broken)
    following.tracker._attempts[sound.job].append(sound)
    looks: list[Attempt] = []

    def look(attempt: Attempt, now: float) -> None:
        looks.append(attempt)
        if attempt is broken:
            raise RuntimeError("a fault")

    following.tracker._checks._look = look  # type: ignore[method-assign]
    following.tracker._tick()
    following.tracker._tick()
    assert looks == [broken, sound, sound]
    ((failed, finding),) = following.failed
    assert failed is broken
    assert "RuntimeError: a fault" in finding.words[0]


def test_the_pods_may_change_while_somebody_looks_at_them() -> None:
    """The watch brings news while the clock's thread asks which Pod counts."""
    attempt = lead_of(Items(1), Layout(1, 1, range(1)))

    class Telling:
        """A Pod that is asked about in the moment in which the next one comes."""

        @property
        def deleting(self) -> bool:
            attempt.pods.known["other"] = cast("Pod", self)
            return True

    attempt.pods.known["one"] = cast("Pod", Telling())
    assert attempt.pods.current() is attempt.pods.known["one"]


def test_pods_of_another_job_are_not_ours() -> None:
    """The name of a Job may be used again: the UID decides."""
    layout = Layout(1, 1, range(1))
    following = Following(lead_of(Items(1), layout))
    foreign = pod(0, "terminated", inline(0, [0]))
    foreign["metadata"]["ownerReferences"][0]["uid"] = "another"
    foreign["metadata"]["labels"] = {"batch.kubernetes.io/controller-uid": "another"}
    following.tell([("ADDED", foreign)])
    assert following.ended == []


def test_a_job_that_gives_an_index_up() -> None:
    """Only that chunk has a reason to end; the numbers come as Kubernetes writes them."""
    assert indexes("") == set()
    assert indexes("0,2-4,9") == {0, 2, 3, 4, 9}


@given(st.sets(st.integers(0, 60), min_size=1), st.integers(1, 9))
def test_the_layout_is_read_as_it_was_written(chosen: set[int], size: int) -> None:
    """After retry_failed() the items have gaps: who attaches splits them into the same chunks."""
    layout = Layout(61, size, sorted(chosen))
    again = Layout.from_json(cast("dict[str, Any]", layout.as_json()))
    assert [list(chunk) for chunk in again.chunks] == [list(chunk) for chunk in layout.chunks]
    assert again.count == 61


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_chunk_is_forgotten_when_it_has_ended(count: int) -> None:
    """Attempts are made when a Pod is first seen, and dropped: a map of 10,000 chunks has as many as run."""
    layout = Layout(4, 1, range(4))
    lead = lead_of(Items(4), layout)
    attempts = [cast("ChunkAttempt", lead.of_index(number)) for number in range(4)]
    assert [lead.end(attempt) for attempt in attempts[:count]] == [False] * count
    assert len(lead.living) == 4 - count
    assert [lead.of_index(number) is None for number in range(5)] == [
        number < count or number == 4 for number in range(5)
    ]


def test_of_a_chunk_that_runs_one_item_runs() -> None:
    """The items of a chunk run one after another: those behind the first still wait."""
    whole = Items(7)
    some = ItemsSink(whole, [4, 5, 6])
    some.moved(Whereabouts(Phase.RUNNING))
    assert whole.where == {4: Phase.RUNNING}
    some.take([Record(4, 0.0, 0.0, 1, None, pickle.dumps("done"))])
    assert whole.where == {4: Phase.RUNNING, 5: Phase.RUNNING}
    some.moved(Whereabouts(Phase.FETCHING))
    assert whole.where == {4: Phase.RUNNING, 5: Phase.FETCHING, 6: Phase.FETCHING}

"""More Pods for a map whose items turn out slow: running Pods give back what they have not begun, a new Job runs it.

How long an item takes is not known when a map starts, so it starts with few Pods. Every few moments a round looks at
what runs (:func:`plan`, pure) and asks Pods to give items back; what they give goes into one more Job of the same map
(:func:`spread`, pure). The Pod decides which items it can spare: it knows what it has begun
(:mod:`kubefunc.runner.pod.sharing`).
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kubefunc.backends.kubernetes.api.exec import run
from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused, TransportError
from kubefunc.backends.kubernetes.attempts.map_attempt import ChunkAttempt, MapAttempt
from kubefunc.backends.kubernetes.attempts.receipt import PROGRAM
from kubefunc.backends.kubernetes.control.cluster import Cluster
from kubefunc.backends.kubernetes.control.tracker import Tracker
from kubefunc.backends.kubernetes.threads import Workers

FIRST_ROUND = 1.0  # seconds after which most maps of small items are over
SHORTEST_PAUSE = 1.0  # between two rounds
LONGEST_PAUSE = 30.0
PAUSE_SHARE = 8  # a pause is this fraction of the map's age: a long map is not asked all the time
KEEP = 2.0  # seconds of work that a Pod keeps: a new Pod needs about as long to start
WORTH = 3.0  # seconds of work that are worth a Pod
FEW_MORE = 8  # Pods that a round may add in any case
GROWTH = 4  # Pods that it may add for each that runs: a first look may be wrong
MOST_ASKED = 32  # Pods in one round: each costs an exec
ANSWER_SILENCE = 10.0


@dataclass(frozen=True)
class Running:
    """A chunk whose Pod runs.

    Attributes:
        missing: how many of its items have no outcome yet, as far as is known.
        done: how many have.
        seconds: for how long it has run.
    """

    missing: int
    done: int
    seconds: float

    @property
    def mean(self) -> float:
        """Seconds for each item; a lower bound while none has ended."""
        return self.seconds / max(1, self.done)


@dataclass(frozen=True)
class Round:
    """Which chunks to ask for items, and for how many.

    Attributes:
        asked: positions of the chunks to ask, those with the most items first.
        keep: seconds of work that each may keep.
    """

    asked: tuple[int, ...]
    keep: float


def plan(chunks: Sequence[Running], room: int) -> Round:
    """Ask the chunks that have more to do than their share of what is left, if further Pods may run.

    >>> plan([Running(6, 0, 1.0), Running(6, 0, 1.0)], 498)
    Round(asked=(0, 1), keep=2.0)
    >>> plan([Running(20, 480, 1.0)], 499), plan([Running(6, 0, 9.0)], 0)
    (Round(asked=(), keep=2.0), Round(asked=(), keep=2.0))
    >>> plan([Running(40, 0, 50.0), Running(50, 50, 50.0)], 1)
    Round(asked=(1, 0), keep=30.0)

    Args:
        chunks: all of the map that run.
        room: how many Pods more may run.
    """
    if room < 1 or not chunks:
        return Round((), KEEP)
    keep = max(KEEP, sum(each.missing for each in chunks) * _mean(chunks) / (len(chunks) + room))
    asked = [
        position
        for position, each in enumerate(chunks)
        if each.missing > 1 and each.seconds >= FIRST_ROUND and (each.missing - 1) * each.mean > max(keep, WORTH)
    ]
    asked.sort(key=lambda position: -chunks[position].missing)
    return Round(tuple(asked[:MOST_ASKED]), keep)


def _mean(chunks: Sequence[Running]) -> float:
    """Seconds for an item, by the chunks that have ended some; else the longest that one has had."""
    known = [each for each in chunks if each.done]
    if not known:
        return max(each.seconds for each in chunks)
    return sum(each.seconds for each in known) / sum(each.done for each in known)


def spread(items: int, seconds: float, room: int) -> int:
    """Items for each Pod, where so many take so many seconds one after another and so many Pods may run.

    >>> spread(98, 98.0, 498), spread(98, 98.0, 4), spread(10, 36000.0, 498), spread(200, 2.0, 100)
    (3, 25, 1, 200)
    """
    pods = min(room, max(1, math.ceil(seconds / WORTH)))
    return -(-items // pods)


@dataclass(frozen=True)
class Given:
    """What one Pod has given back; how many items it has begun, and in how many seconds each."""

    items: tuple[int, ...]
    begun: int
    mean: float


class Widening:
    """Rounds for each map of this session that may use more Pods.

    ``start(lead, items, size)`` runs these items of a map in one more Job, in chunks of this size.
    """

    def __init__(
        self,
        cluster: Cluster,
        streams: Workers,
        tracker: Tracker,
        start: Callable[[MapAttempt, Mapping[int, bytes], int], None],
    ) -> None:
        self._cluster = cluster
        self._streams = streams
        self._tracker = tracker
        self._start = start
        self._lock = threading.RLock()
        self._watched: set[str] = set()

    def watch(self, lead: MapAttempt) -> None:
        """Begin rounds for this map, if it shares its items and there are none yet."""
        if not lead.shares:
            return
        with self._lock:
            if lead.call in self._watched:
                return
            self._watched.add(lead.call)
        self._later(lead.call, time.monotonic(), FIRST_ROUND)

    def _later(self, call: str, began: float, pause: float) -> None:
        self._cluster.later(pause, lambda: self._round(call, began))

    def _round(self, call: str, began: float) -> None:
        leads = self._leads(call)
        if not leads:
            with self._lock:
                self._watched.discard(call)
            return

        def next_round() -> None:
            pause = (time.monotonic() - began) / PAUSE_SHARE
            self._later(call, began, min(LONGEST_PAUSE, max(SHORTEST_PAUSE, pause)))

        running = [chunk for lead in leads for chunk in lead.running()]
        room = max(lead.most_pods for lead in leads) - len(running)
        room = min(room, max(FEW_MORE, GROWTH * len(running)))
        # A Pod that waits means that the cluster has no room for those that there are.
        if self._cluster.permission.is_refused(leads[0].namespace) or any(lead.has_waiting_pods() for lead in leads):
            room = 0
        now = time.monotonic()
        wanted = plan([_seen(chunk, now) for chunk in running], room)
        asked = [running[position] for position in wanted.asked if running[position].of.shares]
        self._ask_all(asked, wanted.keep, lambda given: self._take(given, room), next_round)

    def _leads(self, call: str) -> list[MapAttempt]:
        found = self._tracker.of(call)
        return [each for each in found if isinstance(each, MapAttempt) and not each.over and not each.whole.settled]

    def _ask_all(
        self,
        chunks: Sequence[ChunkAttempt],
        keep: float,
        take: Callable[[list[tuple[ChunkAttempt, Given]]], None],
        then: Callable[[], None],
    ) -> None:
        """Ask at once; when the last has answered, what was given is taken. No thread waits for that."""
        given: list[tuple[ChunkAttempt, Given]] = []
        left = itertools.count(len(chunks) - 1, -1)

        def ask(chunk: ChunkAttempt) -> None:
            try:
                said = self._ask(chunk, keep)
                if said is not None:
                    given.append((chunk, said))
            finally:
                if next(left) == 0:
                    self._cluster.soon(finish)

        def finish() -> None:
            try:
                take(given)
            finally:
                then()

        for chunk in chunks:
            self._streams.do(functools.partial(ask, chunk))
        if not chunks:
            then()

    def _take(self, given: Sequence[tuple[ChunkAttempt, Given]], room: int) -> None:
        """Run what was given back in one more Job; in one each for those that have run out of memory before."""
        begun = sum(each.begun for _, each in given)
        mean = sum(each.begun * each.mean for _, each in given) / max(1, begun)
        leads = [chunk.of for chunk, each in given if each.items]
        for whole in dict.fromkeys(lead.whole for lead in leads):
            mine = [(chunk.of, each.items) for chunk, each in given if chunk.of.whole is whole and each.items]
            items = {index: lead.arguments(index) for lead, indexes in mine for index in indexes}
            size = spread(len(items), len(items) * mean, max(1, room))
            room -= -(-len(items) // size)
            self._start(mine[0][0], items, size)

    def _ask(self, chunk: ChunkAttempt, keep: float) -> Given | None:
        """What this chunk gives back; None where no answer comes: the next round asks again."""
        pod = chunk.pods.current()
        if pod is None or pod.courier.state != "running" or chunk.over:
            return None
        command = (*PROGRAM, "sharer", f"{keep:.3f}")
        try:
            text = run(self._cluster.api, chunk.namespace, pod.name, command, silence=ANSWER_SILENCE)
            said = json.loads(text)
        except ExecRefused:
            self._cluster.permission.refused(chunk.namespace)
            return None
        except (TransportError, ValueError):
            return None
        items = chunk.give(pod, said["given"])
        return Given(tuple(items), int(said["begun"]), float(said["mean"]))


def _seen(chunk: ChunkAttempt, now: float) -> Running:
    missing = len(chunk.of.whole.missing(chunk.items))
    since = chunk.progress.running_since or now
    return Running(missing, len(chunk.items) - missing, now - since)

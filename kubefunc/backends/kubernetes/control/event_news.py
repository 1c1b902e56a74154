"""What Events tell before a Pod's or a Job's status does: that a courier has started, that something is wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from kubefunc.backends.kubernetes.attempts.attempt import Attempt, guarded
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.kubernetes.results.traffic import Traffic


class EventNews:
    """Takes in the Events that the watches bring. ``find`` gives the attempts of a Job by its name."""

    def __init__(
        self, find: Callable[[str], Sequence[Attempt]], traffic: Traffic, fail: Callable[[Attempt, Finding], None]
    ) -> None:
        self._find = find
        self._traffic = traffic
        self._fail = fail

    def started(self, kind: str, event: JsonDict) -> None:
        """A courier has started: its Pod's name tells the Job."""
        if kind == "DELETED":
            return
        try:
            pod = fields.text(fields.mapping(event, "involvedObject"), "name")
        except fields.BadObject:
            return
        job, _, _ = pod.rpartition("-")
        attempts = self._find(job)
        if not attempts:
            self._chunk_started(pod)
        for attempt in attempts:
            guarded(attempt, self._fail, functools.partial(self._courier_started, attempt, pod))

    def _courier_started(self, attempt: Attempt, pod: str) -> None:
        self._traffic.uploads.send(attempt, pod)
        self._traffic.values.follow(attempt, pod)
        if self._traffic.collector.is_express(attempt):
            self._traffic.collector.express(attempt, pod)

    def _chunk_started(self, pod: str) -> None:
        """The Pods of an Indexed Job have their index in their names."""
        job, _, index = pod.rpartition("-")[0].rpartition("-")
        for attempt in self._find(job):
            part = attempt.of_index(fields.whole_number(index))
            if part is not None:
                guarded(part, self._fail, functools.partial(self._chunks_courier_started, part, pod))

    def _chunks_courier_started(self, part: Attempt, pod: str) -> None:
        self._traffic.uploads.send(part, pod)
        if part.is_hurried:
            self._traffic.collector.follow(part, pod)

    def warned(self, kind: str, event: JsonDict) -> None:
        """Something is wrong with a Pod or a Job: if it is one of ours, its Events are read soon."""
        about = event["involvedObject"]
        name = about.get("name", "")
        if kind == "DELETED" or about.get("kind") not in ("Pod", "Job"):
            return
        job = name if about["kind"] == "Job" else name.rpartition("-")[0]
        attempts = self._find(job)
        for attempt in attempts:
            attempt.waiting.event_came()
        if not attempts:
            self._chunk_warned(job)

    def _chunk_warned(self, pod: str) -> None:
        """The same for a Pod of a map: its name without the random end is that of the Job and its index."""
        job, _, index = pod.rpartition("-")
        for attempt in self._find(job):
            chunk = attempt.living_part(int(index)) if index.isdigit() else None
            if chunk is not None:
                chunk.waiting.event_came()

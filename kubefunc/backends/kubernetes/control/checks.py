"""What the clock asks about each attempt: what it waits for, how long it may, and when nothing more comes."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator

from kubefunc.backends.base import Whereabouts
from kubefunc.backends.kubernetes.api.answers import is_list
from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.attempts.attempt import Attempt, guarded
from kubefunc.backends.kubernetes.control.cluster import Cluster
from kubefunc.backends.kubernetes.diagnose import ending, starting
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects import fields, views
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.kubernetes.objects.labels import CALL_LABEL
from kubefunc.backends.kubernetes.objects.paths import events_path, pods_path
from kubefunc.backends.kubernetes.objects.views import Job, Pod, items_of
from kubefunc.backends.kubernetes.results.traffic import Traffic
from kubefunc.diagnosis import Phase

SAY_FIRST = 5.0  # seconds of waiting before a line says for what
SAY_AGAIN = 30.0
LOOK_FIRST = 1.0  # seconds without a Pod, or with a Pod that does not start, before its Events are read
LOOK_AGAIN = 2.0
LOOK_SOON = 0.5  # and of one that an Event warns of: more Events may come with it
FOLLOW_AFTER = 1.0
LOST_AFTER = 30.0  # seconds past its grace that a Pod may stay Terminating
COLLECT_AGAIN = 0.5  # seconds after main's end from which the clock asks whether there is a next step
JOB_ENDED_GRACE = 2.0  # a Job's end and its Pod's last status come by different watches


class Checks:
    """Looks at attempts when the tracker's clock ticks. ``learn(attempt, pod)`` takes in what a list of Pods tells."""

    def __init__(
        self,
        cluster: Cluster,
        traffic: Traffic,
        learn: Callable[[Attempt, Pod], None],
        fail: Callable[[Attempt, Finding], None],
    ) -> None:
        self._cluster = cluster
        self._traffic = traffic
        self._learn = learn
        self._fail = fail

    def look_at(self, attempt: Attempt) -> None:
        """Do what is due by now for an attempt, and for each chunk of a map that has a Pod."""
        for part in attempt.parts():
            if not part.over:
                guarded(part, self._fail, functools.partial(self._look, part, time.monotonic()))

    def _look(self, attempt: Attempt, now: float) -> None:
        self._traffic.values.check(attempt)
        if attempt.over:
            return
        if attempt.pods.ended is not None:
            if now - attempt.pods.ended_since > COLLECT_AGAIN:
                self._traffic.collector.collect(attempt)
            return
        if attempt.job_news.finished_since:
            if now - attempt.job_news.finished_since > JOB_ENDED_GRACE and not attempt.job_news.looked_last:
                attempt.job_news.look_last()
                self._cluster.soon(lambda: guarded(attempt, self._fail, lambda: self._look_last(attempt)))
            return
        if attempt.progress.phase is Phase.RUNNING:
            self._look_at_running(attempt, now)
            return
        self.judge(attempt)
        self._look_for_reasons(attempt, now)
        self._say(attempt, now)
        limit = attempt.options.schedule_timeout
        if limit is not None and now - attempt.waiting.since > limit:
            self._fail(attempt, starting.gave_up_waiting(_obstacle(attempt), limit))

    def _look_at_running(self, attempt: Attempt, now: float) -> None:
        pod = attempt.pods.current()
        if pod is None:
            return
        if pod.courier.state == "running":
            self._traffic.uploads.send(attempt, pod.name)
        if attempt.pods.deleting_since and now - attempt.pods.deleting_since > pod.grace + LOST_AFTER:
            self._fail(attempt, ending.lost(pod))
        elif now - attempt.progress.running_since > FOLLOW_AFTER:
            if attempt.options.verbose:
                self._traffic.outputs.follow(attempt, pod)
            if attempt.is_gradual:
                self._traffic.collector.follow(attempt, pod.name)

    def judge(self, attempt: Attempt) -> None:
        """End the call where what stands in its way has lasted long enough to be final."""
        finding = attempt.waiting.finding
        if finding is not None and attempt.waiting.is_final(finding):
            self._fail(attempt, finding)

    def _look_for_reasons(self, attempt: Attempt, now: float) -> None:
        """Read Events where status is silent: no Pod yet, or a Pod whose volumes or sandbox fail."""
        pod = attempt.pods.current()
        if not attempt.objects.created or (pod is not None and starting.start_trouble(pod) is not None):
            return
        looks = attempt.waiting.looks
        if not _is_due(
            attempt, now - (attempt.pods.since or attempt.waiting.since), now - (looks.pods_at if pod else looks.job_at)
        ):
            return
        attempt.waiting.read_events()
        if pod is None:
            looks.read_of_job(now)
        else:
            looks.read_of_pod(now)
        about = pod.uid if pod is not None else attempt.objects.uid
        self._cluster.soon(lambda: guarded(attempt, self._fail, lambda: self._read_events(attempt, about)))

    def _read_events(self, attempt: Attempt, about: str) -> None:
        if attempt.over:
            return
        query = {"fieldSelector": f"involvedObject.uid={about}", "limit": "50"}
        try:
            path = events_path(attempt.namespace)
            events = self._cluster.api.request("GET", path, query=query, is_expected=is_list).body
            pod = attempt.pods.current()
            volumes = pod.volumes if pod is not None else ()
            finding = starting.event_trouble(sorted(items_of(events), key=_when), volumes)
        except (*TROUBLE, fields.BadObject):
            return  # without Events: blinder, never broken
        if finding is not None and attempt.progress.phase in (Phase.PENDING, Phase.STARTING):
            attempt.waiting.found(finding)
            self.judge(attempt)

    def _say(self, attempt: Attempt, now: float) -> None:
        waiting = attempt.waiting
        last_said = waiting.looks.said or waiting.since + SAY_FIRST - SAY_AGAIN
        if waiting.quiet or (now - last_said < SAY_AGAIN and not waiting.has_urgent_news):
            return
        waiting.looks.say(now)
        attempt.sink.moved(Whereabouts(attempt.progress.phase, waiting_for(attempt, now)))

    def _look_last(self, attempt: Attempt) -> None:
        """The Job is over and no Pod of it is known to have left a result: look once before saying so."""
        path, query = pods_path(attempt.namespace), {"labelSelector": f"{CALL_LABEL}={attempt.call}"}
        try:
            pods = items_of(self._cluster.api.request("GET", path, query=query, is_expected=is_list).body)
        except TROUBLE:
            attempt.job_news.look_failed()
            return
        for view in _well_formed(pods):
            part = attempt.of_index(view.index) if view.job_uid == attempt.objects.uid else None
            if part is not None:
                self._learn(part, view)
        job = attempt.job_news.job
        if job is None:
            return
        for part in attempt.without_end():
            self._fail(part, _without_result(part, job))
        if len(attempt.parts()) > 1:  # the results of some are still being fetched, and may be gone in the end
            attempt.job_news.wait_again()


def _obstacle(attempt: Attempt) -> Finding | None:
    """What keeps it from starting. A suspended Job makes no Pod: what was found before is no longer why."""
    job = attempt.job_news.job
    return starting.held_back(job.queue) if job is not None and job.suspended else attempt.waiting.finding


def _is_due(attempt: Attempt, waited: float, since_last: float) -> bool:
    """Whether its Events are to be read again: soon after one that warns, else less and less often."""
    if attempt.waiting.warned:
        return since_last >= LOOK_SOON
    return waited >= LOOK_FIRST and since_last >= (LOOK_AGAIN if waited < 20 else 5 * LOOK_AGAIN)


def _without_result(attempt: Attempt, job: Job) -> Finding:
    """Why there is none, now that the Job is over."""
    lost = ending.main_trouble(attempt.pods.vanished) if attempt.pods.vanished is not None else None
    trouble = lost or ending.job_trouble(job, attempt.pods.last(), attempt.waiting.finding)
    if trouble is not None:
        return trouble
    return ending.taken_too_often(job) if attempt.index_failed(job) else ending.result_gone(job)


def _well_formed(pods: Iterable[JsonDict]) -> Iterator[Pod]:
    """Those of these Pods that are what the API sends."""
    for pod in pods:
        with contextlib.suppress(fields.BadObject):
            yield views.pod_view(pod)


def _when(event: JsonDict) -> str:
    series = fields.mapping(event, "series")
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")


def waiting_for(attempt: Attempt, now: float) -> str:
    """A line for a person: for how long, and for what."""
    waited = f"waiting for {now - attempt.waiting.since:.0f} s"
    obstacle = _obstacle(attempt)
    if obstacle is not None:
        return " ".join((f"{waited}:", obstacle.message, *filter(None, (obstacle.outlook,)), *obstacle.words))
    return f"{waited}: {'the Pod is being started' if attempt.progress.phase is Phase.STARTING else 'no Pod yet'}"

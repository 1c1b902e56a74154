"""What the watches and the clock tell, turned into what is done about each call.

A watch's thread only records and asks others to act: requests, streams and callbacks run elsewhere.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from kubefunc import errors
from kubefunc.backends.base import Whereabouts
from kubefunc.backends.kubernetes.api.answers import is_list
from kubefunc.backends.kubernetes.api.calls_watcher import CallsWatcher
from kubefunc.backends.kubernetes.api.errors import LOG_IN, NOTHING_STARTED, TROUBLE, login_problem, role_lacks
from kubefunc.backends.kubernetes.api.requests import Api, ApiError
from kubefunc.backends.kubernetes.api.watcher import OnState, TailWatcher, Watcher, WatchState
from kubefunc.backends.kubernetes.attempts.attempt import REPLACED, Flight, guarded
from kubefunc.backends.kubernetes.control.attached import AttachedWatches
from kubefunc.backends.kubernetes.control.jobs import jobs_path
from kubefunc.backends.kubernetes.diagnose import ending, starting
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects import fields, views
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.kubernetes.objects.views import Job, Pod, items_of
from kubefunc.backends.kubernetes.results.collect import Collector
from kubefunc.backends.kubernetes.results.output import Outputs
from kubefunc.backends.kubernetes.results.uploads import Uploads
from kubefunc.backends.kubernetes.threads import Clock, Workers
from kubefunc.diagnosis import Phase
from kubefunc.runner import COURIER

TICK = 0.25
SAY_FIRST = 5.0  # seconds of waiting before a line says for what
SAY_AGAIN = 30.0
LOOK_FIRST = 1.0  # seconds without a Pod, or with a Pod that does not start, before its Events are read
LOOK_AGAIN = 2.0
LOOK_SOON = 0.5  # and of one that an Event warns of: more Events may come with it
FOLLOW_AFTER = 1.0
LOST_AFTER = 30.0  # seconds past its grace that a Pod may stay Terminating
COLLECT_AGAIN = 0.5  # seconds after main's end from which the clock asks whether there is a next step
JOB_ENDED_GRACE = 2.0  # a Job's end and its Pod's last status come by different watches
LOGIN_EXPIRED = "your credentials are not accepted any more: log in again, and the call is followed again"
# Only the courier's start: the server filters, and the Event comes a second before the Pod's status.
STARTED = f"reason=Started,involvedObject.fieldPath=spec.containers{{{COURIER}}}"
WARNINGS = "type=Warning"  # of the whole namespace: an Event has no labels to select by


class Tracker:
    """All flights of a session, and the watches that bring their news."""

    def __init__(
        self,
        api: Api,
        session: str,
        requests: Workers,
        clock: Clock,
        collector: Collector,
        outputs: Outputs,
        uploads: Uploads,
        fail: Callable[[Flight, Finding], None],
    ) -> None:
        self._api = api
        self._session = session
        self._requests = requests
        self._clock = clock
        self._collector = collector
        self._outputs = outputs
        self._uploads = uploads
        self._fail = fail
        self._lock = threading.RLock()
        self._flights: dict[str, list[Flight]] = defaultdict(list)
        self._watchers: dict[str, list[Watcher]] = {}
        self._attached: set[Flight] = set()
        self._attached_watches = AttachedWatches(self._attached_watchers, clock)
        self._ticking = False

    # -- the flights

    def add(self, flight: Flight) -> None:
        """Track a flight of this session."""
        self._register(flight)
        self._watch_namespace(flight.namespace)

    def add_attached(self, flight: Flight) -> None:
        """Track a flight of another session, by watches that all such flights of its namespace share."""
        self._register(flight)
        with self._lock:
            self._attached.add(flight)
        self._attached_watches.add(flight.namespace, flight.call)

    def let_go(self, flight: Flight) -> None:
        """No more news for this attempt: its streams end, and the watches that nobody else needs."""
        for part in flight.parts():
            self._collector.release(part)
            self._outputs.release(part)
        with self._lock:
            mine = self._flights.get(flight.job, [])
            if flight in mine:
                mine.remove(flight)
            if not mine:
                self._flights.pop(flight.job, None)
            was_attached = flight in self._attached
            self._attached.discard(flight)
        if was_attached:
            self._attached_watches.remove(flight.namespace, flight.call)

    def of(self, call: str) -> list[Flight]:
        return [flight for flight in self.all() if flight.call == call]

    def all(self) -> list[Flight]:
        with self._lock:
            return self._all()

    def _all(self) -> list[Flight]:
        """The lock is held."""
        return [flight for flights in list(self._flights.values()) for flight in flights]

    def stop(self) -> None:
        """End all watches."""
        with self._lock:
            watchers = [each for group in self._watchers.values() for each in group]
        for watcher in watchers:
            watcher.stop()
        self._attached_watches.stop()

    def _register(self, flight: Flight) -> None:
        with self._lock:
            self._flights[flight.job].append(flight)
            start = not self._ticking
            self._ticking = True
        if start:
            self._clock.after(TICK, self._tick)

    def _of_job(self, job: str, uid: str) -> list[Flight]:
        """Whom news of a Job concerns. Its name is a random one of ours; its UID is known a moment later."""
        with self._lock:
            flights = list(self._flights.get(job, ()))
        return [flight for flight in flights if not flight.over and (not flight.uid or flight.uid == uid)]

    # -- the watches

    def _watch_namespace(self, namespace: str) -> None:
        with self._lock:
            if namespace in self._watchers:
                return
            query = {"labelSelector": f"kubefunc/session={self._session}"}
            events = f"/api/v1/namespaces/{namespace}/events"
            watchers: list[Watcher] = []
            watchers += [
                Watcher(
                    self._api, _pods_path(namespace), query, self._on_pod, self._on_state_in(namespace, watchers, 0)
                ),
                Watcher(
                    self._api, jobs_path(namespace), query, self._on_job, self._on_state_in(namespace, watchers, 1)
                ),
                TailWatcher(self._api, events, {"fieldSelector": STARTED}, self._on_started),
                TailWatcher(self._api, events, {"fieldSelector": WARNINGS}, self._on_warning),
            ]
            self._watchers[namespace] = watchers
            for watcher in watchers:
                watcher.start()

    def _attached_watchers(self, namespace: str) -> tuple[CallsWatcher, CallsWatcher]:
        watchers: list[Watcher] = []
        pair = (
            CallsWatcher(self._api, _pods_path(namespace), self._on_pod, self._on_state_in(namespace, watchers, 0)),
            CallsWatcher(self._api, jobs_path(namespace), self._on_job, self._on_state_in(namespace, watchers, 1)),
        )
        watchers += pair
        return pair

    def _on_state_in(self, namespace: str, watchers: Sequence[Watcher], position: int) -> OnState:
        """For the watcher that will be at this position."""

        def on_state(state: WatchState, words: str) -> None:
            error = watchers[position].error
            if state in (WatchState.FORBIDDEN, WatchState.FAILED):
                self._watch_failed(namespace, error, words)
            elif state is WatchState.LOST and login_problem(error) is not None:
                self._say_login(namespace)

        return on_state

    def _watch_failed(self, namespace: str, error: Exception | None, words: str) -> None:
        with self._lock:
            watchers = self._watchers.pop(namespace, [])
        for watcher in watchers:
            watcher.stop()
        self._attached_watches.drop(namespace)
        for flight in self.all():
            if flight.namespace == namespace:
                self._fail(flight, _cannot_be_followed(error, words, flight.created))

    def _say_login(self, namespace: str) -> None:
        """The credentials have expired while calls run: they go on, and are followed again after a login."""
        for flight in self.all():
            if flight.namespace == namespace and not flight.over:
                flight.sink.moved(Whereabouts(flight.where, LOGIN_EXPIRED))

    # -- news of Pods

    def _on_pod(self, kind: str, pod: JsonDict) -> None:
        try:
            job, uid, index = views.owner_of(pod)
            parts = [part for flight in self._of_job(job, uid) if (part := flight.of_index(index)) is not None]
            if not parts:
                return  # most news of a map's Pods come when these have ended
            view = views.pod_view(pod)
        except fields.BadObject:
            return
        learn = self._pod_gone if kind == "DELETED" else self._pod_news
        for part in parts:
            guarded(part, self._fail, functools.partial(learn, part, view))

    def _pod_news(self, flight: Flight, pod: Pod) -> None:
        with flight.lock:
            if pod.uid in flight.written_off:
                return
            if pod.uid not in flight.pods:
                flight.pod_since = time.monotonic()
            flight.pods[pod.uid] = pod
            flight.move(pod)
            flight.deleting_since = (flight.deleting_since or time.monotonic()) if pod.deleting else 0.0
        if pod.main.state == "terminated":
            self._main_ended(flight, pod)
            return
        if pod.courier.state == "running":
            self._uploads.send(flight, pod.name)
        trouble = ending.pod_end_trouble(pod) or ending.courier_trouble(pod)
        if trouble is not None:
            self._fail(flight, trouble)
            return
        flight.found(starting.start_trouble(pod) if pod.where is not Phase.RUNNING else None)
        self._judge(flight)

    def _main_ended(self, flight: Flight, pod: Pod) -> None:
        with flight.lock:
            flight.found(None)
            if not pod.has_result and ending.main_trouble(pod) is None:
                flight.write_off(pod)  # SIGTERM without a result
                return
            flight.ended_pod = pod
            flight.ended_since = flight.ended_since or time.monotonic()
        self._collector.collect(flight)

    def _pod_gone(self, flight: Flight, pod: Pod) -> None:
        with flight.lock:
            if flight.pods.pop(pod.uid, None) is None:
                return
            if flight.ended_pod is not None and flight.ended_pod.uid == pod.uid:
                flight.vanished, flight.ended_pod = flight.ended_pod, None
            if not flight.pods:
                flight.wait_for_another_pod(REPLACED)

    def _on_started(self, kind: str, event: JsonDict) -> None:
        """A courier has started: its Pod's name tells the Job."""
        if kind == "DELETED":
            return
        try:
            pod = fields.text(fields.mapping(event, "involvedObject"), "name")
        except fields.BadObject:
            return
        job, _, _ = pod.rpartition("-")
        with self._lock:
            flights = list(self._flights.get(job, ()))
        if not flights:
            self._chunk_started(pod)
        for flight in flights:
            guarded(flight, self._fail, functools.partial(self._courier_started, flight, pod))

    def _courier_started(self, flight: Flight, pod: str) -> None:
        self._uploads.send(flight, pod)
        if self._collector.is_express(flight):
            self._collector.express(flight, pod)

    def _chunk_started(self, pod: str) -> None:
        """The Pods of an Indexed Job have their index in their names."""
        job, _, index = pod.rpartition("-")[0].rpartition("-")
        with self._lock:
            flights = list(self._flights.get(job, ()))
        for flight in flights:
            part = flight.of_index(fields.whole_number(index))
            if part is not None:
                guarded(part, self._fail, functools.partial(self._chunks_courier_started, part, pod))

    def _chunks_courier_started(self, part: Flight, pod: str) -> None:
        self._uploads.send(part, pod)
        if part.is_hurried:
            self._collector.follow(part, pod)

    def _on_warning(self, kind: str, event: JsonDict) -> None:
        """Something is wrong with a Pod or a Job: if it is one of ours, its Events are read soon."""
        about = event["involvedObject"]
        name = about.get("name", "")
        if kind == "DELETED" or about.get("kind") not in ("Pod", "Job"):
            return
        job = name if about["kind"] == "Job" else name.rpartition("-")[0]
        with self._lock:
            flights = list(self._flights.get(job, ()))
        for flight in flights:
            flight.warned = True
        if not flights:
            self._chunk_warned(job)

    def _chunk_warned(self, pod: str) -> None:
        """The same for a Pod of a map: its name without the random end is that of the Job and its index."""
        job, _, index = pod.rpartition("-")
        with self._lock:
            flights = list(self._flights.get(job, ()))
        for flight in flights:
            chunk = flight.living_part(int(index)) if index.isdigit() else None
            if chunk is not None:
                chunk.warned = True

    # -- news of Jobs

    def _on_job(self, kind: str, job: JsonDict) -> None:
        try:
            view = views.job_view(job)
        except fields.BadObject:
            return
        for flight in self._of_job(view.name, view.uid):
            if kind != "DELETED":
                guarded(flight, self._fail, functools.partial(flight.saw, view))
            elif flight.uid and not flight.delete_wanted:
                self._fail(flight, ending.deleted(flight.job))

    def _look_last(self, flight: Flight) -> None:
        """The Job is over and no Pod of it is known to have left a result: look once before saying so."""
        path, query = _pods_path(flight.namespace), {"labelSelector": f"kubefunc/call={flight.call}"}
        try:
            pods = items_of(self._api.request("GET", path, query=query, is_expected=is_list).body)
        except TROUBLE:
            flight.looked_last = False  # the clock asks again
            return
        for view in _well_formed(pods):
            part = flight.of_index(view.index) if view.job_uid == flight.uid else None
            if part is not None:
                self._pod_news(part, view)
        job = flight.job_seen
        if job is None:
            return
        for part in flight.without_end():
            self._fail(part, _without_result(part, job))
        if len(flight.parts()) > 1:  # the results of some are still being fetched, and may be gone in the end
            flight.finished_since, flight.looked_last = time.monotonic(), False

    # -- time

    def _tick(self) -> None:
        with self._lock:  # at once: a flight that is added meanwhile starts the ticking again, or is seen here
            flights = self._all()
            self._ticking = bool(flights)
        try:
            for flight in flights:
                guarded(flight, self._fail, functools.partial(self._look_at_parts, flight))
            self._collector.make_way()
        finally:  # one that fails is no reason to leave all others waiting
            if flights:
                self._clock.after(TICK, self._tick)

    def _look_at_parts(self, flight: Flight) -> None:
        for part in flight.parts():
            if not part.over:
                guarded(part, self._fail, functools.partial(self._look_at, part, time.monotonic()))

    def _look_at(self, flight: Flight, now: float) -> None:
        if flight.ended_pod is not None:
            if now - flight.ended_since > COLLECT_AGAIN:
                self._collector.collect(flight)
            return
        if flight.finished_since:
            if now - flight.finished_since > JOB_ENDED_GRACE and not flight.looked_last:
                flight.looked_last = True
                self._requests.do(lambda: guarded(flight, self._fail, lambda: self._look_last(flight)))
            return
        if flight.where is Phase.RUNNING:
            self._look_at_running(flight, now)
            return
        self._judge(flight)
        self._look_for_reasons(flight, now)
        self._say(flight, now)
        limit = flight.options.schedule_timeout
        if limit is not None and now - flight.born > limit:
            self._fail(flight, starting.gave_up_waiting(flight.finding, limit))

    def _look_at_running(self, flight: Flight, now: float) -> None:
        pod = flight.pod()
        if pod is None:
            return
        if pod.courier.state == "running":
            self._uploads.send(flight, pod.name)
        if flight.deleting_since and now - flight.deleting_since > pod.grace + LOST_AFTER:
            self._fail(flight, ending.lost(pod))
        elif now - flight.running_since > FOLLOW_AFTER:
            if flight.options.verbose:
                self._outputs.follow(flight, pod)
            if flight.is_gradual:
                self._collector.follow(flight, pod.name)

    def _judge(self, flight: Flight) -> None:
        """End the call where what stands in its way has lasted long enough to be final."""
        finding = flight.finding
        if finding is None or finding.fatal_after is None:
            return
        if time.monotonic() - flight.finding_since >= finding.fatal_after:
            self._fail(flight, finding)

    def _look_for_reasons(self, flight: Flight, now: float) -> None:
        """Read Events where status is silent: no Pod yet, or a Pod whose volumes or sandbox fail."""
        pod = flight.pod()
        if not flight.created or (pod is not None and starting.start_trouble(pod) is not None):
            return
        looks = flight.looks
        if not _is_due(flight, now - (flight.pod_since or flight.born), now - (looks.pods_at if pod else looks.job_at)):
            return
        flight.warned = False
        if pod is None:
            looks.job_at = now
        else:
            looks.pods_at = now
        about = pod.uid if pod is not None else flight.uid
        self._requests.do(lambda: guarded(flight, self._fail, lambda: self._read_events(flight, about)))

    def _read_events(self, flight: Flight, about: str) -> None:
        if flight.over:
            return
        query = {"fieldSelector": f"involvedObject.uid={about}", "limit": "50"}
        try:
            path = f"/api/v1/namespaces/{flight.namespace}/events"
            events = self._api.request("GET", path, query=query, is_expected=is_list).body
            finding = starting.event_trouble(sorted(items_of(events), key=_when))
        except (*TROUBLE, fields.BadObject):
            return  # without Events: blinder, never broken
        if finding is not None and flight.where in (Phase.PENDING, Phase.STARTING):
            flight.found(finding)
            self._judge(flight)

    def _say(self, flight: Flight, now: float) -> None:
        if flight.quiet or now - (flight.looks.said or flight.born + SAY_FIRST - SAY_AGAIN) < SAY_AGAIN:
            return
        flight.looks.said = now
        flight.sink.moved(Whereabouts(flight.where, waiting_for(flight, now)))


def _is_due(flight: Flight, waited: float, since_last: float) -> bool:
    """Whether its Events are to be read again: soon after one that warns, else less and less often."""
    if flight.warned:
        return since_last >= LOOK_SOON
    return waited >= LOOK_FIRST and since_last >= (LOOK_AGAIN if waited < 20 else 5 * LOOK_AGAIN)


def _without_result(flight: Flight, job: Job) -> Finding:
    """Why there is none, now that the Job is over."""
    lost = ending.main_trouble(flight.vanished) if flight.vanished is not None else None
    trouble = lost or ending.job_trouble(job, flight.last_pods(), flight.finding)
    if trouble is not None:
        return trouble
    return ending.taken_too_often(job) if flight.index_failed(job) else ending.result_gone(job)


def _cannot_be_followed(error: Exception | None, words: str, created: bool) -> Finding:
    login = login_problem(error)
    if login is not None:
        advice = LOG_IN if created else f"{LOG_IN} {NOTHING_STARTED}"
        return Finding(errors.AuthenticationError, "Unauthorized", login, advice, _other(words, login))
    if isinstance(error, errors.ConfigurationError):
        return Finding(errors.ConfigurationError, "Configuration", str(error), "" if created else NOTHING_STARTED)
    if isinstance(error, ApiError) and error.status == 403:
        lacking = role_lacks(words)
        message, advice = lacking or ("The call cannot be followed.", "The user's Role needs list and watch of pods.")
        return Finding(errors.PermissionDeniedError, "Forbidden", message, advice, (words,))
    message = "The call cannot be followed: the connection to the cluster failed for good."
    return Finding(errors.ClusterUnreachableError, "WatchFailed", message, "Attach to it when that is well.", (words,))


def _other(words: str, message: str) -> tuple[str, ...]:
    return (words,) if words != message else ()


def _pods_path(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods"


def _well_formed(pods: Iterable[JsonDict]) -> Iterator[Pod]:
    """Those of these Pods that are what the API sends."""
    for pod in pods:
        with contextlib.suppress(fields.BadObject):
            yield views.pod_view(pod)


def _when(event: JsonDict) -> str:
    series = fields.mapping(event, "series")
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")


def waiting_for(flight: Flight, now: float) -> str:
    """A line for a person: for how long, and for what."""
    waited = f"waiting for {now - flight.born:.0f} s"
    if flight.job_seen is not None and flight.job_seen.suspended:
        return f"{waited}: the Job is suspended, queued by Kueue or held by someone"
    if flight.finding is not None:
        return f"{waited}: {flight.finding.message} {' '.join(flight.finding.words)}"
    return f"{waited}: {'the Pod is being started' if flight.where is Phase.STARTING else 'no Pod yet'}"

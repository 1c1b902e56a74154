"""What the watches and the clock tell, turned into what is done about each call.

A watch's thread only records and asks others to act: requests, streams and callbacks run elsewhere.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from kubefunc import errors
from kubefunc.backends.base import Whereabouts
from kubefunc.backends.kubernetes.api.calls_watcher import CallsWatcher
from kubefunc.backends.kubernetes.api.errors import LOG_IN, NOTHING_STARTED, login_problem, role_lacks
from kubefunc.backends.kubernetes.api.requests import ApiError
from kubefunc.backends.kubernetes.api.watcher import OnState, TailWatcher, Watcher, WatchState
from kubefunc.backends.kubernetes.attempts.attempt import REPLACED, Attempt, guarded
from kubefunc.backends.kubernetes.control.attached import AttachedWatches
from kubefunc.backends.kubernetes.control.checks import Checks
from kubefunc.backends.kubernetes.control.cluster import Cluster
from kubefunc.backends.kubernetes.control.event_news import EventNews
from kubefunc.backends.kubernetes.diagnose import ending, starting
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects import fields, views
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.kubernetes.objects.labels import CALL_LABEL
from kubefunc.backends.kubernetes.objects.paths import events_path, jobs_path, pods_path
from kubefunc.backends.kubernetes.objects.views import Pod
from kubefunc.backends.kubernetes.results.traffic import Traffic
from kubefunc.diagnosis import Phase
from kubefunc.runner import COURIER

TICK = 0.25
LOGIN_EXPIRED = "your credentials are not accepted any more: log in again, and the call is followed again"
# Only the courier's start: the server filters, and the Event comes a second before the Pod's status.
STARTED = f"reason=Started,involvedObject.fieldPath=spec.containers{{{COURIER}}}"
WARNINGS = "type=Warning"  # of the whole namespace: an Event has no labels to select by


class Tracker:
    """All attempts of a session, and the watches that bring their news."""

    def __init__(self, cluster: Cluster, traffic: Traffic, fail: Callable[[Attempt, Finding], None]) -> None:
        self._cluster = cluster
        self._api = cluster.api
        self._traffic = traffic
        self._collector = traffic.collector
        self._uploads = traffic.uploads
        self._events = EventNews(self._of_name, traffic, fail)
        self._fail = fail
        self._checks = Checks(cluster, traffic, self._pod_news, fail)
        self._lock = threading.RLock()
        self._attempts: dict[str, list[Attempt]] = defaultdict(list)
        self._watchers: dict[str, list[Watcher]] = {}
        self._attached: set[Attempt] = set()
        self._attached_watches = AttachedWatches(self._attached_watchers, cluster.clock)
        self._ticking = False

    # -- the attempts

    def add(self, attempt: Attempt) -> None:
        """Track an attempt of this session."""
        self._register(attempt)
        self._watch_namespace(attempt.namespace)

    def add_attached(self, attempt: Attempt) -> None:
        """Track an attempt of another session, by watches that all such attempts of its namespace share."""
        self._register(attempt)
        with self._lock:
            self._attached.add(attempt)
        labels = {CALL_LABEL: attempt.call}
        job = {"kind": "Job", "metadata": {"name": attempt.job, "uid": attempt.objects.uid, "labels": labels}}
        self._attached_watches.add(attempt.namespace, attempt.call, job)

    def let_go(self, attempt: Attempt) -> None:
        """No more news for this attempt: its streams end, and the watches that nobody else needs."""
        for part in attempt.parts():
            self._traffic.release(part)
        with self._lock:
            mine = self._attempts.get(attempt.job, [])
            if attempt in mine:
                mine.remove(attempt)
            if not mine:
                self._attempts.pop(attempt.job, None)
            was_attached = attempt in self._attached
            self._attached.discard(attempt)
        if was_attached:
            self._attached_watches.remove(attempt.namespace, attempt.call)

    def of(self, call: str) -> list[Attempt]:
        return [attempt for attempt in self.all() if attempt.call == call]

    def all(self) -> list[Attempt]:
        with self._lock:
            return self._all()

    def _all(self) -> list[Attempt]:
        """The lock is held."""
        return [attempt for attempts in list(self._attempts.values()) for attempt in attempts]

    def stop(self, seconds: float) -> None:
        """End all watches, and wait so long for their threads."""
        with self._lock:
            watchers = [each for group in self._watchers.values() for each in group]
        watchers += self._attached_watches.all()
        for watcher in watchers:
            watcher.stop()
        until = time.monotonic() + seconds
        for watcher in watchers:
            watcher.join(max(0.0, until - time.monotonic()))

    def _register(self, attempt: Attempt) -> None:
        with self._lock:
            self._attempts[attempt.job].append(attempt)
            start = not self._ticking
            self._ticking = True
        if start:
            self._cluster.clock.after(TICK, self._tick)

    def _of_name(self, job: str) -> list[Attempt]:
        with self._lock:
            return list(self._attempts.get(job, ()))

    def _of_job(self, job: str, uid: str) -> list[Attempt]:
        """The attempts affected by an event of this Job. We know its random name before its UID."""
        return [attempt for attempt in self._of_name(job) if not attempt.over and attempt.objects.is_job(uid)]

    # -- the watches

    def _watch_namespace(self, namespace: str) -> None:
        with self._lock:
            if namespace in self._watchers:
                return
            query = {"labelSelector": f"kubefunc/session={self._cluster.session}"}
            events = events_path(namespace)
            watchers: list[Watcher] = []
            watchers += [
                Watcher(
                    self._api, pods_path(namespace), query, self._on_pod, self._on_state_in(namespace, watchers, 0)
                ),
                Watcher(
                    self._api, jobs_path(namespace), query, self._on_job, self._on_state_in(namespace, watchers, 1)
                ),
                TailWatcher(self._api, events, {"fieldSelector": STARTED}, self._events.started),
                TailWatcher(self._api, events, {"fieldSelector": WARNINGS}, self._events.warned),
            ]
            self._watchers[namespace] = watchers
            for watcher in watchers:
                watcher.start()

    def _attached_watchers(self, namespace: str) -> tuple[CallsWatcher, CallsWatcher]:
        watchers: list[Watcher] = []
        pair = (
            CallsWatcher(self._api, pods_path(namespace), self._on_pod, self._on_state_in(namespace, watchers, 0)),
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
        for attempt in self.all():
            if attempt.namespace == namespace:
                self._fail(attempt, _cannot_be_followed(error, words, attempt.objects.created))

    def _say_login(self, namespace: str) -> None:
        """The credentials have expired while calls run: they go on, and are followed again after a login."""
        for attempt in self.all():
            if attempt.namespace == namespace and not attempt.over:
                attempt.sink.moved(Whereabouts(attempt.progress.phase, LOGIN_EXPIRED))

    # -- news of Pods

    def _on_pod(self, kind: str, pod: JsonDict) -> None:
        try:
            job, uid, index = views.owner_of(pod)
            parts = [part for attempt in self._of_job(job, uid) if (part := attempt.of_index(index)) is not None]
            if not parts:
                return  # most news of a map's Pods come when these have ended
            view = views.pod_view(pod)
        except fields.BadObject:
            return
        learn = self._pod_gone if kind == "DELETED" else self._pod_news
        for part in parts:
            guarded(part, self._fail, functools.partial(learn, part, view))

    def _pod_news(self, attempt: Attempt, pod: Pod) -> None:
        with attempt.lock:
            if not attempt.pods.saw(pod):
                return
            attempt.move(pod)
        if pod.main.state == "terminated":
            self._main_ended(attempt, pod)
            return
        if pod.courier.state == "running":
            self._uploads.send(attempt, pod.name)
        trouble = ending.pod_end_trouble(pod) or ending.courier_trouble(pod)
        if trouble is not None:
            self._fail(attempt, trouble)
            return
        is_running = pod.where is Phase.RUNNING
        attempt.waiting.found(None if is_running else starting.start_trouble(pod, attempt.default_image))
        self._checks.judge(attempt)

    def _main_ended(self, attempt: Attempt, pod: Pod) -> None:
        with attempt.lock:
            attempt.waiting.found(None)
            if not pod.has_result and ending.main_trouble(pod) is None:
                attempt.write_off(pod)  # SIGTERM without a result
                return
            attempt.pods.main_ended(pod)
        self._collector.collect(attempt)

    def _pod_gone(self, attempt: Attempt, pod: Pod) -> None:
        with attempt.lock:
            if attempt.pods.lost(pod) and not attempt.pods.known:
                attempt.wait_for_another_pod(REPLACED)

    # -- news of Jobs

    def _on_job(self, kind: str, job: JsonDict) -> None:
        try:
            view = views.job_view(job)
        except fields.BadObject:
            return
        for attempt in self._of_job(view.name, view.uid):
            if kind != "DELETED":
                guarded(attempt, self._fail, functools.partial(attempt.saw, view))
            elif attempt.objects.uid and not attempt.objects.delete_wanted:
                self._fail(attempt, self._deleted(attempt))

    def _deleted(self, attempt: Attempt) -> Finding:
        with self._lock:
            is_attached = attempt in self._attached
        return (ending.deleted_meanwhile if is_attached else ending.deleted)(attempt.job)

    # -- the clock

    def _tick(self) -> None:
        with self._lock:  # at once: an attempt that is added meanwhile starts the ticking again, or is seen here
            attempts = self._all()
            self._ticking = bool(attempts)
        try:
            for attempt in attempts:
                guarded(attempt, self._fail, functools.partial(self._checks.look_at, attempt))
            self._collector.make_way()
        finally:  # one that fails is no reason to leave all others waiting
            if attempts:
                self._cluster.clock.after(TICK, self._tick)


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

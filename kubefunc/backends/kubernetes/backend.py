"""Calls as Jobs: creates them, follows them, fetches what they leave, and cleans up.

Threads, 40 at most with the caller's own: requests, streams (exec), log followers, collectors, three watches, a clock.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, cast

from kubefunc import errors
from kubefunc.archive import archive_bytes
from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes import explain, manifest
from kubefunc.backends.kubernetes.api import Api, ApiError, ConnectionFailed, as_error
from kubefunc.backends.kubernetes.collect import Collector
from kubefunc.backends.kubernetes.flight import Flight
from kubefunc.backends.kubernetes.kubeconfig import ClusterConfig
from kubefunc.backends.kubernetes.transport import ExecRefused, TransportError, upload
from kubefunc.backends.kubernetes.watcher import TailWatcher, Watcher, WatchState
from kubefunc.backends.kubernetes.workers import Clock, Workers
from kubefunc.diagnosis import Phase
from kubefunc.options import Options
from kubefunc.payload import Packer, runner_spec
from kubefunc.runner import ARCHIVE, COURIER, MAIN

JsonDict = dict[str, Any]

REQUEST_THREADS = 6
TICK = 0.25
SAY_FIRST = 5.0  # seconds of waiting before a line says for what
SAY_AGAIN = 30.0
LOOK_FIRST = 1.0  # seconds without a Pod, or with a Pod that does not start, before its Events are read
LOOK_AGAIN = 2.0
FOLLOW_AFTER = 1.0
LOST_AFTER = 30.0  # seconds past its grace that a Pod may stay Terminating
JOB_FAILED_GRACE = 2.0  # a Job's failure and its Pod's last status come by different watches
RETRY_DELAY = 5.0
UPLOADER = ("python3", "-I", "-S", "-E", f"/kubefunc/in/{ARCHIVE}", "uploader")
_DELETE = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}


class KubernetesBackend:
    """Implements :class:`kubefunc.backends.base.Backend` on one cluster."""

    name = "kubernetes"

    def __init__(self, config: ClusterConfig, session: str) -> None:
        self._config = config
        self._session = session
        self.packer = Packer.for_cluster()
        self.api = Api(config)
        self._requests = Workers("kubefunc-requests", REQUEST_THREADS)
        self._clock = Clock("kubefunc-clock")
        self._collector = Collector(self.api, self._ended)
        self._lock = threading.Lock()
        self._flights: dict[str, Flight] = {}
        self._watchers: dict[str, list[Watcher]] = {}
        self._attached: dict[str, list[Watcher]] = {}
        self._ticking = False
        self._closing = False

    def introduce(self) -> str:
        return f"calls run on Kubernetes: context {self._config.context}, namespace {self._config.namespace}"

    # -- from above

    def submit(self, submission: Submission, sink: Sink) -> None:
        options = submission.options
        namespace = options.namespace or self._config.namespace
        spec = self._job_spec(submission, namespace)
        manifest.job(spec)  # a pod_template that cannot work is refused here, in the caller's thread
        flight = Flight(
            call=submission.call,
            job=spec.name,
            function=submission.function,
            namespace=namespace,
            key=submission.key,
            options=options,
            sink=sink,
            stays=options.detach,
            submission=submission,
        )
        self._register(flight)
        self._watch_namespace(namespace)
        self._requests.do(lambda: self._create(flight, spec))

    def attach(self, call: str, sink: Sink) -> None:
        namespace, _, name = call.rpartition("/")
        namespace = namespace or self._config.namespace
        self._requests.do(lambda: self._attach(name, namespace, sink))

    def cancel(self, call: str) -> None:
        for flight in self._of(call):
            flight.cancelled = True
            if flight.claim():
                self._let_go(flight)
            self._want_deleted(flight)

    def discard(self, call: str) -> None:
        for flight in self._of(call):
            flight.claim()
            self._let_go(flight)
        namespace = self._namespace_of(call)
        try:
            for job in self._list(f"/apis/batch/v1/namespaces/{namespace}/jobs", f"kubefunc/call={call}"):
                self._delete_job(namespace, job["metadata"]["name"])
            self._delete_secret(namespace, call)
        except (ApiError, ConnectionFailed) as error:
            raise as_error(error) from error

    def logs(self, call: str, follow: bool) -> Iterator[bytes]:
        namespace = self._namespace_of(call)
        pods = self._list(f"/api/v1/namespaces/{namespace}/pods", f"kubefunc/call={call}")
        for pod in pods:
            path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}/log"
            if not follow:
                with contextlib.suppress(ApiError):  # its container has not started
                    yield self.api.read_bytes(path, query={"container": MAIN})
                continue
            with self.api.stream_bytes(path, {"container": MAIN, "follow": "true"}, idle_timeout=4 * 3600) as stream:
                yield from stream

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        """In the main thread; the daemon threads still run and finish what they have."""
        until = time.monotonic() + timeout
        left = []
        for call in unfinished:
            for flight in self._of(call):
                flight.cancelled = True
                flight.claim()
                if not self._delete_now(flight, until):
                    left.append(call)
        self._collector.drain(max(0.0, until - time.monotonic()))
        self._requests.drain(max(0.0, until - time.monotonic()))
        self._closing = True
        for watchers in [*self._watchers.values(), *self._attached.values()]:
            for watcher in watchers:
                watcher.stop()
        return left

    # -- creating

    def _job_spec(self, submission: Submission, namespace: str) -> manifest.JobSpec:
        payload, options = submission.payload.data, submission.options
        uploads = len(payload) > manifest.SECRETS_LIMIT
        spec = runner_spec(
            call=submission.call,
            function=submission.function,
            timeout=options.timeout,
            retries=options.retries,
            inline=options.inline,
            results_in_log=options.results_in_log,
            fetch_grace=0.0 if options.detach or self._collector.exec_refused else options.fetch_grace,
            result_ttl=options.result_ttl,
            pull_allowance=options.pull_allowance,
            nested=options.service_account is not None,
            upload=uploads,
        )
        spec["express"] = self._is_express(options)
        files = {ARCHIVE: archive_bytes(), "spec.json": json.dumps(spec).encode(), "key": submission.key}
        if not uploads:
            files[manifest.PAYLOAD] = payload
        return manifest.JobSpec(
            call=submission.call,
            session=self._session,
            function=submission.function,
            namespace=namespace,
            options=options,
            files=files,
            attempt=submission.attempt,
        )

    def _is_express(self, options: Options) -> bool:
        return options.express and not options.detach and not self._collector.exec_refused

    def _create(self, flight: Flight, spec: manifest.JobSpec) -> None:
        """Secret first, then the Job: a Pod that misses its Secret backs off for minutes (k8s#95778)."""
        if flight.over:
            return
        made: list[str] = []
        try:
            for secret in cast("list[JsonDict]", manifest.secrets(spec)):
                self._post(f"/api/v1/namespaces/{flight.namespace}/secrets", secret)
                made.append(secret["metadata"]["name"])
            if flight.over:
                self._delete_secrets(flight.namespace, made)
                return
            reply = self._post(f"/apis/batch/v1/namespaces/{flight.namespace}/jobs", manifest.job(spec))
        except (ApiError, ConnectionFailed) as error:
            self._not_created(flight, spec, made, error)
            return
        with flight.lock:
            flight.secrets = tuple(made)
            flight.uid = reply["metadata"]["uid"]
            flight.created = True
            if flight.where is Phase.SUBMITTING:
                flight.where = Phase.PENDING
                flight.sink.moved(Whereabouts(Phase.PENDING))
        self._requests.do(lambda: self._own(flight))

    def _post(self, path: str, body: JsonDict) -> JsonDict:
        """Create an object. One of our name that is there already is ours: an earlier try was carried out unseen."""
        try:
            return self.api.request("POST", path, body=body).body
        except ApiError as error:
            if error.already_exists and error.attempts > 1:
                return self.api.request("GET", f"{path}/{body['metadata']['name']}").body
            raise

    def _not_created(
        self, flight: Flight, spec: manifest.JobSpec, made: list[str], error: ApiError | ConnectionFailed
    ) -> None:
        with contextlib.suppress(ApiError, ConnectionFailed):
            self._delete_secrets(flight.namespace, made)
        if isinstance(error, ApiError) and error.transient and not flight.over:
            flight.found(
                explain.Finding(
                    errors.ClusterError, "Refused", "The cluster cannot take the call now.", "", (error.message,), None
                )
            )
            self._clock.after(RETRY_DELAY, lambda: self._requests.do(lambda: self._create(flight, spec)))
            return
        if flight.claim():
            self._let_go(flight)
            flight.sink.fail(as_error(error))

    def _own(self, flight: Flight) -> None:
        """Give the Secrets to the Job. Off the critical path: metadata of an immutable Secret may still change."""
        owned = True
        for name in flight.secrets:
            path = f"/api/v1/namespaces/{flight.namespace}/secrets/{name}"
            try:
                self.api.request(
                    "PATCH",
                    path,
                    body=manifest.owner_patch(flight.job, flight.uid),
                    content_type="application/merge-patch+json",
                )
            except (ApiError, ConnectionFailed):
                owned = False
        with flight.lock:
            flight.owned = owned
            flight.settled_requests = True
            wanted = flight.delete_wanted
        if wanted:
            self._delete(flight)

    # -- deleting

    def _want_deleted(self, flight: Flight) -> None:
        """Delete the Job, once nothing of its creation is under way."""
        with flight.lock:
            flight.delete_wanted = True
            ready = flight.settled_requests
        if ready:
            self._requests.do(lambda: self._delete(flight))

    def _delete(self, flight: Flight) -> None:
        try:
            self._delete_job(flight.namespace, flight.job)
            if not flight.owned:
                self._delete_secrets(flight.namespace, flight.secrets)
            flight.deleted = True
        except (ApiError, ConnectionFailed):
            if not self._closing:
                self._clock.after(RETRY_DELAY, lambda: self._requests.do(lambda: self._delete(flight)))

    def _delete_now(self, flight: Flight, until: float) -> bool:
        while not flight.settled_requests and flight.created and time.monotonic() < until:
            time.sleep(0.01)
        try:
            left = max(0.1, until - time.monotonic())
            self._delete_job(flight.namespace, flight.job, deadline=left)
            if not flight.owned:
                self._delete_secrets(flight.namespace, flight.secrets or (flight.job,), deadline=left)
        except (ApiError, ConnectionFailed):
            return False
        return True

    def _delete_job(self, namespace: str, name: str, deadline: float = 60.0) -> None:
        """``Background`` must be said: the API's own default would orphan the Pods (client-python#234)."""
        with _absent_is_fine():
            self.api.request(
                "DELETE", f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}", body=_DELETE, deadline=deadline
            )

    def _delete_secrets(self, namespace: str, names: Sequence[str], deadline: float = 60.0) -> None:
        for name in names:
            self._delete_secret(namespace, name, deadline)

    def _delete_secret(self, namespace: str, name: str, deadline: float = 60.0) -> None:
        with _absent_is_fine():
            self.api.request("DELETE", f"/api/v1/namespaces/{namespace}/secrets/{name}", deadline=deadline)

    # -- attaching

    def _attach(self, call: str, namespace: str, sink: Sink) -> None:
        try:
            jobs = self._list(f"/apis/batch/v1/namespaces/{namespace}/jobs", f"kubefunc/call={call}")
            if not jobs:
                sink.fail(_no_such_call(call, namespace))
                return
            newest = max(jobs, key=lambda job: str(job["metadata"]["creationTimestamp"]))
            name = newest["metadata"]["name"]
            secret = self.api.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}").body
        except (ApiError, ConnectionFailed) as error:
            sink.fail(as_error(error))
            return
        flight = Flight(
            call=call,
            job=name,
            function=call.rpartition("-")[0],
            namespace=namespace,
            key=base64.b64decode(secret["data"]["key"]),
            options=Options(),
            sink=sink,
            stays=True,
            uid=newest["metadata"]["uid"],
            created=True,
            owned=True,
            settled_requests=True,
        )
        self._register(flight)
        with self._lock:
            self._attached[name] = self._new_watchers(namespace, f"kubefunc/call={call}")

    # -- watching

    def _watch_namespace(self, namespace: str) -> None:
        with self._lock:
            if namespace in self._watchers:
                return
            watchers = self._new_watchers(namespace, f"kubefunc/session={self._session}")
            self._watchers[namespace] = watchers
            # Only the courier's start: the server filters, and the Event comes a second before the Pod's status.
            selector = "reason=Started,involvedObject.fieldPath=spec.containers{" + COURIER + "}"
            events = TailWatcher(
                self.api, f"/api/v1/namespaces/{namespace}/events", {"fieldSelector": selector}, self._on_started
            )
            events.start()
            watchers.append(events)

    def _new_watchers(self, namespace: str, selector: str) -> list[Watcher]:
        query = {"labelSelector": selector}

        def on_state(state: WatchState, words: str) -> None:
            if state in (WatchState.FORBIDDEN, WatchState.FAILED):
                self._watch_failed(namespace, state, words)

        watchers = [
            Watcher(self.api, f"/api/v1/namespaces/{namespace}/pods", query, self._on_pod, on_state),
            Watcher(self.api, f"/apis/batch/v1/namespaces/{namespace}/jobs", query, self._on_job, on_state),
        ]
        for watcher in watchers:
            watcher.start()
        return watchers

    def _watch_failed(self, namespace: str, state: WatchState, words: str) -> None:
        kind = errors.PermissionDeniedError if state is WatchState.FORBIDDEN else errors.ClusterUnreachableError
        for flight in self._all():
            if flight.namespace == namespace and flight.claim():
                self._let_go(flight)
                flight.sink.fail(kind(f"{flight.call} cannot be followed: {words}"))
        with self._lock:
            self._watchers.pop(namespace, None)

    def _on_pod(self, kind: str, pod: JsonDict) -> None:
        metadata = pod["metadata"]
        if kind == "DELETED":
            self._pod_gone(metadata)
            return
        view = explain.pod_view(pod)
        flight = self._flights.get(view.job)
        if flight is None or flight.over or (flight.uid and view.job_uid != flight.uid):
            return
        with flight.lock:
            if view.uid not in flight.pods:
                flight.pod_since = time.monotonic()
            flight.pods[view.uid] = view
            flight.move(view)
            flight.deleting_since = (flight.deleting_since or time.monotonic()) if view.deleting else 0.0
        if view.main.state == "terminated":
            self._main_ended(flight, view)
            return
        if flight.submission is not None and view.courier.state == "running":
            self._upload(flight, view.name)
        trouble = explain.pod_end_trouble(view)
        if trouble is not None:
            self._fail(flight, trouble)
            return
        flight.found(explain.start_trouble(view) if view.where is not Phase.RUNNING else None)
        self._judge(flight)

    def _pod_gone(self, metadata: JsonDict) -> None:
        for flight in self._all():
            with flight.lock:
                gone = flight.pods.pop(metadata["uid"], None)
                if gone is not None and not flight.pods and not flight.over and flight.ended_pod is None:
                    flight.where = Phase.PENDING
                    flight.running_since = flight.deleting_since = 0.0
                    flight.pod_since = time.monotonic()

    def _on_job(self, kind: str, job: JsonDict) -> None:
        flight = self._flights.get(job["metadata"]["name"])
        if flight is None or flight.over or (flight.uid and job["metadata"].get("uid") != flight.uid):
            return
        if kind == "DELETED":
            if not flight.delete_wanted and flight.uid:
                self._fail(flight, explain.deleted(flight.job))
            return
        flight.job_seen = explain.job_view(job)
        if flight.job_seen.failed and not flight.failed_since:
            flight.failed_since = time.monotonic()

    def _on_started(self, kind: str, event: JsonDict) -> None:
        """The courier has started: its Pod's name tells the Job, a random name of ours."""
        if kind == "DELETED":
            return
        pod = event["involvedObject"]["name"]
        flight = self._flights.get(pod.rpartition("-")[0])
        if flight is None or flight.over:
            return
        self._upload(flight, pod)
        if self._is_express(flight.options) and not flight.stays:
            self._collector.express(flight, pod)

    # -- large arguments

    def _upload(self, flight: Flight, pod: str) -> None:
        submission = flight.submission
        if submission is None or submission.payload.size <= manifest.SECRETS_LIMIT:
            return
        with flight.lock:
            if flight.uploading:
                return
            flight.uploading = True
        self._collector.streams.do(lambda: self._upload_to(flight, pod, submission.payload.data))

    def _upload_to(self, flight: Flight, pod: str, data: bytes) -> None:
        for pause in (0.5, 2.0, 5.0, None):
            try:
                upload(self.api, flight.namespace, pod, UPLOADER, data)
                return
            except ExecRefused as error:
                problem = errors.PermissionDeniedError(
                    f"{flight.call}: arguments of {len(data):,} bytes need pods/exec to reach the Pod, "
                    f"and the cluster refuses it: {error}. Add 'pods/exec: create, get' to the Role, or put the data on a volume."  # noqa: E501
                )
                if flight.claim():
                    self._let_go(flight)
                    self._want_deleted(flight)
                    flight.sink.fail(problem)
                return
            except TransportError:
                if pause is None or flight.over:
                    break
                time.sleep(pause)
        with flight.lock:
            flight.uploading = False

    # -- the end of main

    def _main_ended(self, flight: Flight, pod: explain.Pod) -> None:
        with flight.lock:
            flight.found(None)
            if flight.ended_pod is not None and flight.ended_pod.uid == pod.uid:
                flight.ended_pod = pod
            elif explain.main_trouble(pod) is None and not pod.main.message:
                return  # SIGTERM without a result: the Job controller puts another Pod in its place
            else:
                flight.ended_pod = pod
        self._collector.collect(flight)

    def _ended(self, flight: Flight, finding: explain.Finding | None) -> None:
        """The collector is done with a flight: it has delivered, or this is why not."""
        if finding is not None:
            self._fail(flight, finding)
            return
        self._let_go(flight)
        if not flight.stays:
            self._want_deleted(flight)

    def _fail(self, flight: Flight, finding: explain.Finding) -> None:
        if not flight.claim():
            return
        self._requests.do(lambda: self._tell_failure(flight, finding))

    def _tell_failure(self, flight: Flight, finding: explain.Finding) -> None:
        error = finding.as_error(flight.diagnosis(self._collector.log_tail(flight)))
        self._let_go(flight)
        if _must_not_start_later(error) or isinstance(error, errors.PodLostError):
            self._want_deleted(flight)
        flight.sink.fail(error)

    # -- time

    def _tick(self) -> None:
        flights = self._all()
        with self._lock:
            self._ticking = bool(flights) and not self._closing
        for flight in flights:
            if not flight.over:
                self._look_at(flight, time.monotonic())
        self._collector.make_way()
        if self._ticking:
            self._clock.after(TICK, self._tick)

    def _look_at(self, flight: Flight, now: float) -> None:
        if flight.failed_since and now - flight.failed_since > JOB_FAILED_GRACE and not flight.collecting:
            job = flight.job_seen
            finding = explain.job_trouble(job, list(flight.pods.values())) if job else None
            if finding is not None:
                self._fail(flight, finding)
                return
        if flight.where is Phase.RUNNING:
            self._look_at_running(flight, now)
            return
        if flight.where is Phase.FETCHING:
            return
        self._judge(flight)
        self._look_for_reasons(flight, now)
        self._say(flight, now)
        limit = flight.options.schedule_timeout
        if limit is not None and now - flight.born > limit:
            self._fail(flight, explain.gave_up_waiting(flight.finding, limit))

    def _look_at_running(self, flight: Flight, now: float) -> None:
        pod = flight.pod()
        if pod is None:
            return
        if flight.deleting_since and now - flight.deleting_since > pod.grace + LOST_AFTER:
            self._fail(flight, explain.lost(pod))
        elif now - flight.running_since > FOLLOW_AFTER and flight.options.verbose:
            self._collector.follow(flight, pod)

    def _judge(self, flight: Flight) -> None:
        """End the call where what stands in its way has lasted long enough to be final."""
        finding = flight.finding
        if finding is None or finding.fatal_after is None:
            return
        if time.monotonic() - flight.finding_since >= finding.fatal_after:
            self._fail(flight, finding)

    def _look_for_reasons(self, flight: Flight, now: float) -> None:
        """Read Events where status is silent: no Pod yet, or a Pod whose volumes or sandbox fail."""
        if not flight.created or (flight.finding is not None and flight.finding.reason != "FailedMount"):
            return
        since = flight.pod_since or flight.born
        pause = LOOK_AGAIN if now - since < 20 else 5 * LOOK_AGAIN
        if now - since < LOOK_FIRST or now - flight.looked < pause:
            return
        flight.looked = now
        pod = flight.pod()
        about = pod.uid if pod is not None else flight.uid
        self._requests.do(lambda: self._read_events(flight, about))

    def _read_events(self, flight: Flight, about: str) -> None:
        if flight.over:
            return
        query = {"fieldSelector": f"involvedObject.uid={about}", "limit": "50"}
        try:
            events = self.api.request("GET", f"/api/v1/namespaces/{flight.namespace}/events", query=query).body
        except (ApiError, ConnectionFailed):
            return  # without permission on events: blinder, never broken
        finding = explain.event_trouble(sorted(events["items"], key=_when))
        if finding is not None and flight.where in (Phase.PENDING, Phase.STARTING):
            flight.found(finding)
            self._judge(flight)

    def _say(self, flight: Flight, now: float) -> None:
        if now - (flight.said or flight.born + SAY_FIRST - SAY_AGAIN) < SAY_AGAIN:
            return
        flight.said = now
        flight.sink.moved(Whereabouts(flight.where, _waiting_for(flight, now)))

    # -- bookkeeping

    def _register(self, flight: Flight) -> None:
        with self._lock:
            self._flights[flight.job] = flight
            start = not self._ticking
            self._ticking = True
        if start:
            self._clock.after(TICK, self._tick)

    def _let_go(self, flight: Flight) -> None:
        """No more news for this attempt: its streams end, its watches too where they were its own."""
        self._collector.release(flight)
        with self._lock:
            self._flights.pop(flight.job, None)
            watchers = self._attached.pop(flight.job, [])
        for watcher in watchers:
            watcher.stop()

    def _of(self, call: str) -> list[Flight]:
        return [flight for flight in self._all() if flight.call == call]

    def _all(self) -> list[Flight]:
        with self._lock:
            return list(self._flights.values())

    def _namespace_of(self, call: str) -> str:
        return next((flight.namespace for flight in self._of(call)), self._config.namespace)

    def _list(self, path: str, selector: str) -> list[JsonDict]:
        items: list[JsonDict] = self.api.request("GET", path, query={"labelSelector": selector}).body["items"]
        return items


@contextlib.contextmanager
def _absent_is_fine() -> Generator[None]:
    try:
        yield
    except ApiError as error:
        if not error.not_found:
            raise


def _must_not_start_later(error: errors.KubefuncError) -> bool:
    """A Job whose error was reported before it started would otherwise run after all when its obstacle goes away."""
    return isinstance(error, (errors.PodStartError, errors.ClusterError))


def _no_such_call(call: str, namespace: str) -> errors.ResultLostError:
    return errors.ResultLostError(
        f"There is no call {call} in the namespace {namespace}: its result was fetched, discarded, or its ttl has run out. "  # noqa: E501
        "If it runs in another namespace, give that too: attach('namespace/id')."
    )


def _when(event: Mapping[str, Any]) -> str:
    series = event.get("series") or {}
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")


def _waiting_for(flight: Flight, now: float) -> str:
    waited = f"waiting for {now - flight.born:.0f} s"
    if flight.job_seen is not None and flight.job_seen.suspended:
        return f"{waited}: the Job is suspended, queued by Kueue or held by someone"
    if flight.finding is not None:
        return f"{waited}: {flight.finding.message} {' '.join(flight.finding.words)}"
    return f"{waited}: {'the Pod is being started' if flight.where is Phase.STARTING else 'no Pod yet'}"

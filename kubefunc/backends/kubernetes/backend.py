"""Calls as Jobs: this module puts the parts together and is what the layers above see.

Threads, 40 at most with the caller's own: 6 for requests, 14 for streams (exec), 10 for logs, 2 that collect, three
watches, a clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence

from kubefunc import errors
from kubefunc.archive import archive_bytes
from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes.api.answers import is_list, is_named
from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.kubeconfig import ClusterConfig
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api, ApiError, as_error
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.attempts.items import ItemsSink
from kubefunc.backends.kubernetes.attempts.keeping import call_failed, is_kept
from kubefunc.backends.kubernetes.attempts.map_attempt import ChunkAttempt, MapAttempt
from kubefunc.backends.kubernetes.control.jobs import SPEC, Jobs, JsonDict, pod_program, secrets_path
from kubefunc.backends.kubernetes.control.maps import Maps
from kubefunc.backends.kubernetes.control.sweep import Sweep
from kubefunc.backends.kubernetes.control.tracker import Tracker
from kubefunc.backends.kubernetes.diagnose import starting
from kubefunc.backends.kubernetes.diagnose.finding import Finding, fault
from kubefunc.backends.kubernetes.objects import kept, manifest, shards
from kubefunc.backends.kubernetes.objects.demands import NOTHING, Demands, grown, sent_again
from kubefunc.backends.kubernetes.objects.views import items_of
from kubefunc.backends.kubernetes.results.collect import Collector
from kubefunc.backends.kubernetes.results.output import Outputs, log_path, printed
from kubefunc.backends.kubernetes.results.uploads import Uploads
from kubefunc.backends.kubernetes.threads import Clock, Workers
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Envelope
from kubefunc.options import Options
from kubefunc.payload import Packer
from kubefunc.runner import ARCHIVE, MAIN

REQUEST_THREADS = 6
SWEEP_AFTER = 10.0
SPENT_WITHIN = 1.0  # seconds that an exit waits for the Pods of a map whose outcomes are all here
_FOLLOW_IDLE = 4 * 3600.0
_FOLLOW_AGAIN = 0.25  # seconds between two looks for a Pod whose log can be followed

SINGLE = (0,)  # the items of a call

NOT_SENT = "the program ends before its Job could be created: it may never run"


class KubernetesBackend:
    """Implements :class:`kubefunc.backends.base.Backend` on one cluster."""

    name = "kubernetes"

    def __init__(self, config: ClusterConfig, session: str) -> None:
        self._config = config
        self._session = session
        self.packer = Packer.for_cluster()
        self.api = Api(config)
        self._requests = Workers("kubefunc-requests", REQUEST_THREADS)
        clock = Clock("kubefunc-clock")
        permission = ExecPermission(self.api)
        self._outputs = Outputs(self.api)
        self._collector = Collector(self.api, self._outputs, permission, self._done, self._fail)
        uploads = Uploads(self.api, self._collector.streams, permission, self._fail)
        self._jobs = Jobs(self.api, self._requests, clock, permission, self._refused)
        self._tracker = Tracker(
            self.api, session, self._requests, clock, self._collector, self._outputs, uploads, self._fail
        )
        self._demands: dict[str, Demands] = {}  # by namespace
        self._maps = Maps(
            self.api,
            session,
            self._requests,
            clock,
            self._jobs,
            self._tracker,
            permission,
            self._collector,
            self._fail_told,
            self._demands,
        )
        self._sweep = Sweep(self.api, self._jobs)
        self._clock = clock
        self._swept: set[str] = set()
        self._namespaces: dict[str, str] = {}
        self._numbers: dict[str, int] = {}  # the newest attempt of each call that was sent again from here

    def introduce(self, options: Options) -> str:
        namespace = options.namespace or self._config.namespace
        return f"calls run on Kubernetes: context {self._config.context}, namespace {namespace}"

    # -- from above

    def submit(self, submission: Submission, sink: Sink) -> None:
        if submission.shape == "map":
            self._submit_map(submission, sink)
        else:
            self._submit_single(submission, ItemsSink(sink, SINGLE))

    def _submit_single(self, submission: Submission, sink: ItemsSink) -> None:
        options = submission.options
        number = max(submission.attempt, self._numbers.get(submission.call, 0) + 1)
        submission = dataclasses.replace(submission, attempt=number)
        spec = self._job_spec(submission, options.namespace or self._config.namespace)
        manifest.job(spec)  # a pod_template that cannot work is refused here, in the caller's thread
        self._remember(submission.call, spec.namespace)
        attempt = Attempt(
            call=submission.call,
            job=spec.name,
            function=submission.function,
            namespace=spec.namespace,
            key=submission.key,
            options=options,
            sink=sink,
            stays=options.detach,
            submission=submission,
            demands=spec.demands,
        )
        self._tracker.add(attempt)
        self._jobs.create(attempt, lambda: spec)
        self._sweep_later(spec.namespace)

    def _submit_map(self, submission: Submission, sink: Sink) -> None:
        namespace = submission.options.namespace or self._config.namespace
        self._remember(submission.call, namespace)
        self._maps.submit(submission, sink, namespace)
        self._sweep_later(namespace)

    def attach_map(self, call: str, sink: Sink) -> None:
        name, namespace = self._named(call)
        attach = lambda: self._maps.attach(name, namespace, sink)  # noqa: E731
        self._requests.do(lambda: _or_tell(attach, lambda error: sink.fail(None, error)))

    def read_map(self, call: str) -> Submission:
        return self._maps.read(call, self._namespaces.get(call, self._config.namespace))

    def attach(self, call: str, sink: Sink) -> None:
        name, namespace = self._named(call)
        attach = lambda: self._attach(name, namespace, ItemsSink(sink, SINGLE))  # noqa: E731
        self._requests.do(lambda: _or_tell(attach, lambda error: sink.fail(None, error)))

    def address(self, call: str) -> str:
        return f"{self._namespaces.get(call, self._config.namespace)}/{call}"

    def cancel(self, call: str) -> None:
        for attempt in self._tracker.of(call):
            attempt.claim()
            self._jobs.want_deleted(attempt)
            self._tracker.let_go(attempt)

    def discard(self, call: str) -> None:
        for attempt in self._tracker.of(call):
            self._jobs.want_deleted(attempt)
            if attempt.claim():
                self._tracker.let_go(attempt)
                attempt.sink.fail(errors.JobDeletedError(f"{call} was discarded before it had ended."))
        namespace = self._namespaces.get(call, self._config.namespace)
        try:
            for job in self._jobs.of_call(namespace, call):
                self._jobs.delete_job(namespace, job["metadata"]["name"])
            self._jobs.delete_secret(namespace, call)
        except TROUBLE as error:
            raise as_error(error) from error

    def logs(self, call: str, follow: bool) -> Iterator[bytes]:
        namespace = self._namespaces.get(call, self._config.namespace)
        if follow:
            yield from self._follow(namespace, call)
            return
        for pod in self._pods(namespace, call):
            path = log_path(namespace, pod["metadata"]["name"])
            with contextlib.suppress(ApiError):  # its container has not started
                yield from printed([self.api.read_bytes(path, query={"container": MAIN})])

    def _follow(self, namespace: str, call: str) -> Iterator[bytes]:
        """Of one Pod after another, each from its start, until the call has ended. A Pod may still have to come."""
        followed: set[str] = set()
        while True:
            goes_on = bool(self._tracker.of(call))
            for pod in self._pods(namespace, call):
                name = pod["metadata"]["name"]
                if name in followed:
                    continue
                try:
                    with self.api.stream_bytes(
                        log_path(namespace, name), {"container": MAIN, "follow": "true"}, idle_timeout=_FOLLOW_IDLE
                    ) as stream:
                        followed.add(name)
                        yield from printed(stream)
                except ApiError as error:  # its container has not started, or the Pod is gone
                    if error.not_found or not goes_on:
                        followed.add(name)
            if not goes_on:
                return
            time.sleep(_FOLLOW_AGAIN)

    def hear_out(self, call: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._tracker.of(call) and time.monotonic() < until:
            time.sleep(0.01)

    def forget(self) -> None:
        """Connections are closed with the objects that hold them, and nothing is sent on them."""

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        """In the main thread; the daemon threads still run and help, but no new one can be made (Python 3.12)."""
        until = time.monotonic() + timeout
        unsent = [attempt for attempt in self._tracker.all() if attempt.stays and not attempt.created]
        self.api.hurry(timeout)  # this thread helps with requests, and must not be held by a dead network
        cancelled = [attempt for call in unfinished for attempt in self._tracker.of(call)] + self._spent_maps(until)
        for attempt in cancelled:
            attempt.claim()
            self._jobs.want_deleted(attempt)
            self._tracker.let_go(attempt)
        # One whose result has just been delivered may not have asked yet for its Job's deletion.
        while time.monotonic() < until and any(attempt.over for attempt in self._tracker.all()):
            time.sleep(0.005)
        self._jobs.hurry()
        while time.monotonic() < until and self._collector.acknowledges:  # else a kept Pod would wait for it
            time.sleep(0.005)
        while time.monotonic() < until and self._requests.drain(until - time.monotonic()):
            if not self._jobs.owed():
                break
            time.sleep(0.02)  # a deletion that failed is tried again by the clock
        for attempt in unsent:
            if not attempt.created:
                attempt.sink.moved(Whereabouts(attempt.where, NOT_SENT))
        self._tracker.stop()
        left = self._jobs.owed().union(attempt for attempt in cancelled if not attempt.deleted)
        return sorted({attempt.call for attempt in left})

    def _spent_maps(self, until: float) -> list[Attempt]:
        """Jobs of maps to delete, of which every outcome is here.

        Outcomes come while Pods run: the last may be here before its Pod has ended. Mostly that takes a moment, and
        the Job is deleted then, or kept. Who does not end by itself, or in time, is ended, unless it is kept.
        """
        until = min(until, time.monotonic() + SPENT_WITHIN)
        while True:
            spent = [attempt for attempt in self._tracker.all() if isinstance(attempt, MapAttempt) and attempt.is_spent]
            if not spent or time.monotonic() > until:
                return [attempt for attempt in spent if not attempt.is_kept]
            time.sleep(0.005)

    # -- parts of these

    def _job_spec(self, submission: Submission, namespace: str) -> manifest.JobSpec:
        payload, options = submission.payload.data, submission.options
        uploads = len(payload) > manifest.SECRETS_LIMIT
        spec = pod_program(submission)
        spec["express"] = options.express and not options.detach
        files = {ARCHIVE: archive_bytes(), SPEC: json.dumps(spec).encode(), "key": submission.key}
        if not uploads:
            files[shards.PAYLOAD] = payload
        return manifest.JobSpec(
            call=submission.call,
            session=self._session,
            function=submission.function,
            namespace=namespace,
            options=options,
            files=files,
            attempt=submission.attempt,
            demands=self._demands.get(namespace, NOTHING),
        )

    def _attach(self, call: str, namespace: str, sink: ItemsSink) -> None:
        try:
            jobs = self._jobs.of_call(namespace, call)
            if not jobs:
                sink.fail(_no_such_call(call, namespace))
                return
            if jobs[-1]["spec"].get("completionMode") == "Indexed":
                sink.fail(errors.ConfigurationError(f"{call} is a map, not a call: attach_map({call!r}) follows it."))
                return
            name = jobs[-1]["metadata"]["name"]
            path = f"{secrets_path(namespace)}/{name}"
            secret = self.api.request("GET", path, is_expected=is_named(name)).body
        except TROUBLE as error:
            lost = isinstance(error, ApiError) and error.not_found
            sink.fail(_no_such_call(call, namespace) if lost else as_error(error))
            return
        files = kept.files_of(secret)
        attempt = Attempt(
            call=call,
            job=name,
            function=call.rpartition("-")[0],
            namespace=namespace,
            key=files.get(kept.KEY, b""),
            options=Options(),
            sink=sink,
            stays=True,
            uid=jobs[-1]["metadata"]["uid"],
            created=True,
            owned=True,
            settled_requests=True,
        )
        if sink.settled:  # it was cancelled while we looked for it
            self._jobs.want_deleted(attempt)
            return
        kept.checked_spec(call, files)
        self._tracker.add_attached(attempt)
        if sink.settled and not attempt.over:  # or just now
            self.cancel(call)

    def _sweep_later(self, namespace: str) -> None:
        """Once a namespace, when the first calls are out of the way."""
        if namespace not in self._swept:
            self._swept.add(namespace)
            self._clock.after(SWEEP_AFTER, lambda: self._requests.do(lambda: self._sweep.run(namespace)))

    def _named(self, call: str) -> tuple[str, str]:
        """The name and the namespace of ``id`` or ``namespace/id``."""
        namespace, _, name = call.rpartition("/")
        namespace = namespace or self._config.namespace
        self._remember(name, namespace)
        return name, namespace

    def _remember(self, call: str, namespace: str) -> None:
        if namespace != self._config.namespace:
            self._namespaces[call] = namespace

    def _pods(self, namespace: str, call: str) -> list[JsonDict]:
        path, query = f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": f"kubefunc/call={call}"}
        return items_of(self.api.request("GET", path, query=query, is_expected=is_list).body)

    # -- how attempts end

    def _done(self, attempt: Attempt, envelope: Envelope) -> None:
        """Its envelope was delivered. Wanted first, let go then: close() waits for whoever is not let go."""
        if isinstance(attempt, ChunkAttempt):
            self._maps.chunk_ended(attempt, envelope)
            return
        for twin in self._tracker.of(attempt.call):
            if twin.job == attempt.job:  # attached to in this same process: its Job is about to go
                self._collector.deliver(twin, envelope)
        if not _is_kept(attempt, failed=call_failed(envelope)):
            self._jobs.want_deleted(attempt)
        self._tracker.let_go(attempt)

    def _fail(self, attempt: Attempt, finding: Finding) -> None:
        if attempt.claim():
            self._requests.do(lambda: self._surely_tell_failure(attempt, finding))

    def _surely_tell_failure(self, attempt: Attempt, finding: Finding) -> None:
        """Whatever fails on the way, the call ends."""
        try:
            self._tell_failure(attempt, finding)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody must wait for an end that never comes
            attempt.sink.fail(fault(error).as_error(attempt.diagnosis()))
            self._tracker.let_go(attempt)

    def _tell_failure(self, attempt: Attempt, finding: Finding) -> None:
        if self._is_sent_again(attempt, finding):
            return
        shown_by = attempt.shown_by(finding)
        tail = self._outputs.tail(shown_by, finding.container)
        if isinstance(attempt, ChunkAttempt):
            self._maps.chunk_failed(attempt, finding, tail)
            return
        self._end_failed(attempt, finding, finding.as_error(shown_by.diagnosis(tail)))

    def _is_sent_again(self, attempt: Attempt, finding: Finding) -> bool:
        """Whether its Pods were refused for what the next Job now meets: limits or bounds of the namespace."""
        if finding.reason not in starting.DEMANDING or attempt.sink.settled:
            return False
        demands = grown(attempt.demands, " ".join(finding.words))
        if demands is None:
            return False
        known = self._demands.get(attempt.namespace, NOTHING)
        self._demands[attempt.namespace] = known | demands
        attempt.sink.moved(Whereabouts(Phase.SUBMITTING, "" if known == known | demands else sent_again(demands)))
        if isinstance(attempt, MapAttempt):
            self._maps.send_again(attempt)
        elif attempt.submission is not None:
            self._numbers[attempt.call] = attempt.submission.attempt
            self._submit_single(attempt.submission, attempt.sink)
        self._jobs.want_deleted(attempt)
        self._tracker.let_go(attempt)
        return True

    def _fail_told(self, attempt: Attempt, finding: Finding, error: errors.KubefuncError) -> None:
        """With an error that is made already: of a map, what its chunk's Pod shows."""
        if attempt.claim():
            self._end_failed(attempt, finding, error)

    def _end_failed(self, attempt: Attempt, finding: Finding, error: errors.KubefuncError) -> None:
        attempt.sink.fail(error)
        must_go = finding.job_goes_on or _must_not_start_later(error)
        if not _is_kept(attempt, failed=True) or (must_go and not attempt.stays):
            self._jobs.want_deleted(attempt)
        self._tracker.let_go(attempt)

    def _refused(self, attempt: Attempt, error: errors.KubefuncError) -> None:
        """Its Job could not be created."""
        if attempt.claim():
            attempt.sink.fail(error)
        self._tracker.let_go(attempt)


def _or_tell(attach: Callable[[], None], tell: Callable[[errors.KubefuncError], None]) -> None:
    """Whatever keeps from attaching, such as a Secret that somebody has edited: nobody must wait in vain."""
    try:
        attach()
    except errors.KubefuncError as error:
        tell(error)
    except Exception as error:  # noqa: BLE001
        fault = errors.KubefuncError(f"The call could not be attached to: {type(error).__name__}: {error}")
        fault.__cause__ = error
        tell(fault)


def _is_kept(attempt: Attempt, *, failed: bool) -> bool:
    """Whether a Job that was run to its end is not deleted: nor is one that another attempt takes over from."""
    return attempt.stays or (attempt.sink.settled and is_kept(attempt.options.keep, failed=failed))


def _must_not_start_later(error: errors.KubefuncError) -> bool:
    """A Job whose error was reported before it started would otherwise run after all when its obstacle goes away."""
    return isinstance(
        error, (errors.PodStartError, errors.ClusterError, errors.ConfigurationError, errors.PodLostError)
    )


def _no_such_call(call: str, namespace: str) -> errors.ResultLostError:
    return errors.ResultLostError(
        f"There is no call {call} in the namespace {namespace}: it was cancelled, its result was collected or "
        "discarded, or its ttl has run out. If it runs in another namespace, give that too: attach('namespace/id')."
    )

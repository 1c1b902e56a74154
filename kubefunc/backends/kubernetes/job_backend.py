"""Calls as Jobs: this module puts together the parts that make, follow and end them.

Threads, 40 at most with the caller's own: 6 for requests, 14 for streams (exec), 10 for logs, 2 that collect, three
watches, a clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kubefunc import errors
from kubefunc.backends.base import Shape, Sink, Submission, Whereabouts, Work
from kubefunc.backends.kubernetes.api.answers import is_named
from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.kubeconfig import ClusterConfig
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api, ApiError, as_error
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.attempts.items import ItemsSink
from kubefunc.backends.kubernetes.attempts.job_objects import JobObjects
from kubefunc.backends.kubernetes.attempts.keeping import call_failed, is_kept
from kubefunc.backends.kubernetes.attempts.map_attempt import ChunkAttempt, MapAttempt
from kubefunc.backends.kubernetes.control.call_objects import job_spec
from kubefunc.backends.kubernetes.control.cluster import Cluster
from kubefunc.backends.kubernetes.control.jobs import Jobs
from kubefunc.backends.kubernetes.control.maps import Maps
from kubefunc.backends.kubernetes.control.sweep import Sweep
from kubefunc.backends.kubernetes.control.tracker import Tracker
from kubefunc.backends.kubernetes.control.work import ClusterWork
from kubefunc.backends.kubernetes.diagnose.creation import DEMANDING
from kubefunc.backends.kubernetes.diagnose.finding import Finding, fault
from kubefunc.backends.kubernetes.objects import kept
from kubefunc.backends.kubernetes.objects.demands import NOTHING, Demands, grown, sent_again
from kubefunc.backends.kubernetes.objects.job import validate
from kubefunc.backends.kubernetes.objects.paths import secrets_path
from kubefunc.backends.kubernetes.results.collect import Collector
from kubefunc.backends.kubernetes.results.output import Outputs
from kubefunc.backends.kubernetes.results.traffic import Traffic
from kubefunc.backends.kubernetes.results.uploads import Uploads
from kubefunc.backends.kubernetes.results.value_streams import ValueStreams
from kubefunc.backends.kubernetes.threads import Clock, Workers
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Envelope
from kubefunc.options import Options
from kubefunc.runner import KEY_FILE
from kubefunc.untrusted import UntrustedSink

if TYPE_CHECKING:
    pass

SPENT_WITHIN = 1.0  # seconds that an exit waits for the Pods of a map whose outcomes are all here
THREADS_END_WITHIN = 0.5  # seconds; on a dead network some do not

SINGLE = (0,)  # the items of a call

NOT_SENT = "the program ends before its Job could be created: it may never run"


class JobBackend:
    """The calls of one cluster that are Jobs."""

    def __init__(self, config: ClusterConfig, session: str, api: Api, requests: Workers, clock: Clock) -> None:
        self._config = config
        self._session = session
        self._api = api
        self._requests = requests
        self._clock = clock
        permission = ExecPermission(self._api)
        self._outputs = Outputs(self._api)
        self._collector = Collector(self._api, self._outputs, permission, self._done, self._fail)
        uploads = Uploads(self._api, self._collector.streams, permission, self._fail)
        self._jobs = Jobs(self._api, self._requests, self._clock, permission, self._refused)
        cluster = Cluster(self._api, session, self._requests, self._clock, permission)
        values = ValueStreams(self._api, permission, self._collector, self._fail)
        self._tracker = Tracker(cluster, Traffic(self._collector, self._outputs, uploads, values), self._fail)
        self._demands: dict[str, Demands] = {}  # by namespace
        self._maps = Maps(cluster, self._jobs, self._tracker, self._collector, self._fail_told, self._demands)
        self._sweep = Sweep(self._api, self._jobs)

    # -- from above

    def submit(self, submission: Submission, sink: Sink, namespace: str) -> Work:
        """Make Jobs of this call or map."""
        if submission.shape == "map":
            self._maps.submit(submission, sink, namespace)
        else:
            self.start(submission, sink)
        return self._work(submission.call, namespace, submission.options)

    def start(self, submission: Submission, sink: Sink) -> None:
        """Make a Job of this single call."""
        self._submit_single(submission, ItemsSink(sink, SINGLE))

    def release(self, call: str) -> None:
        """Tell no more of this call, whose Job stays."""
        for attempt in self._tracker.of(call):
            attempt.claim()
            self._tracker.let_go(attempt)

    def discard(self, call: str, namespace: str) -> None:
        """Delete the Job of a call, soon."""
        work = self._work(call, namespace, None)
        if self._tracker.of(call):
            work.cancel()
        else:  # another program has submitted it
            self._requests.do(lambda: _quietly(work.discard))

    def sweep(self, namespace: str) -> None:
        """Remove the Secrets that killed clients have left."""
        self._sweep.run(namespace)

    def _submit_single(self, submission: Submission, sink: ItemsSink) -> None:
        options = submission.options
        submission = dataclasses.replace(submission, attempt=self._jobs.next_number(submission))
        namespace = options.namespace or self._config.namespace
        spec = job_spec(submission, self._session, namespace, self._demands.get(namespace, NOTHING))
        validate(spec)  # a pod_template that cannot work is refused here, in the caller's thread
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

    def attach(self, call: str, shape: Shape, sink: Sink) -> Work:
        """Follow what another process has started, by its id or ``namespace/id``."""
        namespace, _, name = call.rpartition("/")
        namespace = namespace or self._config.namespace

        def follow() -> None:
            if shape == "map":
                self._maps.attach(name, namespace, sink)
            else:
                self._attach(name, namespace, sink)

        self._requests.do(lambda: _or_tell(follow, lambda error: sink.fail(None, error)))
        return self._work(name, namespace, None)

    def _work(self, call: str, namespace: str, options: Options | None) -> ClusterWork:
        return ClusterWork(call, namespace, options, self._api, self._jobs, self._tracker, self._maps)

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        """In the main thread; the daemon threads still run and help, but no new one can be made (Python 3.12)."""
        until = time.monotonic() + timeout
        unsent = [attempt for attempt in self._tracker.all() if attempt.stays and not attempt.objects.created]
        self._api.hurry(timeout)  # this thread helps with requests, and must not be held by a dead network
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
            if not attempt.objects.created:
                attempt.sink.moved(Whereabouts(attempt.progress.phase, NOT_SENT))
        # Threads that are at work while the interpreter ends could print, or log, and so abort the process.
        self._tracker.stop(THREADS_END_WITHIN)
        self._clock.stop(THREADS_END_WITHIN)
        left = self._jobs.owed().union(attempt for attempt in cancelled if not attempt.objects.deleted)
        return sorted({attempt.call for attempt in left})

    def _spent_maps(self, until: float) -> list[Attempt]:
        """Jobs to delete of maps whose outcomes are all here.

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

    def _attach(self, call: str, namespace: str, whole: Sink) -> None:
        sink = ItemsSink(whole, SINGLE)
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
            secret = self._api.request("GET", path, is_expected=is_named(name)).body
        except TROUBLE as error:
            lost = isinstance(error, ApiError) and error.not_found
            sink.fail(_no_such_call(call, namespace) if lost else as_error(error))
            return
        files = kept.files_of(secret)
        options = kept.options_of(files)
        if options.untrusted:
            sink = ItemsSink(UntrustedSink(whole), SINGLE)
        attempt = Attempt(
            call=call,
            job=name,
            function=call.rpartition("-")[0],
            namespace=namespace,
            key=files.get(KEY_FILE, b""),
            options=options,
            sink=sink,
            stays=True,
            objects=JobObjects.existing(jobs[-1]["metadata"]["uid"]),
        )
        if sink.settled:  # it was cancelled while we looked for it
            self._jobs.want_deleted(attempt)
            return
        kept.checked_spec(call, files)
        self._tracker.add_attached(attempt)
        if sink.settled and not attempt.over:  # or just now
            self._work(call, namespace, None).cancel()

    # -- how attempts end

    def _done(self, attempt: Attempt, envelope: Envelope) -> None:
        """Its envelope was delivered. Ask for the deletion first: close() waits only for attempts that are tracked."""
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
        if finding.reason not in DEMANDING or attempt.sink.settled:
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
            self._jobs.note_number(attempt.call, attempt.submission.attempt)
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
    """Any error while attaching, such as an edited Secret: it must reach those who wait for the call."""
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


def _quietly(work: Callable[[], None]) -> None:
    with contextlib.suppress(errors.KubefuncError):  # its ttl removes what stays
        work()


def _no_such_call(call: str, namespace: str) -> errors.ResultLostError:
    return errors.ResultLostError(
        f"There is no call {call} in the namespace {namespace}: it was cancelled, its result was collected or "
        "discarded, or its ttl has run out. If it runs in another namespace, give that too: attach('namespace/id')."
    )

"""Maps as Jobs: starting them, how their chunks end, and when the Jobs go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from kubefunc import errors
from kubefunc.backends.base import Lost, Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.attempts.items import ItemsSink
from kubefunc.backends.kubernetes.attempts.map_attempt import ChunkAttempt, MapAttempt
from kubefunc.backends.kubernetes.control.attached_maps import AttachedMaps
from kubefunc.backends.kubernetes.control.cluster import Cluster
from kubefunc.backends.kubernetes.control.jobs import Jobs
from kubefunc.backends.kubernetes.control.map_objects import (
    PLACES_NEEDED,
    Plan,
    files_of,
    job_spec,
    layout_of,
    needs_places_again,
    plan_of,
)
from kubefunc.backends.kubernetes.control.tracker import Tracker
from kubefunc.backends.kubernetes.control.widening import Widening
from kubefunc.backends.kubernetes.diagnose.ending import POD_DELETED
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects.demands import NOTHING, Demands
from kubefunc.backends.kubernetes.objects.job import validate
from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.results.collect import Collector
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Envelope
from kubefunc.errors import KubefuncError

LOOK_AT_HELD = 2.0  # seconds from one look at the Pods that keep results to the next
WAITING_LOOKS = 3
_NOBODYS_FAULT = ("PodLost", POD_DELETED, "ContainerStatusUnknown")  # they say nothing of the items
_ENDS_THE_CHUNK = ("DeadlineExceeded",)


class Maps:
    """All maps of a session. ``fail_told`` ends an attempt with an error that was made from a finding."""

    def __init__(
        self,
        cluster: Cluster,
        jobs: Jobs,
        tracker: Tracker,
        collector: Collector,
        fail_told: Callable[[Attempt, Finding, KubefuncError], None],
        demands: Mapping[str, Demands],
    ) -> None:
        self._cluster = cluster
        self._jobs = jobs
        self._tracker = tracker
        self._collector = collector
        self._fail_told = fail_told
        self._demands = demands
        self._widening = Widening(cluster, collector.streams, tracker, self._run_given)
        self._attached = AttachedMaps(cluster, jobs, tracker)

    def attach(self, call: str, namespace: str, sink: Sink) -> None:
        """Follow what another process has started."""
        self._attached.attach(call, namespace, sink)

    def read(self, call: str, namespace: str) -> Submission:
        """What was submitted, see :meth:`AttachedMaps.read`."""
        return self._attached.read(call, namespace)

    # -- starting

    def submit(self, submission: Submission, sink: Sink, namespace: str) -> None:
        """Start a Job for these items; returns at once.

        Raises:
            ConfigurationError: an option does not fit.
        """
        if not submission.items:
            return
        submission = dataclasses.replace(submission, attempt=self._jobs.take_number(submission))
        plan = plan_of(submission, namespace, adapts=self._adapts(submission, namespace))
        attempt = self._attempt(plan, sink)
        validate(self._job_spec(attempt, plan, {}))  # a wrong template is refused here
        self._tracker.add(attempt)
        self._jobs.create(attempt, lambda: self._made(attempt, plan))
        self._widening.watch(attempt)
        self._look_at_held(attempt)

    def _adapts(self, submission: Submission, namespace: str) -> bool:
        """Whether its Pods can be asked to give items back."""
        return _shares(submission) and not self._cluster.permission.is_refused(namespace)

    def _attempt(self, plan: Plan, sink: Sink) -> MapAttempt:
        submission = plan.submission
        return MapAttempt(
            call=submission.call,
            job=plan.job,
            function=submission.function,
            namespace=plan.namespace,
            key=submission.key,
            options=submission.options,
            sink=ItemsSink(sink, plan.layout.indexes),
            stays=submission.options.detach,
            whole=sink,
            chunks=plan.layout.chunks,
            sent=submission,
            demands=self._demands.get(plan.namespace, NOTHING),
            uploads_items=plan.uploads_items,
            shares=_shares(submission),
        )

    def _made(self, attempt: MapAttempt, plan: Plan) -> JobSpec:
        if needs_places_again(plan):
            attempt.sink.moved(Whereabouts(Phase.SUBMITTING, PLACES_NEEDED))
        self._cluster.permission.ask(attempt.namespace)
        if attempt.shares and self._cluster.permission.is_refused(attempt.namespace):
            # Nobody can ask its Pods to give items back.
            plan = dataclasses.replace(plan, layout=layout_of(plan.submission, adapts=False))
            attempt.lay_out(plan.layout)
        return self._job_spec(attempt, plan, files_of(plan))

    def _job_spec(self, attempt: MapAttempt, plan: Plan, files: Mapping[str, bytes]) -> JobSpec:
        return job_spec(plan, files, self._cluster.session, attempt.demands)

    # -- how chunks end

    def chunk_ended(self, chunk: ChunkAttempt, envelope: Envelope) -> None:
        """All that it had to say has come."""
        missing = chunk.of.whole.missing(chunk.close())
        if missing and chunk.of.sent is None:
            self._attached.look_for_later_job(chunk.of, missing)
        elif missing:
            self._lose(chunk.of, missing, Lost(_gone(chunk), chunk.of.longest))
        self._end(chunk)

    def chunk_failed(self, chunk: ChunkAttempt, finding: Finding, tail: tuple[str, ...]) -> None:
        """It has ended without all its outcomes: an item that was at fault has the error, the others run again."""
        error = finding.as_error(chunk.diagnosis(tail))
        if isinstance(error, (errors.PodStartError, errors.ClusterError)):
            self._fail_told(chunk.of, finding, error)  # what keeps one Pod from starting keeps all
            return
        whole, pod = chunk.of.whole, chunk.pods.current() or chunk.pods.vanished
        guilty, innocent = blame(whole.missing(chunk.close()), pod.at if pod is not None else None, finding.reason)
        if guilty:
            whole.fail(guilty, error)
        if finding.job_goes_on and pod is not None:
            chunk.go_on_without(pod)  # the Job replaces the Pod: it is told to skip what has an outcome
            return
        if innocent:
            self._lose(chunk.of, innocent, Lost(error, chunk.of.longest, beside_fault=bool(guilty)))
        self._end(chunk)

    def _lose(self, lead: MapAttempt, items: Sequence[int], how: Lost) -> None:
        if not how.beside_fault:
            lead.replace()
        lead.whole.lost(items, how)

    def _end(self, chunk: ChunkAttempt) -> None:
        lead = chunk.of
        last = lead.end(chunk)
        self._tracker.let_go(chunk)
        if last:
            self._finish(lead.call)

    def _finish(self, call: str) -> None:
        """Let go of the map's Jobs that have ended: of all when the map has, or of one that may begin again.

        Until then an ended Job stays: if this client is killed, a client that attaches finds the outcomes there.
        """
        for lead in self._tracker.of(call):
            if not isinstance(lead, MapAttempt) or not lead.has_ended:
                continue
            over = lead.whole.settled or lead.stays or lead.was_replaced
            if over and lead.claim():
                if not lead.is_kept:
                    self._jobs.want_deleted(lead)
                self._tracker.let_go(lead)

    # -- Pods that keep results

    def _look_at_held(self, lead: MapAttempt) -> None:
        """Let Pods go that keep results, where the map has ended or another of its Pods waits for a place."""
        over = lead.over or lead.whole.settled
        # A Pod that only starts waits for no place: another is let go for one that has waited for some time.
        if self._waits(lead.call):
            lead.held.pods_wait()
        else:
            lead.held.no_pods_wait()
        if over or lead.held.waiting_looks >= WAITING_LOOKS:
            with lead.lock:
                held = lead.held.let_go()
            for each in held:
                self._collector.let_go(lead.namespace, each)
        if lead.has_ended:  # the map may have been settled by a Job that could not be made
            self._finish(lead.call)
        if not lead.over:
            self._cluster.clock.after(LOOK_AT_HELD, lambda: self._look_at_held(lead))

    def _waits(self, call: str) -> bool:
        return any(isinstance(each, MapAttempt) and each.has_waiting_pods() for each in self._tracker.of(call))

    # -- what was refused

    def send_again(self, lead: MapAttempt) -> None:
        """Run what this Job could not begin in another one, which meets what the namespace demands by now."""
        if lead.sent is not None:
            items = {index: lead.sent.items[index] for chunk in lead.chunks for index in chunk}
            self.submit(dataclasses.replace(lead.sent, items=items), lead.whole, lead.namespace)

    # -- what was given back

    def _run_given(self, lead: MapAttempt, items: Mapping[int, bytes], size: int) -> None:
        """Run these items in one more Job: idle Pods for what others have not begun."""
        sent, wanted = lead.sent, lead.whole.missing(items)
        if sent is None or not wanted or lead.whole.settled:
            return
        lead.whole.moved(wanted, Whereabouts(Phase.SUBMITTING))
        these = {index: items[index] for index in sorted(wanted)}
        self.submit(dataclasses.replace(sent, items=these, chunk_hint=size), lead.whole, lead.namespace)


def blame(missing: Sequence[int], at: int | None, reason: str) -> tuple[list[int], list[int]]:
    """Of the items of a chunk that ended before its time: those that get the error, and those that run again.

    >>> blame([4, 5, 6], 5, "OOMKilled"), blame([4, 5, 6], 5, "PodLost"), blame([4, 5], None, "WorkerDied")
    (([5], [4, 6]), ([], [4, 5, 6]), ([4, 5], []))
    """
    if reason in _NOBODYS_FAULT:
        return [], list(missing)
    if at is None or at not in missing or reason in _ENDS_THE_CHUNK:
        return list(missing), []
    return [at], [index for index in missing if index != at]


def _shares(submission: Submission) -> bool:
    """A detached program may end while items are between two Jobs; a chunksize is what the caller wants."""
    return submission.chunksize is None and not submission.options.detach


def _gone(chunk: ChunkAttempt) -> errors.ResultLostError:
    return errors.ResultLostError(
        f"The chunk {chunk.number} of {chunk.call} has ended, but the results of some of its items are gone. "
        "retry_failed() runs them again."
    )

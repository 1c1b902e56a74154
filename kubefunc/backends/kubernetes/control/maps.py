"""Maps as Jobs: starting them, attaching to them, and what becomes of a chunk whose Pod was lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from kubefunc import errors
from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.backends.kubernetes.api.answers import is_named
from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.requests import ApiError, as_error
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.attempts.items import ItemsSink, SomeItems
from kubefunc.backends.kubernetes.attempts.job_objects import JobObjects
from kubefunc.backends.kubernetes.attempts.layout import Layout
from kubefunc.backends.kubernetes.attempts.lost_and_held import LostItems
from kubefunc.backends.kubernetes.attempts.map_attempt import ChunkAttempt, MapAttempt
from kubefunc.backends.kubernetes.attempts.pods import Progress
from kubefunc.backends.kubernetes.control.cluster import Cluster
from kubefunc.backends.kubernetes.control.growing import GrowingSink
from kubefunc.backends.kubernetes.control.jobs import Jobs, JsonDict, secrets_path
from kubefunc.backends.kubernetes.control.map_objects import (
    PLACES_NEEDED,
    attempt_of,
    files_of,
    joined,
    layout_of,
    map_of,
    needs_places_again,
    read_options,
    runner_spec_of,
    secrets_of,
)
from kubefunc.backends.kubernetes.control.tracker import Tracker
from kubefunc.backends.kubernetes.control.widening import Widening
from kubefunc.backends.kubernetes.diagnose.ending import POD_DELETED
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects import kept
from kubefunc.backends.kubernetes.objects.demands import NOTHING, Demands
from kubefunc.backends.kubernetes.objects.job import validate
from kubefunc.backends.kubernetes.objects.job_spec import ITEMS_LIMIT, Indexed, JobSpec, job_name
from kubefunc.backends.kubernetes.objects.version import NEWEST, ServerVersion
from kubefunc.backends.kubernetes.results.collect import Collector
from kubefunc.chunks import MAX_PARALLELISM
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Envelope
from kubefunc.errors import ConfigurationError, KubefuncError
from kubefunc.growth import more_memory
from kubefunc.options import Options
from kubefunc.payload import Payload
from kubefunc.runner import CHUNK, ITEMS, PAYLOAD, SPEC_FILE
from kubefunc.runner.protocol import records

LOOK_AT_HELD = 2.0  # seconds from one look at the Pods that keep results to the next
WAITING_LOOKS = 3
LATER_JOB_LOOKS = 5  # for a Job that another client makes for what it has taken back
LATER_JOB_PAUSE = 2.0
GATHER = 1.0  # seconds in which what is lost is gathered: one Job for all of it
_JOB_ENDED = "PodFailurePolicy"  # so a Job fails before 1.29 when one of its chunks does
_NOBODYS_FAULT = ("PodLost", POD_DELETED, "ContainerStatusUnknown", _JOB_ENDED)  # they say nothing of the items
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
        self._numbers: dict[str, int] = {}
        self._server: ServerVersion | None = None

    # -- starting

    def submit(self, submission: Submission, sink: Sink, namespace: str) -> None:
        """Start a Job for these items; returns at once.

        Raises:
            ConfigurationError: an option does not fit.
        """
        if submission.items:
            growths = submission.options.retries
            # A detached program may end while items are between two Jobs; a chunksize is what the caller wants.
            shares = submission.chunksize is None and not submission.options.detach
            self._submit(submission, self._growing(submission, sink, namespace, growths), namespace, shares=shares)

    def _submit(
        self, submission: Submission, sink: Sink, namespace: str, *, shares: bool = False, losses: int = 0
    ) -> None:
        number = max(submission.attempt, self._numbers.get(submission.call, 0) + 1)
        disruptions = max(losses, submission.disruptions)
        submission = dataclasses.replace(submission, attempt=number, disruptions=disruptions)
        layout = layout_of(submission, adapts=shares and not self._cluster.permission.is_refused(namespace))
        attempt = self._attempt(submission, sink, namespace, layout, LostItems(losses=losses), shares=shares)
        validate(self._job_spec(attempt, submission, layout, NEWEST, {}))  # a wrong template is refused here
        self._numbers[submission.call] = number
        self._tracker.add(attempt)
        self._jobs.create(attempt, lambda: self._made(attempt, submission, layout))
        self._widening.watch(attempt)
        self._look_at_held(attempt)

    def _growing(self, submission: Submission, sink: Sink, namespace: str, growths: int) -> Sink:
        """The sink, or where ``memory`` leaves room, one that has items run again with more, so often at most."""
        options = more_memory(submission.options)
        if options is None or growths < 1:
            return sink

        def again(items: list[int]) -> None:
            why = f"out of memory, next attempt with {options.memory_start}"
            sink.moved(items, Whereabouts(Phase.SUBMITTING, why))
            these = {index: submission.items[index] for index in items}
            used = submission.used + 1
            grown = dataclasses.replace(submission, options=options, items=these, chunksize=1, used=used)
            self._submit(grown, self._growing(grown, sink, namespace, growths - 1), namespace)

        return GrowingSink(sink, again, lambda work: self._cluster.later(GATHER, work))

    def _attempt(
        self, submission: Submission, sink: Sink, namespace: str, layout: Layout, lost: LostItems, *, shares: bool
    ) -> MapAttempt:
        options = submission.options
        size = sum(map(len, submission.items.values())) + records.ITEM.size * len(submission.items)
        return MapAttempt(
            call=submission.call,
            job=job_name(submission.call, submission.attempt),
            function=submission.function,
            namespace=namespace,
            key=submission.key,
            options=options,
            sink=ItemsSink(sink, layout.indexes),
            stays=options.detach,
            whole=sink,
            chunks=layout.chunks,
            sent=submission,
            demands=self._demands.get(namespace, NOTHING),
            will_run_again=sink.holds if isinstance(sink, GrowingSink) else lambda _: False,
            uploads_items=size > ITEMS_LIMIT,
            lost=lost,
            shares=shares,
        )

    def _made(self, attempt: MapAttempt, submission: Submission, layout: Layout) -> JobSpec:
        server = self._ask_server(attempt)
        if needs_places_again(attempt, submission):
            attempt.sink.moved(Whereabouts(Phase.SUBMITTING, PLACES_NEEDED))
        self._cluster.permission.ask(attempt.namespace)
        if attempt.shares and self._cluster.permission.is_refused(attempt.namespace):
            layout = layout_of(submission, adapts=False)  # nobody can ask its Pods to give items back
            attempt.lay_out(layout)
        return self._job_spec(attempt, submission, layout, server, files_of(attempt, submission, layout))

    def _ask_server(self, attempt: MapAttempt) -> ServerVersion:
        """Its version, asked once; what a map lacks there is said once."""
        if self._server is not None:
            return self._server
        try:
            server = ServerVersion.of(self._cluster.api.request("GET", "/version").body)
        except TROUBLE:
            return NEWEST
        self._server = server
        if server.lost is not None:
            attempt.sink.moved(Whereabouts(Phase.SUBMITTING, server.lost))
        return server

    def _job_spec(
        self,
        attempt: MapAttempt,
        submission: Submission,
        layout: Layout,
        server: ServerVersion,
        files: Mapping[str, bytes],
    ) -> JobSpec:
        parallelism = submission.max_parallelism or MAX_PARALLELISM
        return JobSpec(
            call=submission.call,
            session=self._cluster.session,
            function=submission.function,
            namespace=attempt.namespace,
            options=submission.options,
            files={**files, SPEC_FILE: runner_spec_of(attempt, submission, layout, server).encoded()},
            attempt=submission.attempt,
            demands=attempt.demands,
            indexed=Indexed(
                items=len(layout.indexes),
                chunks=len(attempt.chunks),
                longest=layout.size,
                parallelism=parallelism,
                server=server,
            ),
        )

    # -- how chunks end

    def chunk_ended(self, chunk: ChunkAttempt, envelope: Envelope) -> None:
        """All that it had to say has come."""
        if envelope.header["outcome"] != CHUNK:  # one error, for each of its items
            chunk.of.note_failures(chunk.items)
        missing = chunk.of.whole.missing(chunk.close())
        if missing and chunk.of.sent is None:
            self._look_for_later_job(chunk.of, missing, _gone(chunk))
        elif missing:
            self._lose(chunk.of, missing, _gone(chunk))
        self._end(chunk)

    def chunk_failed(self, chunk: ChunkAttempt, finding: Finding, tail: tuple[str, ...]) -> None:
        """It has ended without all its outcomes: an item that was at fault has the error, the others run again."""
        error = finding.as_error(chunk.diagnosis(tail))
        if isinstance(error, (errors.PodStartError, errors.ClusterError)):
            self._fail_told(chunk.of, finding, error)  # what keeps one Pod from starting keeps all
            return
        whole, pod = chunk.of.whole, chunk.pods.current() or chunk.pods.vanished
        reason = _JOB_ENDED if _ended_with_another(chunk) else finding.reason
        guilty, innocent = blame(whole.missing(chunk.close()), pod.at if pod is not None else None, reason)
        if guilty:
            whole.fail(guilty, error)
            chunk.of.note_failures(guilty)
        if finding.job_goes_on and pod is not None:
            chunk.go_on_without(pod)  # the Job replaces the Pod: it is told to skip what has an outcome
            return
        if innocent:
            self._lose(chunk.of, innocent, error, at_fault=bool(guilty))
        self._end(chunk)

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
            over = lead.whole.settled or lead.stays or lead.lost.innocent
            if over and lead.claim():
                if not lead.is_kept:
                    self._jobs.want_deleted(lead)
                self._tracker.let_go(lead)

    # -- what was lost

    def _lose(self, lead: MapAttempt, items: Sequence[int], error: KubefuncError, *, at_fault: bool = False) -> None:
        """Run these items again in a new Job. Give up after several attempts without progress."""
        sent = lead.sent
        if not at_fault:
            lead.lost.note_innocent()
        if sent is None or (not at_fault and lead.lost.losses >= sent.options.max_disruptions):
            lead.whole.fail(items, error)
            return
        with lead.lock:
            is_first = lead.lost.add(items, at_fault=at_fault)
        if is_first:
            self._cluster.later(GATHER, lambda: self._run_lost(lead, sent))

    def _run_lost(self, lead: MapAttempt, sent: Submission) -> None:
        with lead.lock:
            lost = lead.lost.take()
            size = lead.lost.chunksize(len(lead.chunks[0]))
        missing = lead.whole.missing(lost)
        if not missing or lead.whole.settled:
            return
        lead.whole.moved(missing, Whereabouts(Phase.SUBMITTING, "lost with their Pod, they run again"))
        items = {index: sent.items[index] for index in missing}
        again = dataclasses.replace(sent, items=items, chunksize=size)
        self._submit(again, lead.whole, lead.namespace, shares=lead.shares, losses=lead.lost.losses + 1)

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
        sent = lead.sent
        if sent is not None:
            items = {index: sent.items[index] for chunk in lead.chunks for index in chunk}
            again = dataclasses.replace(sent, items=items)
            self._submit(again, lead.whole, lead.namespace, shares=lead.shares, losses=lead.lost.losses)

    # -- what was given back

    def _run_given(self, lead: MapAttempt, items: Mapping[int, bytes], size: int) -> None:
        """Run these items in one more Job: idle Pods for what others have not begun."""
        sent, wanted = lead.sent, lead.whole.missing(items)
        if sent is None or not wanted or lead.whole.settled:
            return
        lead.whole.moved(wanted, Whereabouts(Phase.SUBMITTING))
        these = {index: items[index] for index in sorted(wanted)}
        more = dataclasses.replace(sent, items=these, chunksize=size)
        self._submit(more, lead.whole, lead.namespace, shares=True, losses=lead.lost.losses)

    # -- from another process

    def attach(self, call: str, namespace: str, sink: Sink) -> None:
        """Follow all Jobs of a map; where several have an item, the newest."""
        try:
            found = [(job, self._files_of(namespace, job, 1)) for job in self._jobs.of_call(namespace, call)]
        except TROUBLE as error:
            lost = isinstance(error, ApiError) and error.not_found
            sink.fail(None, _no_such_map(call, namespace) if lost else as_error(error))
            return
        maps = [(job, files, kept.checked_spec(call, files)) for job, files in found]
        if not maps or any(spec.map is None for _, _, spec in maps):
            sink.fail(None, _no_such_map(call, namespace))
            return
        self._numbers[call] = max(attempt_of(job) for job, _, _ in maps)
        function = str(maps[0][2].function)
        sink.opened(map_of(maps[0][2])["count"], function)
        cancelled = sink.settled  # while we looked for it: nothing else can have settled it
        left = set(range(map_of(maps[0][2])["count"]))
        for job, files, spec in reversed(maps):
            layout = Layout.from_json(map_of(spec))
            mine = left.intersection(layout.indexes)
            left -= mine
            whole = sink if len(maps) == 1 else SomeItems(sink, mine)
            attempt = _attached(call, namespace, job, files["key"], function, layout, whole)
            if cancelled:
                self._jobs.want_deleted(attempt)
            else:
                self._tracker.add_attached(attempt)
        if left:
            sink.fail(sorted(left), _no_such_map(call, namespace))

    def _look_for_later_job(
        self, lead: MapAttempt, items: Sequence[int], error: KubefuncError, looks: int = LATER_JOB_LOOKS
    ) -> None:
        """Items of an attached map that its client has taken back: it runs them in a Job that may be made just now."""
        try:
            jobs = self._jobs.of_call(lead.namespace, lead.call)
            names = [job["metadata"]["name"] for job in jobs]
            later = jobs[names.index(lead.job) + 1 :] if lead.job in names else []
            left = set(items)
            for job in reversed(later):
                files = self._files_of(lead.namespace, job, 1)
                left -= self._follow(lead, job, files, left)
        except TROUBLE as trouble:
            lead.whole.fail(items, as_error(trouble))
            return
        if left and looks > 1:
            rest = sorted(left)
            again = lambda: self._look_for_later_job(lead, rest, error, looks - 1)  # noqa: E731
            self._cluster.later(LATER_JOB_PAUSE, again)
        elif left:
            lead.whole.fail(sorted(left), error)

    def _follow(self, lead: MapAttempt, job: JsonDict, files: Mapping[str, bytes], items: set[int]) -> set[int]:
        """Follow this Job for those of the items that it runs; which these are."""
        layout = Layout.from_json(map_of(kept.checked_spec(lead.call, files)))
        mine = items.intersection(layout.indexes)
        if mine:
            whole = SomeItems(lead.whole, mine)
            self._tracker.add_attached(
                _attached(lead.call, lead.namespace, job, files["key"], lead.function, layout, whole)
            )
        return mine

    def read(self, call: str, namespace: str) -> Submission:
        """What was submitted.

        Raises:
            ConfigurationError: it is not there any more, or not all of it ever was.
            KubefuncError: the cluster does not let us look.
        """
        try:
            jobs = [job for job in self._jobs.of_call(namespace, call) if job["metadata"]["name"] == call]
            if not jobs:
                raise _nothing_to_read(call, "its first Job is gone")
            files = self._files_of(namespace, jobs[0], None)
        except TROUBLE as error:
            raise as_error(error) from error
        spec = kept.checked_spec(call, files)
        if spec.upload or spec.upload_items:
            raise _nothing_to_read(call, "its arguments, too many for Secrets, never were on the cluster as a whole")
        layout = Layout.from_json(map_of(spec))
        items = joined(files, ITEMS)
        numbers = range(len(layout.chunks))
        return Submission(
            shape="map",
            call=call,
            function=spec.function,
            options=read_options(files),
            payload=Payload(joined(files, PAYLOAD), (), 0, 0),
            items={
                index: bytes(data)
                for number in numbers
                for index, data in records.split_items(records.chunk_of(items, number))
            },
            count=layout.count,
            chunksize=layout.size,
            max_parallelism=map_of(spec)["max_parallelism"],
            key=files["key"],
        )

    def _files_of(self, namespace: str, job: JsonDict, most: int | None) -> dict[str, bytes]:
        """What a Job's Secrets hold; of the first ``most`` of them."""
        files: dict[str, bytes] = {}
        for name in secrets_of(job)[:most]:
            path = f"{secrets_path(namespace)}/{name}"
            secret = self._cluster.api.request("GET", path, is_expected=is_named(name)).body
            files = kept.files_of(secret) | files  # the first one holds the key: none may put another in its place
        return files


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


def _ended_with_another(chunk: ChunkAttempt) -> bool:
    return chunk.pods.ended is None and chunk.job_news.job is not None and chunk.job_news.job.failed == _JOB_ENDED


def _attached(
    call: str, namespace: str, job: JsonDict, key: bytes, function: str, layout: Layout, whole: Sink
) -> MapAttempt:
    return MapAttempt(
        call=call,
        job=job["metadata"]["name"],
        function=function,
        namespace=namespace,
        key=key,
        options=Options(),
        sink=ItemsSink(whole, layout.indexes),
        stays=True,
        whole=whole,
        chunks=layout.chunks,
        objects=JobObjects.existing(job["metadata"]["uid"]),
        progress=Progress(Phase.PENDING),
    )


def _gone(chunk: ChunkAttempt) -> errors.ResultLostError:
    return errors.ResultLostError(
        f"The chunk {chunk.number} of {chunk.call} has ended, but the results of some of its items are gone. "
        "retry_failed() runs them again."
    )


def _no_such_map(call: str, namespace: str) -> errors.ResultLostError:
    return errors.ResultLostError(
        f"There is no map {call} in the namespace {namespace}, or not all of it: it was cancelled, its results were "
        "collected or discarded, or its ttl has run out. If it runs in another namespace, give that too: "
        "attach_map('namespace/id')."
    )


def _nothing_to_read(call: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"The items of {call} cannot be run again from here: {why}. Map its failed inputs again.")

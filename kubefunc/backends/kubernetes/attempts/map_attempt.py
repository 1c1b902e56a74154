"""A map on the cluster: one Job, an attempt for it, and one for each chunk that has a Pod and has not ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kubefunc.backends.base import Sink, Submission
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.attempts.cargo import Cargo, cargo_of, files_of
from kubefunc.backends.kubernetes.attempts.held import HeldPod, HeldPods
from kubefunc.backends.kubernetes.attempts.items import ItemsSink
from kubefunc.backends.kubernetes.attempts.job_objects import JobObjects
from kubefunc.backends.kubernetes.attempts.keeping import is_kept
from kubefunc.backends.kubernetes.attempts.layout import Layout
from kubefunc.backends.kubernetes.attempts.pods import JobNews, Progress
from kubefunc.backends.kubernetes.attempts.receipt import ChunkReceipt, Receipt
from kubefunc.backends.kubernetes.attempts.waiting import Waiting
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects import views
from kubefunc.backends.kubernetes.objects.views import Job, Pod
from kubefunc.chunks import MAX_PARALLELISM
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.envelope import Envelope
from kubefunc.options import Options
from kubefunc.packing.sent_files import SentFile
from kubefunc.runner import LOG_LIMIT
from kubefunc.runner.protocol import records
from kubefunc.runner.protocol.records import Record

# Of a map: an early stream to each saves it the kubelet's tick, and costs no more than those of as many calls.
FEW_PODS = 4

_BEFORE_RUNNING = (Phase.PENDING, Phase.STARTING)


@dataclass(eq=False, kw_only=True)
class MapAttempt(Attempt):
    """One Job of a map.

    Attributes:
        whole: the map's sink.
        chunks: the items of each index of the Job.
        sent: what was submitted; None for an attached map.
        living: an attempt for each chunk that has a Pod and has not ended, by its number.
        ended: the numbers of those that have.
        was_replaced: items were lost through no fault of theirs and run in another Job: this one would start their
            Pods again.
        uploads_items: the arguments are too much for Secrets: each Pod is brought its own.
        shares: running Pods may be asked to give back items that they have not begun.
        held: Pods that keep results which are here already.
    """

    whole: Sink
    chunks: list[Sequence[int]]
    sent: Submission | None = None
    living: dict[int, ChunkAttempt] = field(default_factory=dict[int, "ChunkAttempt"])
    ended: set[int] = field(default_factory=set[int])
    was_replaced: bool = False
    uploads_items: bool = False
    shares: bool = False
    held: HeldPods = field(default_factory=HeldPods)

    @property
    def most_pods(self) -> int:
        """How many Pods of the map may run at once."""
        return (self.sent.max_parallelism if self.sent is not None else None) or MAX_PARALLELISM

    @property
    def longest(self) -> int:
        """How many items a chunk has: the last one may have fewer."""
        return len(self.chunks[0])

    def arguments(self, index: int) -> bytes:
        """The pickled arguments of one of its items."""
        return b"" if self.sent is None else self.sent.items[index]

    @property
    def _was_sent_from_here(self) -> bool:
        return self.sent is not None

    def running(self) -> list[ChunkAttempt]:
        """The chunks whose Pods run."""
        with self.lock:
            living = list(self.living.values())
        return [chunk for chunk in living if chunk.progress.phase is Phase.RUNNING and chunk.pods.ended is None]

    def has_waiting_pods(self) -> bool:
        """Whether some chunk has no Pod that runs or has run."""
        with self.lock:
            begun = sum(chunk.progress.phase not in _BEFORE_RUNNING for chunk in self.living.values())
            return self.progress.phase is Phase.SUBMITTING or len(self.ended) + begun < len(self.chunks)

    @property
    def has_ended(self) -> bool:
        """Whether each of its chunks has."""
        return len(self.ended) == len(self.chunks)

    @property
    def is_spent(self) -> bool:
        """Whether every outcome is here and the Job is not over yet."""
        return self.whole.settled and not (self.over or self.stays)

    @property
    def is_kept(self) -> bool:
        """Whether the Job is not deleted when all its chunks have ended."""
        if self.stays or self.was_replaced:
            return self.stays
        failed = self.whole.has_failures(index for chunk in self.chunks for index in chunk)
        return is_kept(self.options.keep, failed=failed)

    def lay_out(self, layout: Layout) -> None:
        """Lay its items out in other chunks, before the Job is made."""
        self.chunks = layout.chunks

    def replace(self) -> None:
        """Items that it has lost run in another Job."""
        self.was_replaced = True

    def parts(self) -> list[Attempt]:
        """The Job's own attempt first: what it waits for depends on the others."""
        with self.lock:
            living = list(self.living.values())
        self._refresh(living)
        return [self, *living]

    def _refresh(self, living: list[ChunkAttempt]) -> None:
        """Where the map is as a whole: it waits only while none of its Pods runs, for what the first of them waits."""
        if self.over or self.progress.phase is Phase.SUBMITTING:
            return
        if self.has_ended:
            self.progress.summarize(Phase.RUNNING)  # further Jobs of the map do: this one waits for nothing
            self.waiting.found(None)
            return
        waiting = [chunk for chunk in living if chunk.progress.phase in (Phase.PENDING, Phase.STARTING)]
        for each in waiting[1:]:  # one line says for all what they wait for
            each.waiting.keep_quiet()
        for each in waiting[:1]:
            each.waiting.speak()
        if living:
            self.waiting.keep_quiet()
        else:
            self.waiting.speak()
        if any(chunk.progress.phase in (Phase.RUNNING, Phase.FETCHING) for chunk in living):
            self.progress.summarize(Phase.RUNNING)
            self.waiting.start_over()
            self.waiting.found(None)
            return
        self.progress.summarize(Phase.PENDING)
        if living:  # else it is known from the Job's Events, or not at all
            self.waiting.found(
                next((chunk.waiting.finding for chunk in living if chunk.waiting.finding is not None), None)
            )

    def of_index(self, index: int | None) -> Attempt | None:
        if index is None or index >= len(self.chunks):
            return None
        with self.lock:
            if self.over or index in self.ended:
                return None
            found = self.living.get(index)
            if found is None:
                found = self.living[index] = self._chunk(index)
            return found

    def _chunk(self, index: int) -> ChunkAttempt:
        items = self.chunks[index]
        mine = ItemsSink(self.whole, items)
        return ChunkAttempt(
            call=self.call,
            job=self.job,
            function=self.function,
            namespace=self.namespace,
            key=self.key,
            options=_options_of_chunk(self.options),
            sink=mine,
            mine=mine,
            stays=self.stays,
            objects=JobObjects(uid=self.objects.uid, created=True),
            progress=Progress(Phase.PENDING),
            waiting=Waiting(looks=self.waiting.looks),
            job_news=JobNews(self.job_news.job),
            of=self,
            number=index,
            items=items,
        )

    def shown_by(self, finding: Finding) -> Attempt:
        with self.lock:
            return next((chunk for chunk in self.living.values() if finding.same_as(chunk.waiting.finding)), self)

    def living_part(self, index: int) -> Attempt | None:
        with self.lock:
            return self.living.get(index)

    def diagnosis(self, log_tail: tuple[str, ...] = ()) -> Diagnosis:
        """Names the Pod of a chunk that waits: what keeps that one keeps all of them."""
        with self.lock:
            waiting = [chunk for chunk in self.living.values() if chunk.progress.phase in _BEFORE_RUNNING]
        known = super().diagnosis(log_tail)
        pod = waiting[0].pods.current() if waiting and self.progress.phase in _BEFORE_RUNNING else None
        return known if pod is None else dataclasses.replace(known, pod=pod.name, node=pod.node)

    def end(self, chunk: ChunkAttempt) -> bool:
        """This chunk needs no news any more. True where it was the last."""
        with self.lock:
            self.living.pop(chunk.number, None)
            self.ended.add(chunk.number)
            return len(self.ended) == len(self.chunks)

    def without_end(self) -> list[Attempt]:
        numbers = [number for number in range(len(self.chunks)) if number not in self.ended]
        parts = [part for part in map(self.of_index, numbers) if part is not None]
        return [each for part in parts for each in part.without_end()]

    def saw(self, job: Job) -> None:
        super().saw(job)
        failed = views.indexes(job.failed_indexes)
        with self.lock:
            living = list(self.living.values())
        for chunk in living:
            chunk.job_news.keep(job)
            if chunk.number in failed:
                chunk.job_news.finish()

    def claim(self) -> bool:
        """With the whole, its parts are over."""
        claimed = super().claim()
        with self.lock:
            living = list(self.living.values())
        for chunk in living:
            chunk.claim()
        return claimed


@dataclass(eq=False, kw_only=True)
class ChunkAttempt(Attempt):
    """One index of a map's Job: made when its first Pod is seen, dropped when it has ended.

    Attributes:
        items: those that run here: what was given back does not.
        given: the items that were given back.
        closed: it is decided what becomes of its items.
        heard_of: the UID of a Pod whose outcomes came before the news that it runs.
    """

    of: MapAttempt
    mine: ItemsSink
    number: int
    items: Sequence[int]
    given: set[int] = field(default_factory=set[int])
    closed: bool = False
    heard_of: str = ""

    def of_index(self, index: int | None) -> Attempt | None:
        return self if index == self.number else None

    def go_on_without(self, pod: Pod) -> None:
        """This Pod has failed, and that was told; the one that replaces it has the rest of the chunk."""
        with self.lock:
            self.reopen()
            self.closed = False
            self.write_off(pod)

    def give(self, pod: Pod, items: Iterable[int]) -> list[int]:
        """This Pod will not run these items. Those that may run elsewhere now: each is given back once.

        None where this comes too late: the chunk has ended, or another Pod, which was not told to skip them, runs them.
        """
        with self.of.lock:
            counts = self.pods.current()
            if self.closed or counts is None or counts.uid != pod.uid:
                return []
            new = sorted(set(items).intersection(self.items))
            self.given.update(new)
            self.items = [index for index in self.items if index not in self.given]
            self.of.chunks[self.number] = self.items
            self.mine.give_up(new)
            if isinstance(self.of.sink, ItemsSink):
                self.of.sink.give_up(new)
            return new

    def releases(self, pod: str, envelope: Envelope, receipt: Receipt) -> bool:
        """What fits into a log stays there. Else the Pod keeps it until the map ends, or another needs the place."""
        if self.stays or not envelope.header.get("complete", True):
            return not self.stays
        if receipt.received <= LOG_LIMIT and self.options.results_in_log and not receipt.files.any:
            return True
        with self.of.lock:
            needs_place = len(self.of.chunks) > self.of.most_pods and self.of.has_waiting_pods()
            if self.of.over or needs_place:
                return True
            self.of.held.hold(HeldPod(pod, receipt))
            return False

    def close(self) -> Sequence[int]:
        """The items whose fate is decided now: none is given back any more."""
        with self.of.lock:
            self.closed = True
            return self.items

    @property
    def _was_sent_from_here(self) -> bool:
        return self.of.sent is not None

    @property
    def will_be_deleted(self) -> bool:
        return self.of.objects.delete_wanted

    @property
    def is_hurried(self) -> bool:
        return len(self.of.chunks) <= FEW_PODS and self.options.express and not self.stays

    @property
    def is_gradual(self) -> bool:
        return len(self.items) > 1

    def index_failed(self, job: Job) -> bool:
        return self.number in views.indexes(job.failed_indexes)

    def new_receipt(self) -> Receipt:
        return ChunkReceipt(self.key, self.call, self.number, self._take, self.result_limit, self._is_wanted)

    def _is_wanted(self, index: int) -> bool:
        return bool(self.of.whole.missing((index,)))

    def _take(self, outcomes: Sequence[Record]) -> None:
        """They may come before the news that their Pod runs: the stream from its courier is faster."""
        self.mine.take(outcomes)
        with self.lock:
            pod = self.pods.named(self.fetch.receipt_pod)
            if pod is not None and pod.where in _BEFORE_RUNNING:
                self.heard_of = pod.uid
                self.move_to(Phase.RUNNING, pod)

    def move(self, pod: Pod) -> None:
        if pod.uid != self.heard_of or pod.where not in _BEFORE_RUNNING:
            super().move(pod)

    def cargo(self, pod: str) -> Cargo:
        sent = self.of.sent
        cargo: Cargo = {} if sent is None else cargo_of(sent)
        if sent is not None and self.of.uploads_items:
            cargo["items"] = lambda: records.join_items([(index, sent.items[index]) for index in self.items])
        if any(each.name == pod and each.replaces for each in list(self.pods.known.values())):
            cargo["skip"] = self._outcomes
        return cargo

    def files(self) -> Mapping[str, SentFile]:
        sent = self.of.sent
        return {} if sent is None else files_of(sent, self.items)

    def _outcomes(self) -> bytes:
        missing = set(self.of.whole.missing(self.items))
        everything = sorted(self.given.union(self.items))
        return records.pack_indexes(index for index in everything if index not in missing)


def _options_of_chunk(options: Options) -> Options:
    """A chunk may wait for a node as long as others run."""
    if options.schedule_timeout is None or options.gang is not None:  # in a gang all wait for each
        return options
    return dataclasses.replace(options, schedule_timeout=None)

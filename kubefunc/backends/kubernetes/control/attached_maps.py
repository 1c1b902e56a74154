"""Maps of another process: following their Jobs, and reading what was submitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kubefunc import errors
from kubefunc.backends.base import Sink, Submission
from kubefunc.backends.kubernetes.api.answers import is_named
from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.requests import ApiError, as_error
from kubefunc.backends.kubernetes.attempts.items import ItemsSink
from kubefunc.backends.kubernetes.attempts.job_objects import JobObjects
from kubefunc.backends.kubernetes.attempts.layout import Layout
from kubefunc.backends.kubernetes.attempts.map_attempt import MapAttempt
from kubefunc.backends.kubernetes.attempts.pods import Progress
from kubefunc.backends.kubernetes.control.cluster import Cluster
from kubefunc.backends.kubernetes.control.jobs import Jobs, JsonDict
from kubefunc.backends.kubernetes.control.map_objects import (
    attempt_of,
    joined,
    map_of,
    read_options,
    secrets_of,
)
from kubefunc.backends.kubernetes.control.tracker import Tracker
from kubefunc.backends.kubernetes.objects import kept
from kubefunc.backends.kubernetes.objects.paths import secrets_path
from kubefunc.diagnosis import Phase
from kubefunc.errors import ConfigurationError
from kubefunc.packing.code_archive import NO_CODE
from kubefunc.packing.payload import Payload
from kubefunc.runner import ITEMS, PAYLOAD
from kubefunc.runner.protocol import records
from kubefunc.runner.protocol.file import numbers_in
from kubefunc.runner.protocol.wire import split_payload
from kubefunc.untrusted import UntrustedSink

LATER_JOB_LOOKS = 5  # for a Job that another client makes for what it has taken back
LATER_JOB_PAUSE = 2.0


class AttachedMaps:
    """Maps that another process has made."""

    def __init__(self, cluster: Cluster, jobs: Jobs, tracker: Tracker) -> None:
        self._cluster = cluster
        self._jobs = jobs
        self._tracker = tracker

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
        self._jobs.note_number(call, max(attempt_of(job) for job, _, _ in maps))
        function = str(maps[0][2].function)
        if any(spec.untrusted for _, _, spec in maps):
            sink = UntrustedSink(sink)
        sink.opened(map_of(maps[0][2])["count"], function)
        cancelled = sink.settled  # while we looked for it: nothing else can have settled it
        left = set(range(map_of(maps[0][2])["count"]))
        attempts: list[MapAttempt] = []
        for number, (job, files, spec) in enumerate(maps):
            layout = Layout.from_json(map_of(spec))
            left.difference_update(layout.indexes)
            whole = sink if number == 0 else attempts[-1].whole.later(layout.indexes)
            attempts.append(_attached(call, namespace, job, files, function, layout, whole))
        for attempt in reversed(attempts):
            if cancelled:
                self._jobs.want_deleted(attempt)
            else:
                self._tracker.add_attached(attempt)
        if left:
            sink.fail(sorted(left), _no_such_map(call, namespace))

    def look_for_later_job(self, lead: MapAttempt, items: Sequence[int], looks: int = LATER_JOB_LOOKS) -> None:
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
            again = lambda: self.look_for_later_job(lead, rest, looks - 1)  # noqa: E731
            self._cluster.later(LATER_JOB_PAUSE, again)
        elif left:
            lead.whole.fail(sorted(left), _taken_back(lead.call))

    def _follow(self, lead: MapAttempt, job: JsonDict, files: Mapping[str, bytes], items: set[int]) -> set[int]:
        """Follow this Job for those of the items that it runs; which these are."""
        layout = Layout.from_json(map_of(kept.checked_spec(lead.call, files)))
        mine = items.intersection(layout.indexes)
        if mine:
            whole = lead.whole.later(mine)
            self._tracker.add_attached(_attached(lead.call, lead.namespace, job, files, lead.function, layout, whole))
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
        if spec.upload or spec.upload_items or (spec.packages or {}).get("sent"):
            raise _nothing_to_read(call, "its arguments, too many for Secrets, never were on the cluster as a whole")
        layout = Layout.from_json(map_of(spec))
        chunks = [records.chunk_of(joined(files, ITEMS), number) for number in range(len(layout.chunks))]
        items = {index: bytes(data) for chunk in chunks for index, data in records.split_items(chunk)}
        shared = split_payload(joined(files, PAYLOAD))[1]
        if any(map(numbers_in, (shared, *items.values()))):
            raise _nothing_to_read(call, "the files among its arguments are with the program that started it")
        return Submission(
            shape="map",
            call=call,
            function=spec.function,
            options=read_options(files),
            payload=Payload(NO_CODE, b"", joined=joined(files, PAYLOAD)),
            items=items,
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


def _attached(
    call: str, namespace: str, job: JsonDict, files: Mapping[str, bytes], function: str, layout: Layout, whole: Sink
) -> MapAttempt:
    return MapAttempt(
        call=call,
        job=job["metadata"]["name"],
        function=function,
        namespace=namespace,
        key=files["key"],
        options=kept.options_of(files),
        sink=ItemsSink(whole, layout.indexes),
        stays=True,
        whole=whole,
        chunks=layout.chunks,
        objects=JobObjects.existing(job["metadata"]["uid"]),
        progress=Progress(Phase.PENDING),
    )


def _no_such_map(call: str, namespace: str) -> errors.ResultLostError:
    return errors.ResultLostError(
        f"There is no map {call} in the namespace {namespace}, or not all of it: it was cancelled, its results were "
        "collected or discarded, or its ttl has run out. If it runs in another namespace, give that too: "
        "attach_map('namespace/id')."
    )


def _taken_back(call: str) -> errors.ResultLostError:
    """No process may make the Job in its place: it may go on, and an observer starts nothing."""
    return errors.ResultLostError(
        f"These items of {call} have not run. The program that made the map took them back from a Pod, to run them in "
        "another one, and was ended before it had made that. retry_failed() runs them."
    )


def _nothing_to_read(call: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"The items of {call} cannot be run again from here: {why}. Map its failed inputs again.")

"""One call or map on the cluster, started by this client or another: cancel, discard, logs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator

from kubefunc import errors
from kubefunc.backends.base import Submission
from kubefunc.backends.kubernetes.api.answers import is_list
from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.requests import Api, ApiError, JsonDict, as_error
from kubefunc.backends.kubernetes.control.access import ClusterAccess
from kubefunc.backends.kubernetes.control.jobs import Jobs
from kubefunc.backends.kubernetes.control.maps import Maps
from kubefunc.backends.kubernetes.control.publish import publish
from kubefunc.backends.kubernetes.control.tracker import Tracker
from kubefunc.backends.kubernetes.objects import published
from kubefunc.backends.kubernetes.objects.isolation import UNTRUSTED_LABEL
from kubefunc.backends.kubernetes.objects.job import owner_of_job
from kubefunc.backends.kubernetes.objects.labels import CALL_LABEL
from kubefunc.backends.kubernetes.objects.paths import log_path, pods_path
from kubefunc.backends.kubernetes.objects.views import items_of
from kubefunc.backends.kubernetes.results.output import printed
from kubefunc.options import ConfigMapKey, Options, SecretKey
from kubefunc.runner import MAIN
from kubefunc.untrusted import printable_output

_FOLLOW_IDLE = 4 * 3600.0
_FOLLOW_AGAIN = 0.25  # seconds between two looks for a Pod whose log can be followed


class ClusterWork:
    """Implements :class:`kubefunc.backends.base.Work`. It holds no state: what is known is the tracker's."""

    def __init__(
        self, call: str, namespace: str, options: Options | None, api: Api, jobs: Jobs, tracker: Tracker, maps: Maps
    ) -> None:
        """``options``: where this client has submitted it."""
        self._call = call
        self._namespace = namespace
        self._options = options
        self._api = api
        self._jobs = jobs
        self._tracker = tracker
        self._maps = maps

    def address(self) -> str:
        return f"{self._namespace}/{self._call}"

    def outlives_program(self) -> bool:
        return any(attempt.objects.created for attempt in self._tracker.of(self._call))

    def read(self) -> Submission:
        return self._maps.read(self._call, self._namespace)

    def cancel(self) -> None:
        for attempt in self._tracker.of(self._call):
            attempt.claim()
            self._jobs.want_deleted(attempt)
            self._tracker.let_go(attempt)

    def discard(self) -> None:
        for attempt in self._tracker.of(self._call):
            self._jobs.want_deleted(attempt)
            if attempt.claim():
                self._tracker.let_go(attempt)
                attempt.sink.fail(errors.JobDeletedError(f"{self._call} was discarded before it had ended."))
        try:
            for job in self._jobs.of_call(self._namespace, self._call):
                self._jobs.delete_job(self._namespace, job["metadata"]["name"])
            self._jobs.delete_secret(self._namespace, self._call)
        except TROUBLE as error:
            raise as_error(error) from error

    def publication(self) -> ConfigMapKey | SecretKey | None:
        try:
            job = self._newest_job()
        except TROUBLE as error:
            raise as_error(error) from error
        return None if job is None else published.read_from(job)

    def publish(self, to: ConfigMapKey | SecretKey, content: str | bytes) -> bool:
        publish(self._api, self._namespace, to, content, self._call, lambda: self._owner(to))
        return True

    def _owner(self, to: ConfigMapKey | SecretKey) -> JsonDict | None:
        job = self._newest_job() if to.owned else None
        return None if job is None else owner_of_job(job["metadata"]["name"], job["metadata"]["uid"])

    def _newest_job(self) -> JsonDict | None:
        jobs = self._jobs.of_call(self._namespace, self._call)
        return jobs[-1] if jobs else None

    def access(self) -> ClusterAccess:
        return ClusterAccess(self._api, self._jobs, self._call, self._namespace, self._options)

    def drain(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._tracker.of(self._call) and time.monotonic() < until:
            time.sleep(0.01)

    def logs(self, follow: bool) -> Iterator[bytes]:
        if follow:
            yield from self._follow()
            return
        for pod in self._pods():
            path = log_path(self._namespace, pod["metadata"]["name"])
            with contextlib.suppress(ApiError):  # its container has not started
                yield from _shown(pod, [self._api.read_bytes(path, query={"container": MAIN})])

    def _follow(self) -> Iterator[bytes]:
        """Of one Pod after another, each from its start, until the call has ended. A Pod may still have to come."""
        followed: set[str] = set()
        while True:
            goes_on = bool(self._tracker.of(self._call))
            for pod in self._pods():
                name = pod["metadata"]["name"]
                if name in followed:
                    continue
                try:
                    path, query = log_path(self._namespace, name), {"container": MAIN, "follow": "true"}
                    with self._api.stream_bytes(path, query, idle_timeout=_FOLLOW_IDLE) as stream:
                        followed.add(name)
                        yield from _shown(pod, stream)
                except ApiError as error:  # its container has not started, or the Pod is gone
                    if error.not_found or not goes_on:
                        followed.add(name)
            if not goes_on:
                return
            time.sleep(_FOLLOW_AGAIN)

    def _pods(self) -> list[JsonDict]:
        path, query = pods_path(self._namespace), {"labelSelector": f"{CALL_LABEL}={self._call}"}
        return items_of(self._api.request("GET", path, query=query, is_expected=is_list).body)


def _shown(pod: JsonDict, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What a Pod printed; fit for a terminal, where its function is not trusted."""
    untrusted = UNTRUSTED_LABEL in pod["metadata"].get("labels", {})
    return printable_output(printed(pieces)) if untrusted else printed(pieces)

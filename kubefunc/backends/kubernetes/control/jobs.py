"""The objects of a call: Secrets, then the Job, then the Secrets' owner; and their end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, cast

from kubefunc import errors
from kubefunc.backends.base import Submission, Whereabouts
from kubefunc.backends.kubernetes.api.answers import is_list, is_named
from kubefunc.backends.kubernetes.api.errors import TROUBLE, UNUSABLE, Trouble
from kubefunc.backends.kubernetes.api.own_pod import own_pod_reference
from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import METADATA_ONLY, Api, ApiError, ConnectionFailed, Query, as_error
from kubefunc.backends.kubernetes.attempts.attempt import Attempt
from kubefunc.backends.kubernetes.control.services import Services
from kubefunc.backends.kubernetes.control.volume_checks import VolumeChecks
from kubefunc.backends.kubernetes.diagnose.finding import Finding
from kubefunc.backends.kubernetes.objects.job import build_job, owner_patch
from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.labels import CALL_LABEL
from kubefunc.backends.kubernetes.objects.paths import jobs_path, secrets_path
from kubefunc.backends.kubernetes.objects.secrets import build_secrets, encoded
from kubefunc.backends.kubernetes.objects.views import items_of
from kubefunc.backends.kubernetes.results.value_streams import stream_refused
from kubefunc.backends.kubernetes.threads import Clock, Workers
from kubefunc.diagnosis import Phase
from kubefunc.runner import SPEC_FILE
from kubefunc.runner.protocol.spec import RunnerSpec

log = logging.getLogger("kubefunc.kubernetes.jobs")

JsonDict = dict[str, Any]
RETRY_DELAY = 5.0
RETRY_DELAY_AT_EXIT = 0.5
DELETE_TRIES = 24
_NOT_TAKEN = "Refused"
# Else the server drops a field that it does not know, and with it what a misspelt pod_template asked for.
_STRICT = {"fieldValidation": "Strict"}
_DELETE = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}


class Jobs:
    """Creates and deletes; ``refused(attempt, error)`` is told when a Job cannot be created at all."""

    def __init__(
        self,
        api: Api,
        requests: Workers,
        clock: Clock,
        permission: ExecPermission,
        refused: Callable[[Attempt, errors.KubefuncError], None],
    ) -> None:
        self._api = api
        self._services = Services(api)
        self._requests = requests
        self._clock = clock
        self._permission = permission
        self._refused = refused
        self._volume_checks = VolumeChecks(api)
        self._retry_delay = RETRY_DELAY
        self._lock = threading.RLock()
        self._owed: set[Attempt] = set()
        self._delayed: dict[Attempt, Callable[[], None]] = {}
        self._warned: set[str] = set()
        self._owners: dict[str, JsonDict] = {}  # this program's Pod, for Jobs of its namespace
        self._numbers: dict[str, int] = {}  # the newest Job's, of calls that may have several

    # -- the numbers of a call's Jobs

    def next_number(self, submission: Submission) -> int:
        """Of its next Job: an attempt may have several, one after another or for some of its items each."""
        with self._lock:
            return max(submission.attempt, self._numbers.get(submission.call, 0) + 1)

    def take_number(self, submission: Submission) -> int:
        """The same, for a Job that is made now: no other thread gets this number."""
        with self._lock:
            number = self.next_number(submission)
            self.note_number(submission.call, number)
            return number

    def note_number(self, call: str, number: int) -> None:
        """There is a Job of this number, and there may be more."""
        with self._lock:
            self._numbers[call] = max(number, self._numbers.get(call, 0))

    # -- creating

    def create(self, attempt: Attempt, make: Callable[[], JobSpec]) -> None:
        """Begin, in the background: also with what is to be created."""
        self._requests.do(lambda: self._create(attempt, make))

    def _create(self, attempt: Attempt, make: Callable[[], JobSpec]) -> None:
        """Secret first, then the Job: a Pod that misses its Secret backs off for minutes (k8s#95778)."""
        made: list[str] = []
        stored = False
        try:
            spec = self._with_owner(self._as_the_cluster_is(attempt, make()))
            self._services.check(spec)
            for secret in cast("list[JsonDict]", build_secrets(spec)):
                if _unwanted(attempt):
                    self._take_back(attempt, made)
                    return
                made.append(secret["metadata"]["name"])
                self._post(attempt, secrets_path(attempt.namespace), secret)
                stored = True
            if _unwanted(attempt):
                self._take_back(attempt, made)
                return
            job, warnings = self._post(attempt, jobs_path(attempt.namespace), build_job(spec), _STRICT)
            self._services.create(spec, job["metadata"]["uid"])
        except TROUBLE as error:
            # Whether a request whose answer was lost has been carried out is not known: then all is deleted too.
            self._not_created(attempt, make, made if stored or _maybe_carried_out(error) else [], error)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody must wait for a Job that never comes
            self._take_back(attempt, made)
            self._refused(attempt, _as_fault(error))
            return
        with attempt.lock:
            attempt.objects.were_created(job["metadata"]["uid"], made)
            attempt.waiting.server_warned(warnings)
            attempt.waiting.forget(_NOT_TAKEN)
            log.info("%s: created in namespace %s", attempt.job, attempt.namespace)
            if attempt.progress.phase is Phase.SUBMITTING:
                attempt.progress.reach(Phase.PENDING)
                self._tell_warnings(attempt, warnings)
                attempt.sink.moved(Whereabouts(Phase.PENDING, namespace=attempt.namespace))
        self._requests.do(lambda: self._own(attempt))

    def _as_the_cluster_is(self, attempt: Attempt, spec: JobSpec) -> JobSpec:
        """What is created, with what the cluster says: about its volumes, and of a client that may not exec.

        Raises:
            PermissionDeniedError: it may not, and a generator function needs it.
        """
        if spec.options.volumes:
            for note in self._volume_checks.check(spec, build_job(spec)):
                attempt.sink.moved(Whereabouts(Phase.SUBMITTING, note))
        self._permission.ask(attempt.namespace)
        if not self._permission.is_refused(spec.namespace):
            return spec
        if attempt.values is not None:
            raise stream_refused().as_error(attempt.diagnosis())
        told = RunnerSpec.read(spec.files[SPEC_FILE]).replace(fetch_grace=0.0, express=False, skip_wait=0.0)
        return dataclasses.replace(spec, files={**spec.files, SPEC_FILE: told.encoded()})

    def _with_owner(self, spec: JobSpec) -> JobSpec:
        """Let the Job go with the Pod that this program runs in, where that is wanted."""
        if spec.options.owner is None:
            return spec
        if spec.namespace not in self._owners:  # two threads may ask: the answer is the same
            self._owners[spec.namespace] = own_pod_reference(self._api, spec.namespace, os.environ)
        return dataclasses.replace(spec, owner=self._owners[spec.namespace])

    def _tell_warnings(self, attempt: Attempt, warnings: Sequence[str]) -> None:
        """What the server warns of, said once in a session: hundreds of calls may all get the same words."""
        for text in warnings:
            if text not in self._warned:
                self._warned.add(text)
                attempt.sink.moved(Whereabouts(Phase.PENDING, f"the cluster warns: {text}"))

    def _post(
        self, attempt: Attempt, path: str, body: JsonDict, query: Query | None = None
    ) -> tuple[JsonDict, tuple[str, ...]]:
        """Create an object; it, and what the server warns of.

        One that is there already is ours, where it says so: an earlier try was carried out.
        """
        name = body["metadata"]["name"]
        try:
            data = encoded(body) if body["kind"] == "Secret" else body
            reply = self._api.request(
                "POST",
                path,
                query=query,
                body=data,
                accept=METADATA_ONLY,
                is_expected=is_named(name),
                on_retry=lambda error: attempt.waiting.found(_not_taken(error)),
            )
            return reply.body, reply.warnings
        except ApiError as error:
            if not error.already_exists:
                raise
            there = self._api.request("GET", f"{path}/{name}", accept=METADATA_ONLY, is_expected=is_named(name)).body
            if not body["metadata"]["labels"].items() <= there["metadata"].get("labels", {}).items():
                raise
            return there, ()

    def _not_created(self, attempt: Attempt, make: Callable[[], JobSpec], made: list[str], error: Trouble) -> None:
        if isinstance(error, ApiError) and error.transient and not _unwanted(attempt):
            attempt.waiting.found(_not_taken(error))
            self._clock.after(RETRY_DELAY, lambda: self.create(attempt, make))
            return
        self._take_back(attempt, made)
        self._refused(attempt, as_error(error, attempt.diagnosis()))

    def _take_back(self, attempt: Attempt, made: Sequence[str]) -> None:
        with attempt.lock:
            attempt.objects.take_back(made)
        if made:
            self._owe(attempt)
            self._requests.do(lambda: self._delete(attempt))
        else:
            self._deleted(attempt)

    def _own(self, attempt: Attempt) -> None:
        """Give the Secrets to the Job. Off the critical path: metadata of an immutable Secret may still change."""
        patch = owner_patch(attempt.job, attempt.objects.uid)
        owned = True
        for name in attempt.objects.secrets:
            try:
                self.give(attempt.namespace, name, patch)
            except TROUBLE:
                owned = False
        with attempt.lock:
            wanted = attempt.objects.settle(owned=owned)
        if wanted:
            self._delete(attempt)

    def give(self, namespace: str, secret: str, owner: JsonDict) -> None:
        """Make a Secret belong to a Job, by the patch that says so."""
        path = f"{secrets_path(namespace)}/{secret}"
        kind = "application/merge-patch+json"
        self._api.request(
            "PATCH", path, body=owner, content_type=kind, accept=METADATA_ONLY, is_expected=is_named(secret)
        )

    # -- deleting

    def want_deleted(self, attempt: Attempt) -> None:
        """Delete the Job, in the background, once nothing of its creation is under way."""
        with attempt.lock:
            if not attempt.objects.want_deleted():
                return
            ready = attempt.objects.settled_requests
            self._owe(attempt)
        if ready:
            self._requests.do(lambda: self._delete(attempt))

    def hurry(self) -> None:
        """The program exits: try failed deletions again now, and from now on after a short pause."""
        self._retry_delay = RETRY_DELAY_AT_EXIT
        with self._lock:
            delayed = list(self._delayed.values())
        for delete_again in delayed:
            delete_again()

    def owed(self) -> set[Attempt]:
        """The attempts whose deletion was asked for and is neither done nor refused."""
        with self._lock:
            return set(self._owed)

    def _owe(self, attempt: Attempt) -> None:
        with self._lock:
            self._owed.add(attempt)

    def _deleted(self, attempt: Attempt) -> None:
        attempt.objects.were_deleted()
        with self._lock:
            self._owed.discard(attempt)

    def _delete(self, attempt: Attempt, tries: int = DELETE_TRIES) -> None:
        try:
            self.delete_job(attempt.namespace, attempt.job)
            if not attempt.objects.owned:
                for name in attempt.objects.secrets:
                    self.delete_secret(attempt.namespace, name)
            self._deleted(attempt)
            log.info("%s: deleted", attempt.job)
        except TROUBLE as error:
            if tries and not (isinstance(error, ApiError) and error.denied_by_role):
                self._delete_later(attempt, tries - 1)
                return
            with self._lock:
                self._owed.discard(attempt)

    def _delete_later(self, attempt: Attempt, tries: int) -> None:
        """Try again after a pause, or as soon as the program exits."""

        def delete_again() -> None:
            with self._lock:
                due = self._delayed.get(attempt) is delete_again
                if due:
                    del self._delayed[attempt]
            if due:
                self._requests.do(lambda: self._delete(attempt, tries))

        with self._lock:
            self._delayed[attempt] = delete_again
        self._clock.after(self._retry_delay, delete_again)

    def delete_job(self, namespace: str, name: str) -> None:
        """``Background`` must be said: the API's own default would orphan the Pods (client-python#234)."""
        with _absent_is_fine():
            self._api.request("DELETE", f"{jobs_path(namespace)}/{name}", body=_DELETE, accept=METADATA_ONLY)

    def delete_secret(self, namespace: str, name: str) -> None:
        """Where no Job owns it."""
        with _absent_is_fine():
            self._api.request("DELETE", f"{secrets_path(namespace)}/{name}")

    # -- reading

    def of_call(self, namespace: str, call: str) -> list[JsonDict]:
        """The Jobs of a call, the newest attempt last."""
        query = {"labelSelector": f"{CALL_LABEL}={call}"}
        jobs = items_of(self._api.request("GET", jobs_path(namespace), query=query, is_expected=is_list).body)
        return sorted(jobs, key=lambda job: (len(job["metadata"]["name"]), job["metadata"]["name"]))


def _as_fault(error: Exception) -> errors.KubefuncError:
    """Why a Job could not be made."""
    if isinstance(error, errors.KubefuncError):
        return error
    fault = errors.KubefuncError(f"The Job could not be made: {type(error).__name__}: {error}")
    fault.__cause__ = error
    return fault


def _not_taken(error: BaseException | None) -> Finding:
    words = error.message if isinstance(error, (ApiError, ConnectionFailed)) else str(error)
    return Finding(errors.ClusterError, _NOT_TAKEN, "The cluster cannot take the call now.", "", (words,), None)


def _unwanted(attempt: Attempt) -> bool:
    """Cancelled meanwhile: the attempt itself, or its call between two attempts."""
    return attempt.over or attempt.sink.settled


def _maybe_carried_out(error: Trouble) -> bool:
    return not isinstance(error, UNUSABLE) and error.maybe_carried_out


@contextlib.contextmanager
def _absent_is_fine() -> Generator[None]:
    try:
        yield
    except ApiError as error:
        if not error.not_found:
            raise

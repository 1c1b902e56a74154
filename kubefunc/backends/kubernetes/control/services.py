"""The Service in front of the Pods of a call: created behind its Job, which owns it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kubefunc.backends.kubernetes.api.answers import is_named
from kubefunc.backends.kubernetes.api.errors import ApiError
from kubefunc.backends.kubernetes.api.requests import Api, JsonDict, Query
from kubefunc.backends.kubernetes.objects.job import owner_patch
from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.labels import CALL_LABEL, MANAGED_BY, MANAGED_BY_LABEL
from kubefunc.backends.kubernetes.objects.paths import jobs_path, objects_path
from kubefunc.backends.kubernetes.objects.service import build_gang_service, build_service
from kubefunc.backends.kubernetes.objects.views import job_view
from kubefunc.errors import ConfigurationError

_DRY_RUN = {"dryRun": "All"}
_LOOKS, _PAUSE = 10, 0.5
_TRIES = 3  # another call's old Service may be deleted by its Job's end, by us, or by another client, all at once


class Services:
    """Checks and creates Services. Every method raises what a request raises, or ConfigurationError."""

    def __init__(self, api: Api, sleep: Callable[[float], None] = time.sleep) -> None:
        self._api = api
        self._sleep = sleep

    def check(self, spec: JobSpec) -> None:
        """Have the cluster refuse now, before anything of the call is created, a Service that it would refuse later.

        Raises:
            ConfigurationError: a Service of that name exists, and it may not be replaced.
        """
        if spec.attempt > 1:
            return
        headless = build_gang_service(spec, None)
        if headless is not None:
            self._post(spec, headless, _DRY_RUN)
        service = build_service(spec, None)
        if service is None:
            return
        there = self._post(spec, service, _DRY_RUN)
        if there is not None:
            self._check_replaceable(spec, there)

    def create(self, spec: JobSpec, job_uid: str) -> None:
        """Create it, owned by this Job; one of an earlier Job of the same call is given to this Job.

        Raises:
            ConfigurationError: a Service of that name exists, and it may not be replaced.
        """
        headless = build_gang_service(spec, job_uid)
        if headless is not None:
            self._post(spec, headless, None)  # what is there already was created by an earlier try
        service = build_service(spec, job_uid)
        if service is None:
            return
        for _ in range(_TRIES):
            there = self._post(spec, service, None)
            if there is None or self._is_taken_over(spec, there, job_uid):
                return
        raise _exists(spec, "other programs create and delete it at this moment")

    def _post(self, spec: JobSpec, service: JsonDict, query: Query | None) -> JsonDict | None:
        """None where it was created; the one that is there where its name is taken."""
        path = objects_path("services", spec.namespace)
        try:
            self._api.request("POST", path, query=query, body=service)
        except ApiError as error:
            if not error.already_exists:
                raise
            return self._get(f"{path}/{service['metadata']['name']}") or {}
        return None

    def _is_taken_over(self, spec: JobSpec, there: JsonDict, job_uid: str) -> bool:
        """Whether the Service is this Job's now. Otherwise its name is free, or will be in a moment."""
        path = f"{objects_path('services', spec.namespace)}/{spec.options.service}"
        if _call_of(there) == spec.call:
            patch = owner_patch(spec.name, job_uid)
            self._api.request("PATCH", path, body=patch, content_type="application/merge-patch+json")
            return True
        self._check_replaceable(spec, there)
        if there:
            self._delete(path, there["metadata"]["uid"])
        return False

    def _check_replaceable(self, spec: JobSpec, there: JsonDict) -> None:
        """That it is of kubefunc, and its Job is over.

        Raises:
            ConfigurationError: it is somebody else's, or of a call that still runs.
        """
        call = _call_of(there)
        if not there or call == spec.call:
            return
        if call is None:
            raise _exists(spec, "it was not created by kubefunc")
        # The Job of a call whose result is here already is about to be deleted.
        for _ in range(_LOOKS):
            if not self._has_unfinished_owner(spec.namespace, there):
                return
            self._sleep(_PAUSE)
        raise _exists(spec, f"it leads to the call {call}, which still runs")

    def _has_unfinished_owner(self, namespace: str, service: JsonDict) -> bool:
        for owner in service["metadata"].get("ownerReferences", ()):
            job = self._get(f"{jobs_path(namespace)}/{owner['name']}")
            if job and job["metadata"]["uid"] == owner["uid"]:
                seen = job_view(job)
                return not (seen.failed or seen.complete)
        return False

    def _get(self, path: str) -> JsonDict | None:
        try:
            return self._api.request("GET", path, is_expected=is_named(path.rpartition("/")[2])).body
        except ApiError as error:
            if error.not_found:
                return None
            raise

    def _delete(self, path: str, uid: str) -> None:
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}}
        try:
            self._api.request("DELETE", path, body=body)
        except ApiError as error:
            if not error.not_found and error.status != 409:  # gone, or already another one
                raise


def _call_of(service: JsonDict) -> str | None:
    """The call that a Service of ours belongs to."""
    labels: dict[str, Any] = service.get("metadata", {}).get("labels") or {}
    return labels.get(CALL_LABEL) if labels.get(MANAGED_BY_LABEL) == MANAGED_BY else None


def _exists(spec: JobSpec, why: str) -> ConfigurationError:
    name = spec.options.service
    return ConfigurationError(
        f"service={name!r}: the namespace {spec.namespace!r} has a Service of this name already, and {why}. Choose "
        f"another name, or delete it: kubectl delete service {name} --namespace {spec.namespace}"
    )

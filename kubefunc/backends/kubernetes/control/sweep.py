"""Secrets that nobody owns: a client that was killed between making a Secret and giving it to its Job leaves one.

Deleting the Job does not delete it, and no TTL does. So the next client that may list Secrets (an optional permission)
finds them, once a namespace and session: gives each to its Job, where that exists, and deletes it where not.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence

from kubefunc.backends.kubernetes.api.answers import is_list
from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.requests import Api, JsonDict
from kubefunc.backends.kubernetes.control.jobs import Jobs
from kubefunc.backends.kubernetes.objects.job import owner_patch
from kubefunc.backends.kubernetes.objects.labels import CALL_LABEL, MANAGED_BY, MANAGED_BY_LABEL
from kubefunc.backends.kubernetes.objects.paths import secrets_path
from kubefunc.backends.kubernetes.objects.views import items_of

AGE = datetime.timedelta(hours=1)  # no client is that long between two requests. By the server's clock
# What the Secrets hold is not wanted: the server sends their metadata alone.
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Sweep:
    """Looks after the Secrets that other clients have left ``age`` ago or earlier."""

    def __init__(self, api: Api, jobs: Jobs, age: datetime.timedelta = AGE) -> None:
        self._api = api
        self._jobs = jobs
        self._age = age

    def run(self, namespace: str) -> None:
        """Repair or delete; without permission, or in trouble, do nothing: the next session tries again."""
        query = {"labelSelector": f"{MANAGED_BY_LABEL}={MANAGED_BY}"}
        try:
            path = secrets_path(namespace)
            listed = self._api.request("GET", path, query=query, accept=_METADATA, is_expected=is_list)
            if (
                listed.date is None
            ):  # this machine's clock may be an hour ahead, and the Secrets of calls that start now
                return
            for secret in unowned(items_of(listed.body), listed.date - self._age):
                self._settle(namespace, secret)
        except TROUBLE:
            return

    def _settle(self, namespace: str, secret: JsonDict) -> None:
        name, call = secret["metadata"]["name"], secret["metadata"]["labels"][CALL_LABEL]
        job = job_of(name, self._jobs.of_call(namespace, call))
        if job is None:
            self._jobs.delete_secret(namespace, name)
        else:
            self._jobs.give(namespace, name, owner_patch(job["metadata"]["name"], job["metadata"]["uid"]))


def unowned(secrets: Iterable[JsonDict], before: datetime.datetime) -> list[JsonDict]:
    """Those of our Secrets that belong to nothing and were made at this time or before."""
    return [
        secret
        for secret in secrets
        if not secret["metadata"].get("ownerReferences")
        and CALL_LABEL in secret["metadata"].get("labels", {})
        and _made(secret) <= before
    ]


def _made(secret: JsonDict) -> datetime.datetime:
    return datetime.datetime.fromisoformat(secret["metadata"]["creationTimestamp"].replace("Z", "+00:00"))


def job_of(secret: str, jobs: Sequence[JsonDict]) -> JsonDict | None:
    """The Job that a Secret was made for: of the same name, or of its name without the number of a further Secret.

    >>> jobs = [{"metadata": {"name": "f-abc"}}, {"metadata": {"name": "f-abc-r2"}}]
    >>> [job_of(name, jobs)["metadata"]["name"] for name in ("f-abc", "f-abc-1", "f-abc-r2-3")]
    ['f-abc', 'f-abc', 'f-abc-r2']
    """
    wanted = (secret, re.sub(r"-\d+$", "", secret))
    return next((job for job in jobs if job["metadata"]["name"] in wanted), None)

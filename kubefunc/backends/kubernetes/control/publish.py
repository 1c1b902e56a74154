"""Write a result into a ConfigMap or Secret: created, or patched where it exists."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from kubefunc import errors
from kubefunc.backends.kubernetes.api.answers import is_named
from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.requests import METADATA_ONLY, Api, ApiError, as_error
from kubefunc.backends.kubernetes.objects import published
from kubefunc.backends.kubernetes.objects.published import Destination
from kubefunc.backends.kubernetes.objects.template import Json

TRIES: Final = 5
PAUSE: Final = 0.2
# Else the server would send back the whole object.


def publish(
    api: Api,
    namespace: str,
    to: Destination,
    content: str | bytes,
    call: str,
    owner: Callable[[], Json | None],
) -> None:
    """Patch the object, or create it. Another client may do the same at this moment, so conflicts are tried again.

    Args:
        api: the cluster.
        namespace: of the call and the object.
        to: the object and its key.
        content: of the key.
        call: who writes it, for an annotation.
        owner: asked for an ownerReference where the object is created.

    Raises:
        KubefuncError: it cannot be written.
    """
    for number in range(TRIES):
        try:
            if not _patched(api, namespace, to, content, call):
                body = published.new(to, content, call, owner())
                path = published.object_path(to, namespace)
                api.request("POST", path, body=body, accept=METADATA_ONLY, is_expected=is_named(to.name))
            return
        except TROUBLE as error:
            if not _is_conflict(error) or number == TRIES - 1:
                raise _told(error, to) from error
            time.sleep(PAUSE * (number + 1))


def _patched(api: Api, namespace: str, to: Destination, content: str | bytes, call: str) -> bool:
    """Whether the object was there."""
    path = f"{published.object_path(to, namespace)}/{to.name}"
    body = published.patch(to, content, call)
    kind = "application/merge-patch+json"
    try:
        api.request("PATCH", path, body=body, content_type=kind, accept=METADATA_ONLY, is_expected=is_named(to.name))
    except ApiError as error:
        if not error.not_found or error.details.get("kind") == "namespaces":
            raise
        return False
    return True


def _is_conflict(error: BaseException) -> bool:
    """Somebody has made it, changed it or deleted it between two of our requests."""
    return isinstance(error, ApiError) and error.status == 409


def _told(error: Exception, to: Destination) -> errors.KubefuncError:
    if not isinstance(error, ApiError):
        return as_error(error)  # type: ignore[arg-type]
    kind = published.kind_of(to)
    if "immutable" in error.message:
        return errors.ClusterError(f"The {kind} {to.name!r} is immutable. Delete it, or publish under another name.")
    if error.status in (413, 422) and ("Too long" in error.message or "too large" in error.message.lower()):
        return errors.ClusterError(
            f"The {kind} {to.name!r} would be larger than 1 MiB, with what its other keys hold. Publish under another "
            f"name. The cluster's words: {error.message}"
        )
    return as_error(error)

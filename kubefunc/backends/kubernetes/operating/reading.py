"""Lists of a namespace's objects, in pages: a namespace may hold tens of thousands of Pods."""

from __future__ import annotations

from kubefunc.backends.kubernetes.api.answers import is_list
from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.fields import BadObject, JsonDict
from kubefunc.backends.kubernetes.objects.paths import events_path
from kubefunc.backends.kubernetes.objects.views import items_of

_PAGE = 500


def list_all(api: Api, path: str, selector: str) -> list[JsonDict]:
    """All objects with these labels.

    Raises:
        ApiError, ConnectionFailed and the other errors of :class:`~kubefunc.backends.kubernetes.api.requests.Api`.
    """
    found: list[JsonDict] = []
    query = {"labelSelector": selector, "limit": str(_PAGE)}
    while True:
        body = api.request("GET", path, query=query, is_expected=is_list).body
        found += items_of(body)
        token = fields.text(fields.mapping(body, "metadata"), "continue")
        if not token:
            return found
        query = {**query, "continue": token}


def events_about(api: Api, namespace: str, uid: str) -> list[JsonDict]:
    """The Events of one object, the oldest first; none where they may not be read."""
    query = {"fieldSelector": f"involvedObject.uid={uid}", "limit": "50"}
    try:
        events = items_of(api.request("GET", events_path(namespace), query=query, is_expected=is_list).body)
        return sorted(events, key=_when)
    except (*TROUBLE, BadObject):
        return []


def _when(event: JsonDict) -> str:
    series = fields.mapping(event, "series")
    return str(series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime") or "")

"""The objects of the small cluster: stored, listed and watched, with versions as an API server gives them."""

from __future__ import annotations

import datetime
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

Json = dict[str, Any]

_IN = re.compile(r"(?P<key>[^\s!=,]+)\s+in\s+\((?P<values>[^)]*)\)")


class Store:
    """Objects by resource and name. Safe to use from any thread."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._version = 1
        self._objects: dict[tuple[str, str], Json] = {}
        self._history: list[tuple[int, str, str, Json]] = []  # version, resource, type of event, object
        self._is_closed = False

    def get(self, resource: str, name: str) -> Json | None:
        """The object, or None."""
        with self._news:
            return self._objects.get((resource, name))

    def items(self, resource: str, selector: str = "") -> tuple[list[Json], int]:
        """All objects with these labels, and the version at which that is so."""
        with self._news:
            found = [each for (kind, _), each in self._objects.items() if kind == resource]
            return [each for each in found if selects(selector, _labels(each))], self._version

    def add(self, resource: str, obj: Json) -> Json | None:
        """Store a new object, with all that a server adds. None where there is one of this name."""
        with self._news:
            metadata = dict(obj["metadata"])
            if (resource, metadata["name"]) in self._objects:
                return None
            metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
            return self._put(resource, "ADDED", {**obj, "metadata": metadata})

    def change(self, resource: str, name: str, patch: Mapping[str, Any]) -> Json | None:
        """Merge a patch into an object (RFC 7386). None where there is no such object."""
        with self._news:
            known = self._objects.get((resource, name))
            return None if known is None else self._put(resource, "MODIFIED", merged(known, patch))

    def remove(self, resource: str, name: str) -> Json | None:
        """The object that was there, or None."""
        with self._news:
            known = self._objects.pop((resource, name), None)
            if known is not None:
                self._tell(resource, "DELETED", known)
            return known

    def watch(self, resource: str, selector: str, since: int) -> Iterator[tuple[str, Json]]:
        """What happens to objects with these labels after this version, until the store is closed."""
        seen = 0
        while news := self._after(seen):
            seen += len(news)
            for version, kind, event, obj in news:
                if kind == resource and version > since and selects(selector, _labels(obj)):
                    yield event, obj

    def _after(self, seen: int) -> list[tuple[int, str, str, Json]]:
        """What comes after so many news; nothing once the store is closed."""
        with self._news:
            self._news.wait_for(lambda: len(self._history) > seen or self._is_closed)
            return [] if self._is_closed else self._history[seen:]

    def close(self) -> None:
        """End all watches."""
        with self._news:
            self._is_closed = True
            self._news.notify_all()

    def _put(self, resource: str, event: str, obj: Json) -> Json:
        stored = self._tell(resource, event, obj)
        self._objects[resource, stored["metadata"]["name"]] = stored
        return stored

    def _tell(self, resource: str, event: str, obj: Json) -> Json:
        self._version += 1
        told = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._version)}}
        self._history.append((self._version, resource, event, told))
        self._news.notify_all()
        return told


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def merged(obj: Any, patch: Any) -> Any:
    """The object with a merge patch (RFC 7386).

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": None, "d": 3}})
    {'a': {'c': 2, 'd': 3}}
    """
    if not isinstance(patch, Mapping):
        return patch
    result = dict(obj) if isinstance(obj, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def selects(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches.

    >>> selects("app=x,tier in (a, b),!old", {"app": "x", "tier": "b"}), selects("app!=x", {"app": "x"})
    (True, False)
    """
    for match in _IN.finditer(selector):
        if labels.get(match["key"]) not in [value.strip() for value in match["values"].split(",")]:
            return False
    return all(_holds(each.strip(), labels) for each in _IN.sub("", selector).split(",") if each.strip())


def _holds(requirement: str, labels: Mapping[str, str]) -> bool:
    key, operator, value = re.split(r"(!=|==?|$)", requirement, maxsplit=1)
    if operator == "!=":
        return labels.get(key) != value
    if operator:
        return labels.get(key) == value
    return key[1:] not in labels if key.startswith("!") else key in labels


def _labels(obj: Json) -> Mapping[str, str]:
    labels: Mapping[str, str] = obj["metadata"].get("labels") or {}
    return labels

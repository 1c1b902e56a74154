"""What a watch says, and what follows from it: lines, ends of connections, differences between lists. Pure."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kubefunc.backends.kubernetes.api.requests import JsonDict

EventType = Literal["ADDED", "MODIFIED", "DELETED"]
RELIST_AFTER = 5
FORBIDDEN_PATIENCE = 10


class End(enum.Enum):
    """How one connection ended."""

    EOF = "eof"
    EMPTY = "empty"
    SILENT = "silent"
    CUT = "cut"
    GONE = "gone"
    OVERLOADED = "overloaded"
    FORBIDDEN = "forbidden"
    REFUSED = "refused"
    GARBLED = "garbled"


class Step(enum.Enum):
    """What to do then."""

    RESUME = "resume"
    RESUME_LATER = "resume later"
    RELIST = "relist"
    RELIST_LATER = "relist later"
    STOP = "stop"


def next_step(end: End, *, failures: int) -> Step:
    """What follows the end of a connection; `failures` in a row so far, this one included.

    >>> next_step(End.EOF, failures=0), next_step(End.GONE, failures=1)
    (<Step.RESUME: 'resume'>, <Step.RELIST: 'relist'>)
    """
    match end:
        case End.EOF | End.SILENT:
            return Step.RESUME
        case End.CUT:
            return Step.RESUME_LATER
        case End.EMPTY | End.OVERLOADED:
            # Whatever it is that the server cannot resume from, a list may do.
            return Step.RESUME_LATER if failures % RELIST_AFTER else Step.RELIST_LATER
        case End.GONE:
            # A server that calls its own newest version too old would otherwise be asked without a pause.
            return Step.RELIST if failures <= 1 else Step.RELIST_LATER
        case End.GARBLED:
            return Step.RELIST_LATER
        case End.FORBIDDEN:
            # An API server that restarts answers 403 until it has read the roles.
            return Step.STOP if failures > FORBIDDEN_PATIENCE else Step.RESUME_LATER
        case End.REFUSED:
            return Step.STOP


@dataclass(frozen=True)
class Event:
    """One line of a watch.

    Attributes:
        kind: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR.
        object: the object, or the Status of an ERROR.
    """

    kind: str
    object: JsonDict

    @property
    def version(self) -> str:
        """The object's resourceVersion, empty where it has none."""
        return str(self.object.get("metadata", {}).get("resourceVersion") or "")


def parse_line(line: bytes) -> Event | None:
    """The event in a line of a watch; None for an empty line.

    Raises ValueError for what is no event.
    """
    if not line.strip():
        return None
    content = json.loads(without_managed_fields(line))
    if not isinstance(content, dict) or not _is_object(content.get("object")):
        raise ValueError(f"no watch event: {line[:200]!r}")
    return Event(str(content.get("type")), content["object"])


def _is_object(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("metadata", {}), dict)


def without_managed_fields(line: bytes) -> bytes:
    """A Pod's or Job's event without the half that only servers read: to parse that takes as long as all the rest.

    The server writes ``managedFields`` as the last of the metadata. Where it stands otherwise, nothing is left out.
    Inside a text quotes have a backslash before them, so that no text is taken for it.

    >>> without_managed_fields(b'{"object":{"metadata":{"uid":"1","managedFields":[{}]},"spec":{}}}')
    b'{"object":{"metadata":{"uid":"1"},"spec":{}}}'
    """
    start = line.find(_MANAGED_FIELDS)
    end = line.find(_AFTER_THEM, start)
    return line if start < 0 or end < 0 else line[:start] + line[end + 1 :]


_MANAGED_FIELDS = b',"managedFields":['
_AFTER_THEM = b']},"spec":'


def end_of_status(status: int) -> End:
    """The end that an HTTP status means, whether it came as an answer or inside an ERROR event.

    >>> end_of_status(410), end_of_status(503), end_of_status(422)
    (<End.GONE: 'gone'>, <End.OVERLOADED: 'overloaded'>, <End.REFUSED: 'refused'>)
    """
    if status in (410, 504):
        # 504 in an ERROR event is "Too large resource version": this server is behind the one that we came
        # from.
        return End.GONE
    if status == 403:
        return End.FORBIDDEN
    if status in (401, 408, 409, 429) or status >= 500:
        return End.OVERLOADED
    return End.REFUSED


Known = dict[str, JsonDict]


def skeleton(obj: JsonDict) -> JsonDict:
    """What is remembered of an object, so that its disappearance can be reported: what identifies it."""
    metadata = obj.get("metadata", {})
    names = ("name", "namespace", "uid", "labels", "ownerReferences", "resourceVersion")
    kept = {name: metadata[name] for name in names if name in metadata}
    return {name: obj[name] for name in ("apiVersion", "kind") if name in obj} | {"metadata": kept}


def uid_of(obj: JsonDict) -> str:
    """The object's UID."""
    return str(obj.get("metadata", {}).get("uid") or "")


def relist_difference(known: Known, listed: list[JsonDict]) -> Iterator[tuple[EventType, JsonDict]]:
    """The events that lead from what was known to what is listed now; deletions first, with a skeleton
    object.

    >>> old = {"metadata": {"uid": "1", "resourceVersion": "5"}}
    >>> list(relist_difference({"1": old}, [{"metadata": {"uid": "2", "resourceVersion": "7"}}]))[0][0]
    'DELETED'
    """
    present = {uid_of(obj) for obj in listed}
    for uid, obj in known.items():
        if uid not in present:
            yield "DELETED", obj
    for obj in listed:
        before = known.get(uid_of(obj))
        if before is None:
            yield "ADDED", obj
        elif _version(before) != _version(obj):
            yield "MODIFIED", obj


def _version(obj: JsonDict) -> object:
    return obj.get("metadata", {}).get("resourceVersion")

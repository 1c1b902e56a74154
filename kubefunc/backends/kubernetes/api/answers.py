"""What an HTTP answer says: an object, a list, a refusal, or nothing that a Kubernetes API server sends. Pure."""

from __future__ import annotations

import datetime
import email.utils
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from kubefunc.backends.kubernetes.api.errors import ApiError
from kubefunc.backends.kubernetes.objects.fields import whole_number

JsonDict: TypeAlias = dict[str, Any]
Check: TypeAlias = Callable[[JsonDict], bool]

_SHOWN = 200


class UnreadableAnswer(Exception):
    """Not an answer of a Kubernetes API server to this request: a proxy's page, or a part of an answer."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer that has come whole."""

    status: int
    data: bytes
    headers: Mapping[str, str]

    @property
    def is_html(self) -> bool:
        """Whether it is a page for a browser; the API server sends JSON and plain text."""
        return (self.headers.get("Content-Type") or "").lower().startswith("text/html")

    def described(self) -> str:
        """What came, for a message. Of an object not a word: it may be a Secret."""
        kind = self.headers.get("Content-Type") or "no Content-Type"
        text = self.data[:_SHOWN].decode("utf-8", "replace").strip()
        shown = "another object, or a part of one" if b'"kind"' in self.data else repr(text)
        return f"not an answer of Kubernetes to this request: status {self.status}, {kind}, {shown}"


def is_any(body: JsonDict) -> bool:
    """Accept every JSON object."""
    return True


def is_list(body: JsonDict) -> bool:
    """Accept a list with its version. An empty one of metadata alone has ``items: null``.

    >>> is_list({"items": None, "metadata": {"resourceVersion": "7"}}), is_list({})
    (True, False)
    """
    items = body.get("items", "none")
    return (items is None or isinstance(items, list)) and bool(_metadata(body).get("resourceVersion"))


def is_named(name: str) -> Check:
    """Accept the object of this name, with its UID.

    >>> is_named("a")({"metadata": {"name": "a", "uid": "1"}}), is_named("a")({"metadata": {"name": "b", "uid": "1"}})
    (True, False)
    """
    return lambda body: _metadata(body).get("name") == name and bool(_metadata(body).get("uid"))


def read_object(answer: Answer, is_expected: Check) -> JsonDict:
    """The JSON object of a successful answer. Raises UnreadableAnswer for anything else."""
    body = _json_object(answer.data)
    if body is None or not is_expected(body):
        raise UnreadableAnswer(answer.described())
    return body


def read_text(answer: Answer) -> bytes:
    """The bytes of a successful answer that is not JSON, a log. Raises UnreadableAnswer for a page."""
    if answer.is_html:
        raise UnreadableAnswer(answer.described())
    return answer.data


def is_unauthenticated(answer: Answer) -> bool:
    """Whether other credentials may help."""
    return answer.status in (401, 403) and _refusal("", "", answer).is_unauthenticated


def refusal(method: str, path: str, answer: Answer) -> ApiError:
    """The error that a status outside 2xx means.

    Raises UnreadableAnswer for redirects and pages: the API server sends neither. A 401 and a 5xx mean the same
    from any sender.
    """
    if answer.status < 400 or (answer.is_html and answer.status < 500 and answer.status != 401):
        raise UnreadableAnswer(answer.described())
    return _refusal(method, path, answer)


def warnings(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The texts of ``Warning: 299 - "text"`` headers; urllib3 joins several with commas."""
    return tuple(re.sub(r"\\(.)", r"\1", text) for text in _WARNING.findall(headers.get("Warning") or ""))


def date(headers: Mapping[str, str]) -> datetime.datetime | None:
    """When the answer was sent, by the server's clock; None where it does not say.

    >>> date({"Date": "Fri, 27 Nov 2026 20:30:00 GMT"}).isoformat(), date({})
    ('2026-11-27T20:30:00+00:00', None)
    """
    try:
        sent = email.utils.parsedate_to_datetime(headers.get("Date") or "")
    except (TypeError, ValueError):
        return None
    return sent if sent.tzinfo is not None else None


_WARNING = re.compile(r'\b\d{3} \S+ "((?:[^"\\]|\\.)*)"')


def _refusal(method: str, path: str, answer: Answer) -> ApiError:
    status = _json_object(answer.data) or {}
    message = status.get("message") or answer.data[:2000].decode("utf-8", "replace").strip()
    details = status.get("details")
    return ApiError(
        method,
        path,
        answer.status,
        reason=str(status.get("reason") or ""),
        message=str(message),
        details=details if isinstance(details, dict) else None,
        retry_after=_seconds(answer.headers.get("Retry-After")),
        is_status=status.get("kind") == "Status",
    )


def _metadata(body: JsonDict) -> JsonDict:
    metadata = body.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _json_object(data: bytes) -> JsonDict | None:
    try:
        body = json.loads(data)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _seconds(text: str | None) -> float | None:
    number = None if text is None else whole_number(text)
    return None if number is None else float(number)

"""Values and exceptions as JSON, for a function that its caller does not trust (``"untrusted": true`` in the spec).

The client unpickles nothing of such a call. A value is one JSON text, an exception its type, text and traceback.
"""

from __future__ import annotations

import json

from kubefunc.runner import CODE_NOT_JSON, ERROR, PLAIN_DEPTH, PLAIN_DIGITS, PLAIN_LIMIT, PLAIN_TEXT, RAISED, VALUE
from kubefunc.runner.execution import exceptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    NewBody = Callable[[], Any]  # as kubefunc.runner.execution.child has them, which uses this module
    Outcome = tuple[dict[str, Any], Any]


class NotJson(Exception):
    """A part of a value that JSON cannot hold."""

    def __init__(self, path: str, value: object, why: str) -> None:
        super().__init__(why)
        self.path = path
        self.type = exceptions.type_name(type(value))


def encode(value: object) -> bytes:
    """The value as JSON; a tuple becomes a list.

    >>> encode({"loss": [0.5, None], "pair": (1, True)})
    b'{"loss":[0.5,null],"pair":[1,true]}'

    Raises:
        NotJson: it has a part that JSON lacks, is nested too deeply, or is too large.
    """
    _check(value, "result", 0)
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    if len(text) > PLAIN_LIMIT:
        raise NotJson("result", value, f"its JSON has {len(text):,} bytes, and {PLAIN_LIMIT:,} may travel")
    return text


def _check(value: object, path: str, depth: int) -> None:
    kind = type(value)
    if depth > PLAIN_DEPTH:
        raise NotJson(path, value, f"it is nested in more than {PLAIN_DEPTH} others")
    if kind is dict:
        _check_keys(value, path)  # type: ignore[arg-type]
    if kind in (dict, list, tuple):
        parts: Any = value.items() if kind is dict else enumerate(value)  # type: ignore[attr-defined, arg-type]
        for key, each in parts:
            _check(each, f"{path}[{_shown(key)}]", depth + 1)
    elif kind in (int, float):
        _check_number(value, path)  # type: ignore[arg-type]
    elif value is not None and kind not in (bool, str):
        raise NotJson(path, value, "JSON has no such type")


def _check_keys(value: dict[Any, Any], path: str) -> None:
    for key in value:
        if type(key) is not str:
            raise NotJson(f"{path}[{_shown(key)}]", key, "a key in JSON is text")


def _check_number(value: float, path: str) -> None:
    if type(value) is int and value.bit_length() > PLAIN_DIGITS * 10 // 3:
        raise NotJson(path, value, f"it has more than {PLAIN_DIGITS} digits")
    if value != value or value in (float("inf"), float("-inf")):
        raise NotJson(path, value, f"JSON has no number for {value}")


def _shown(key: object) -> str:
    text = repr(key) if type(key) in (str, int, float, bool, bytes) else f"<{exceptions.type_name(type(key))}>"
    return text if len(text) <= 100 else f"{text[:97]}..."


def value(returned: object, new_body: NewBody) -> Outcome:
    """The outcome of a function that has returned this."""
    try:
        text = encode(returned)
    except NotJson as error:
        detail = {"path": error.path, "type": error.type, "message": str(error)}
        return {"outcome": ERROR, "code": CODE_NOT_JSON, "detail": detail, **new_body().seal}, new_body()
    body = new_body()
    body.write(text)
    return {"outcome": VALUE, **body.seal}, body


def raised(error: BaseException, new_body: NewBody) -> Outcome:
    """The outcome of a function that has raised this: texts, each cut to a bearable length."""
    text = exceptions.traceback_text(error)[-PLAIN_TEXT:]
    (node,) = exceptions.encode_text(error)
    node.update(type=node["type"][:PLAIN_TEXT], message=node["message"][:PLAIN_TEXT], notes=[])
    body = new_body()
    return {"outcome": RAISED, "nodes": [node], "traceback": text, **body.seal}, body

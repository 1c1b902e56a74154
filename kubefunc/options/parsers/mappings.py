"""Labels, annotations and environment variables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final

from kubefunc.options.kind import Refused, brief
from kubefunc.options.parsers.names import DNS_SUBDOMAIN, LABEL, read_list

_VARIABLE: Final = r"[-._A-Za-z][-._A-Za-z0-9]*"
_OURS: Final = ("kubefunc/", "app.kubernetes.io/managed-by")
# The Job controller writes these itself; the API server refuses a template that has other values.
_JOB_CONTROLLERS: Final = ("batch.kubernetes.io/", "job-name", "controller-uid")
_MOST_ANNOTATIONS: Final = 256 * 1024
_MOST_VARIABLE: Final = 128 * 1024  # the kernel's limit for one NAME=value, with its closing zero byte


def label_map(value: object) -> dict[str, str]:
    """Labels: short names and short values."""
    pairs = _pairs(value)
    for key in pairs:
        if key.startswith((*_OURS, *_JOB_CONTROLLERS)):
            raise Refused("kubefunc or Kubernetes sets this label itself", at=f"[{key!r}]", shown="")
    return {_qualified_name(key): _label_value(item, at=f"[{key!r}]") for key, item in pairs.items()}


def node_selector(value: object) -> dict[str, str]:
    """Labels that a node must have."""
    return {_qualified_name(key): _label_value(item, at=f"[{key!r}]") for key, item in _pairs(value).items()}


def annotation_map(value: object) -> dict[str, str]:
    """Annotations: short names, any text."""
    pairs = _pairs(value)
    if sum(len(key.encode()) + len(str(item).encode()) for key, item in pairs.items()) > _MOST_ANNOTATIONS:
        raise Refused("Kubernetes accepts at most 256 KiB of annotations in total", shown="...")
    for key in pairs:
        if key.startswith(_OURS):
            raise Refused("kubefunc sets this annotation itself", at=f"[{key!r}]", shown="")
    return {_qualified_name(key): string(item, at=f"[{key!r}]") for key, item in pairs.items()}


def _pairs(value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise Refused("write a dict")
    for key in value:
        if not isinstance(key, str):
            raise Refused(f"a name must be text: write {str(key)!r}", at=f"[{key!r}]", shown="")
    return dict(value)


def string(value: object, *, at: str) -> str:
    """The text."""
    if isinstance(value, str):
        return value
    raise Refused(_make_it_text(value), at=at, shown=brief(value))


def _make_it_text(value: object) -> str:
    if isinstance(value, (bool, int, float)):
        return f"it must be text: write {str(value)!r}"
    return f"it must be text, not {type(value).__name__}"


def _label_value(value: object, *, at: str) -> str:
    label = string(value, at=at)
    if not label or re.fullmatch(LABEL, label, re.ASCII):
        return label
    raise Refused(
        "a label's value has at most 63 letters, digits, '-', '_' and '.', and begins and ends with a letter or digit",
        at=at,
        shown=brief(value),
    )


def _qualified_name(key: str) -> str:
    if is_qualified_name(key):
        return key
    raise Refused(
        "write the name like 'team' or 'example.org/team', each part at most 63 long",
        at=f"[{key!r}]",
        shown="",
    )


def is_qualified_name(key: str) -> bool:
    """Whether Kubernetes takes it as the name of a label, an annotation or a resource."""
    prefix, slash, name = key.rpartition("/")
    if slash and not (len(prefix) <= 253 and re.fullmatch(DNS_SUBDOMAIN, prefix, re.ASCII)):
        return False
    return re.fullmatch(LABEL, name, re.ASCII) is not None


def variable(name: str, value: str) -> None:
    """Refuse what no process environment can hold. The value itself is never shown: it may be a secret."""
    at = f"[{name!r}]"
    if not re.fullmatch(_VARIABLE, name, re.ASCII):
        raise Refused(
            "a variable's name has letters, digits, '_', '-' and '.', and does not begin with a digit", at=at, shown=""
        )
    if "\0" in value:
        raise Refused("a variable cannot hold a zero byte", at=at, shown="...")
    try:
        size = len(name) + len(value.encode()) + 2
    except UnicodeEncodeError:
        raise Refused("a variable's text must be valid in UTF-8", at=at, shown="...") from None
    if size > _MOST_VARIABLE:
        raise Refused("a variable holds at most 128 KiB: pass the text as an argument instead", at=at, shown="...")


def environment(references: tuple[type, ...], allowed: frozenset[str]) -> Callable[[object], dict[str, object]]:
    """A parser of environment variables.

    Args:
        references: the types that stand for a value kept in the cluster.
        allowed: the ``KUBEFUNC_`` names that may be set; all others belong to the runner.
    """

    def parse(value: object) -> dict[str, object]:
        if not isinstance(value, Mapping):
            raise Refused("write a dict", shown="...")  # a text may hold a password
        pairs = _pairs(value)
        for name, item in pairs.items():
            if name.startswith("KUBEFUNC_") and name not in allowed:
                raise Refused("names that begin with KUBEFUNC_ are reserved for kubefunc", at=f"[{name!r}]", shown="")
            if isinstance(item, references):
                variable(name, "")
                continue
            if not isinstance(item, str):
                shown = brief(item) if isinstance(item, (int, float, type(None))) else f"<{type(item).__name__}>"
                raise Refused(_make_it_text(item), at=f"[{name!r}]", shown=shown)
            variable(name, item)
        return pairs

    return parse


def read_mapping(text: str) -> dict[str, str]:
    """``a=1,b=2``, or a JSON object where a value has a comma in it."""
    if text.lstrip().startswith("{"):
        return _read_json_object(text)
    pairs = [item.partition("=") for item in read_list(text)]
    if not all(key and equals for key, equals, _ in pairs):
        raise Refused("write name=value,name=value or a JSON object")
    return {key.strip(): value for key, _, value in pairs}


def _read_json_object(text: str) -> dict[str, str]:
    value = read_json(text)
    if isinstance(value, dict):
        return value
    raise Refused("write a JSON object")


def read_json(text: str) -> object:
    """JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise Refused(f"it is not valid JSON ({error})") from None

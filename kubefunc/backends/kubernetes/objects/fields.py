"""Fields of the cluster's objects, read strictly: of the type that the API gives them, or :class:`BadObject`.

Anyone who may create a Pod with our labels chooses its annotations, names and references, and no listener of a watch
may fail because of one of them.
"""

from __future__ import annotations

import re
from typing import Any

JsonDict = dict[str, Any]

_WHOLE_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)


class BadObject(ValueError):
    """An object, or a part of it, that is not what the API sends."""


def mapping(parent: JsonDict, name: str) -> JsonDict:
    """An object's field that is a mapping; an empty one where it is missing or null."""
    value = parent.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadObject(f"{name} is {_shown(value)}, not a mapping")
    return value


def mappings(parent: JsonDict, name: str) -> list[JsonDict]:
    """A field that is a list of mappings; an empty one where it is missing or null."""
    value = parent.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise BadObject(f"{name} is {_shown(value)}, not a list of mappings")
    return value


def text(parent: JsonDict, name: str, default: str = "") -> str:
    """A field that is a text; the default where it is missing or null."""
    value = parent.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise BadObject(f"{name} is {_shown(value)}, not a text")
    return value


def name_of(obj: JsonDict) -> str:
    """``metadata.name``, which every stored object has."""
    name = text(mapping(obj, "metadata"), "name")
    if not name:
        raise BadObject("an object without a name")
    return name


def number(parent: JsonDict, name: str) -> int | None:
    """A field that is a whole number; None where it is missing or null."""
    value = parent.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadObject(f"{name} is {_shown(value)}, not a whole number")
    return value


def whole_number(written: str) -> int | None:
    """The number that a text writes as Kubernetes does, or None.

    ``str.isdigit`` and ``int`` accept more, and not the same: a superscript two is a digit for one and not the other.

    >>> whole_number("12"), whole_number("\\u00b2"), whole_number("-1"), whole_number("9" * 5000)
    (12, None, None, None)
    """
    return int(written) if _WHOLE_NUMBER.fullmatch(written) else None


def _shown(value: object) -> str:
    return repr(value)[:80]

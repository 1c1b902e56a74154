"""Tolerations of node taints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from kubefunc.options.kind import Refused, brief
from kubefunc.options.parsers.mappings import read_json, string
from kubefunc.options.parsers.names import listed, read_list

_TAINT: Final = r"([^=:]+)(?:=([^=:]*))?:(NoSchedule|PreferNoSchedule|NoExecute)"
_TOLERATION_FIELDS: Final = ("key", "operator", "value", "effect", "tolerationSeconds")
_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def tolerations(value: object) -> tuple[Mapping[str, object], ...]:
    """Tolerations as Kubernetes writes them, or the taint as ``kubectl taint`` writes it.

    >>> tolerations(["dedicated=ml:NoSchedule"])
    ({'key': 'dedicated', 'operator': 'Equal', 'value': 'ml', 'effect': 'NoSchedule'},)
    """
    return tuple(_toleration(item, at=f"[{index}]") for index, item in enumerate(listed(value, "the tolerations")))


def _toleration(value: object, *, at: str) -> Mapping[str, object]:
    if isinstance(value, str):
        return _taint(value, at=at)
    if not isinstance(value, Mapping):
        raise Refused("write a dict or the taint's text: 'dedicated=ml:NoSchedule'", at=at, shown=brief(value))
    unknown = [str(name) for name in value if name not in _TOLERATION_FIELDS]
    if unknown:
        raise Refused(
            f"a toleration has the fields {', '.join(_TOLERATION_FIELDS)}",
            at=f"{at}[{unknown[0]!r}]",
            shown="",
        )
    _check_toleration(value, at)
    return dict(value)


def _check_toleration(value: Mapping[str, object], at: str) -> None:
    """Refuse what the API server would refuse only when the call is already under way."""
    for name in ("key", "operator", "value", "effect"):
        string(value.get(name, ""), at=f"{at}[{name!r}]")
    if value.get("operator", "Equal") not in ("Equal", "Exists"):
        raise Refused("the operator is 'Equal' or 'Exists'", at=at, shown=brief(value))
    if value.get("operator") == "Exists" and value.get("value"):
        raise Refused("a toleration with the operator 'Exists' has no value", at=at, shown=brief(value))
    if not value.get("key") and value.get("operator") != "Exists":
        raise Refused("a toleration without a key needs the operator 'Exists'", at=at, shown=brief(value))
    if value.get("effect", "") not in ("", *_EFFECTS):
        raise Refused(f"the effect is one of {', '.join(_EFFECTS)}", at=at, shown=brief(value))
    lasting = value.get("tolerationSeconds")
    if lasting is None:
        return
    if isinstance(lasting, bool) or not isinstance(lasting, int):
        raise Refused("tolerationSeconds is a whole number", at=at, shown=brief(value))
    if value.get("effect") != "NoExecute":
        raise Refused("tolerationSeconds needs the effect 'NoExecute'", at=at, shown=brief(value))


def _taint(text: str, *, at: str) -> Mapping[str, object]:
    match = re.fullmatch(_TAINT, text)
    if match is None:
        raise Refused("write the taint as 'key=value:NoSchedule' or 'key:NoSchedule'", at=at, shown=brief(text))
    key, value, effect = match.groups()
    if value is None:
        return {"key": key, "operator": "Exists", "effect": effect}
    return {"key": key, "operator": "Equal", "value": value, "effect": effect}


def read_tolerations(text: str) -> object:
    """Taints with commas between, or a JSON list."""
    return read_json(text) if text.lstrip().startswith("[") else read_list(text)

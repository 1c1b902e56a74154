"""Ports and their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from kubefunc.options.kind import Refused
from kubefunc.options.parsers.numbers import whole_number

_NAME: Final = r"(?=[a-z0-9-]*[a-z])[a-z0-9]+(-[a-z0-9]+)*"  # RFC 6335, as Kubernetes asks for
_LONGEST_NAME: Final = 15
_SERVICE: Final = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
_port_number = whole_number(1, 65535)


def ports(value: object) -> dict[str, int]:
    """Port numbers by name."""
    if not isinstance(value, Mapping):
        raise Refused("write a dict of names to numbers, such as {'http': 8080}")
    return {_name(name): _number(name, number) for name, number in value.items()}


def _name(name: object) -> str:
    if isinstance(name, str) and len(name) <= _LONGEST_NAME and re.fullmatch(_NAME, name, re.ASCII):
        return name
    raise Refused(
        f"a port's name has at most {_LONGEST_NAME} lower-case letters, digits and single '-', and at least one letter",
        at=f"[{name!r}]",
        shown="",
    )


def _number(name: object, number: object) -> int:
    try:
        return _port_number(number)
    except Refused as refused:
        raise Refused("a port is a number from 1 to 65535", at=f"[{name!r}]", shown=repr(number)) from refused


def service_name(value: object) -> str:
    """A Service's name, which is a DNS name too: the same as a Namespace's, and it begins with a letter."""
    if isinstance(value, str) and re.fullmatch(_SERVICE, value, re.ASCII):
        return value
    raise Refused("write at most 63 lower-case letters, digits and '-', beginning with a letter")

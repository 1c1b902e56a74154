"""Names of objects, keys, images, and lists of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from kubefunc.options.kind import Refused, brief

# As text: compiling all of them would cost each import half a millisecond, and most programs use one or two.
_DNS_LABEL: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
DNS_SUBDOMAIN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
LABEL: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DATA_KEY: Final = r"[-._A-Za-z0-9]{1,253}"


def nonempty(value: object) -> str:
    """Text that is not empty."""
    if isinstance(value, str) and value.strip():
        return value
    raise Refused("write a text that is not empty")


def image(value: object) -> str:
    """An image reference, as a registry knows it."""
    name = nonempty(value)
    if "://" in name:
        raise Refused("write the image without a scheme such as https://: 'registry.example/team/image:1.2'")
    if re.search(r"\s", name):
        raise Refused("an image's name has no spaces")
    return name


def dns_label(value: object) -> str:
    """A Namespace's name."""
    if isinstance(value, str) and re.fullmatch(_DNS_LABEL, value, re.ASCII):
        return value
    raise Refused("write at most 63 lower-case letters, digits and '-'")


def object_name(value: object) -> str:
    """The name of a Secret, ConfigMap, ServiceAccount or PriorityClass."""
    if isinstance(value, str) and len(value) <= 253 and re.fullmatch(DNS_SUBDOMAIN, value, re.ASCII):
        return value
    raise Refused("write the object's name: lower-case letters, digits, '-' and '.'")


def data_key(value: object) -> str:
    """A key within a Secret or ConfigMap."""
    if isinstance(value, str) and re.fullmatch(_DATA_KEY, value, re.ASCII):
        return value
    raise Refused("write the key's name: letters, digits, '-', '_' and '.'")


def one_of(*choices: str) -> Callable[[object], str]:
    """A parser of a closed set of words."""

    def parse(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        near = [choice for choice in choices if str(value).lower() == choice.lower()]
        raise Refused(f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(map(repr, choices))}")

    return parse


def names(value: object) -> tuple[str, ...]:
    """A list of object names."""
    return tuple(_inside(object_name, item, at=f"[{index}]") for index, item in enumerate(listed(value, "the names")))


def listed(value: object, what: str) -> Iterable[object]:
    """A list, not one text without its brackets."""
    if isinstance(value, (str, bytes, Mapping)):
        raise Refused(f"put {what} into a list: [{brief(value)}]")
    if not isinstance(value, Sequence):
        raise Refused(f"put {what} into a list")
    return value


def _inside(parse: Callable[[object], str], value: object, *, at: str) -> str:
    """Parse a part of a value; a refusal then says which part."""
    try:
        return parse(value)
    except Refused as refused:
        raise Refused(refused.why, at=at, shown=brief(value)) from None


def read_list(text: str) -> list[str]:
    """Items with commas between."""
    return [item.strip() for item in text.split(",") if item.strip()]

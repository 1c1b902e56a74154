"""What each kind of option value accepts: parsers from Python values, and from the text of an environment
variable.

A parser returns the normalised value (durations are seconds as float, quantities are Kubernetes' own strings)
or raises :class:`Refused` with the fix. It does not know the option's name; :mod:`kubefunc.options` adds
that.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from numbers import Integral, Real
from typing import Final, NoReturn


class Refused(Exception):
    """A value that is not accepted.

    Attributes:
        why: what is wrong with it and how to write it.
        at: where inside the option's value, as it would be written in Python: ``['PORT']``, ``[1]``.
        shown: the culprit as text; None means the whole value's repr.
    """

    def __init__(self, why: str, *, at: str = "", shown: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.at = at
        self.shown = shown


@dataclass(frozen=True)
class Kind:
    """One kind of value.

    Attributes:
        accepts: what is accepted, as the end of a sentence.
        parse: from a Python value to the normalised one; accepts its own output.
        read: from an environment variable's text to what ``parse`` takes.
        nothing: makes what None stands for; None where None is refused.
    """

    accepts: str
    parse: Callable[[object], object]
    read: Callable[[str], object] = str
    nothing: Callable[[], object] | None = None


def none() -> None:
    """What None stands for where an option can be switched off."""


# --- numbers, switches and durations

_MOST_SECONDS: Final = 2**31 - 1  # Kubernetes keeps ttlSecondsAfterFinished and the Pod's deadline in an int32


def switch(value: object) -> bool:
    """True or False. 1 and 0 are refused: where a number is given, a number was probably meant."""
    if isinstance(value, bool):
        return value
    raise Refused("write True or False")


def read_switch(text: str) -> bool:
    """The words that people write into environment variables."""
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise Refused("write 1 or 0, true or false")


def whole_number(least: int, most: int) -> Callable[[object], int]:
    """A parser of int within bounds, both included."""

    def parse(value: object) -> int:
        number = _whole(value)
        if number is None:
            raise Refused("write a whole number")
        if not least <= number <= most:
            raise Refused(f"it must be between {least} and {most}")
        return number

    return parse


def _whole(value: object) -> int | None:
    """The int, numpy's included; True is no number here."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    return int(value)


def read_whole_number(text: str) -> int:
    """An int in decimal."""
    try:
        return int(text)
    except ValueError:
        raise Refused("write a whole number") from None


def seconds(value: object) -> float:
    """A duration of zero or more.

    >>> seconds(timedelta(minutes=10))
    600.0
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        raise Refused("write a number of seconds or a datetime.timedelta, not text")
    if isinstance(value, bool) or not isinstance(value, Real):
        raise Refused("write a number of seconds or a datetime.timedelta")
    number = float(value)
    if math.isnan(number) or number < 0:
        raise Refused("a duration cannot be negative")
    if number > _MOST_SECONDS:
        raise Refused(f"Kubernetes accepts at most {_MOST_SECONDS} seconds")
    return number


def positive_seconds(value: object) -> float:
    """A duration of more than zero."""
    number = seconds(value)
    if number == 0:
        raise Refused("it must be more than 0")
    return number


def read_seconds(text: str) -> float:
    """A number of seconds."""
    try:
        return float(text)
    except ValueError:
        raise Refused("write a number of seconds") from None


# --- quantities

_NANO: Final = 10**9
_SCALES: Final[Mapping[str, int]] = {
    "n": 1,
    "u": 10**3,
    "m": 10**6,
    "": _NANO,
    **{suffix: _NANO * 1000**power for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": _NANO * 1024**power for power, suffix in enumerate("KMGTPE", start=1)},
}
_NUMBER: Final = r"\+?(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?"
_QUANTITY: Final = re.compile(_NUMBER + r"(?:[eE]([+-]?[0-9]{1,2})|([A-Za-z]*))", re.ASCII)
_LEAST_MEMORY: Final = 1024**2  # below this a unit was forgotten: no Python starts in less
_MEMORY_EXAMPLES: Final = "'4Gi' (binary) or '4G' (decimal)"


def quantity(text: str) -> int:
    """A Kubernetes quantity in billionths, exactly, so that ``"1"`` and ``"1000m"`` compare as equal.

    >>> quantity("1") == quantity("1000m")
    True

    Raises:
        ValueError: the text is no positive quantity.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a Kubernetes quantity")
    whole, fraction, exponent, suffix = match.groups(default="")
    if suffix not in _SCALES:
        raise ValueError(f"{suffix!r} is not a unit of a Kubernetes quantity")
    power = int(exponent or 0) - len(fraction)
    scaled = int(whole + fraction) * _SCALES[suffix]
    return scaled * int(10**power) if power >= 0 else scaled // int(10**-power)


def memory(value: object) -> str | tuple[str, str]:
    """Bytes, or a pair of start and ceiling.

    >>> memory("4Gi"), memory(2**30), memory(("1Gi", "8Gi"))
    ('4Gi', '1073741824', ('1Gi', '8Gi'))
    """
    if not isinstance(value, (tuple, list)):
        return _bytes(value, at="")
    if len(value) != 2:
        raise Refused("a pair has two values: the memory of the first attempt, and the most that a retry may get")
    start, ceiling = _bytes(value[0], at="[0]"), _bytes(value[1], at="[1]")
    if quantity(start) > quantity(ceiling):
        raise Refused(f"the start {start!r} is above the ceiling {ceiling!r}")
    return start, ceiling


def _bytes(value: object, *, at: str) -> str:
    number = _whole(value)
    text = value if isinstance(value, str) else str(number)
    if not text or (number is None and not isinstance(value, str)):
        raise Refused(f"write a quantity such as {_MEMORY_EXAMPLES}, or an int of bytes", at=at)
    slip = _memory_slip(text)
    if slip:
        raise Refused(slip, at=at, shown=repr(value))
    try:
        size = quantity(text) // _NANO
    except ValueError as error:
        raise Refused(f"{error}: write {_MEMORY_EXAMPLES}", at=at, shown=repr(value)) from None
    if size < _LEAST_MEMORY:
        raise Refused(f"that is {size} bytes, too few to start Python. Did you forget a unit?", at=at)
    if size >= 2**63:
        raise Refused("that is more than Kubernetes can count", at=at, shown=repr(value))
    return text


def _memory_slip(text: str) -> str | None:
    """The explanation for the slips that everybody makes once: '4GB', '4gi', '512m', '4 Gi'."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)(\s*)([A-Za-z]+)\s*", text, re.ASCII)
    if match is None:
        return None
    number, space, unit = match.groups()
    if unit == "m":
        return f"'m' means thousandths of a byte here: write '{number}Mi' (binary) or '{number}M' (decimal)"
    if unit in _SCALES and unit not in "nu" and not space and text == text.strip():
        return None
    letter = unit[0].upper()
    if letter == "B":
        return f"bytes are written without a unit: '{number}'"
    if letter not in "KMGTPE" or unit[1:].lower() not in ("", "b", "i", "ib", "byte", "bytes"):
        return None
    decimal = "k" if letter == "K" else letter
    return f"Kubernetes writes '{number}{letter}i' (powers of 1024) or '{number}{decimal}' (powers of 1000)"


def read_memory(text: str) -> object:
    """One quantity, or two with a comma between."""
    start, comma, ceiling = text.partition(",")
    return (start.strip(), ceiling.strip()) if comma else text.strip()


def cpu(value: object) -> str:
    """CPUs: a number, or Kubernetes' own thousandths.

    >>> cpu(0.5), cpu(2), cpu("500m")
    ('500m', '2', '500m')
    """
    if isinstance(value, str):
        return _cpu_text(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise Refused("write a number of CPUs such as 0.5 or 2, or '500m'")
    number = float(value)
    if not math.isfinite(number):
        raise Refused("it must be a finite number")
    # Rounded up, as Kubernetes does; the small term keeps 0.1 + 0.2 from becoming 301m.
    thousandths = math.ceil(number * 1000 - 1e-6)
    if number < 0.001:
        raise Refused("it must be at least 0.001 CPUs")
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def _cpu_text(text: str) -> str:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)(m?)", text, re.ASCII)
    if match is None:
        raise Refused("write a number of CPUs such as '0.5' or '2', or thousandths such as '500m'")
    billionths = quantity(text)
    if billionths == 0 or billionths % 10**6:
        raise Refused("write CPUs in whole thousandths, at least '1m'")
    return text


_GPU: Final = "nvidia.com/gpu"


def gpu(value: object) -> Mapping[str, int] | None:
    """Accelerators by resource name; a bare number means NVIDIA's.

    >>> gpu(1), gpu({"amd.com/gpu": 2}), gpu(0)
    ({'nvidia.com/gpu': 1}, {'amd.com/gpu': 2}, None)
    """
    if isinstance(value, Mapping):
        return {_extended_resource(name): _devices(number, at=f"[{name!r}]") for name, number in value.items()} or None
    number = _devices(value, at="")
    return {_GPU: number} if number else None


def _devices(value: object, *, at: str) -> int:
    number = _whole(value)
    if number is None:
        raise Refused("GPUs are counted in whole numbers", at=at, shown=_brief(value))
    if number < (1 if at else 0):
        raise Refused("the number must be at least 1 (None means no GPU)", at=at, shown=_brief(value))
    return number


def _extended_resource(name: object) -> str:
    if isinstance(name, str) and "/" in name and _is_qualified_name(name):
        return name
    raise Refused(
        "write the resource's full name, such as 'nvidia.com/gpu' or 'amd.com/gpu'", at=f"[{name!r}]", shown=""
    )


def read_gpu(text: str) -> object:
    """``1``, or ``amd.com/gpu=1``."""
    if "=" not in text:
        return read_whole_number(text)
    return {name: read_whole_number(number) for name, number in read_mapping(text).items()}


# --- text and names

_DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_DNS_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_LABEL: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_DATA_KEY: Final = re.compile(r"[-._A-Za-z0-9]{1,253}", re.ASCII)
_VARIABLE: Final = re.compile(r"[-._A-Za-z][-._A-Za-z0-9]*", re.ASCII)


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
    if isinstance(value, str) and _DNS_LABEL.fullmatch(value):
        return value
    raise Refused("write at most 63 lower-case letters, digits and '-'")


def object_name(value: object) -> str:
    """The name of a Secret, ConfigMap, ServiceAccount or PriorityClass."""
    if isinstance(value, str) and len(value) <= 253 and _DNS_SUBDOMAIN.fullmatch(value):
        return value
    raise Refused("write the object's name: lower-case letters, digits, '-' and '.'")


def data_key(value: object) -> str:
    """A key within a Secret or ConfigMap."""
    if isinstance(value, str) and _DATA_KEY.fullmatch(value):
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
    return tuple(_inside(object_name, item, at=f"[{index}]") for index, item in enumerate(_listed(value, "the names")))


def _listed(value: object, what: str) -> Iterable[object]:
    if isinstance(value, (str, bytes, Mapping)):
        raise Refused(f"put {what} into a list: [{_brief(value)}]")
    if not isinstance(value, Sequence):
        raise Refused(f"put {what} into a list")
    return value


def _brief(value: object) -> str:
    whole = repr(value)
    return whole if len(whole) <= 60 else f"{whole[:57]}..."


def _inside(parse: Callable[[object], str], value: object, *, at: str) -> str:
    """Parse a part of a value; a refusal then says which part."""
    try:
        return parse(value)
    except Refused as refused:
        raise Refused(refused.why, at=at, shown=_brief(value)) from None


def read_list(text: str) -> list[str]:
    """Items with commas between."""
    return [item.strip() for item in text.split(",") if item.strip()]


# --- mappings

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
    return {_qualified_name(key): _string(item, at=f"[{key!r}]") for key, item in pairs.items()}


def _pairs(value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise Refused("write a dict")
    for key in value:
        if not isinstance(key, str):
            raise Refused(f"a name must be text: write {str(key)!r}", at=f"[{key!r}]", shown="")
    return dict(value)


def _string(value: object, *, at: str) -> str:
    if isinstance(value, str):
        return value
    raise Refused(_make_it_text(value), at=at, shown=_brief(value))


def _make_it_text(value: object) -> str:
    if isinstance(value, (bool, int, float)):
        return f"it must be text: write {str(value)!r}"
    return f"it must be text, not {type(value).__name__}"


def _label_value(value: object, *, at: str) -> str:
    label = _string(value, at=at)
    if not label or _LABEL.fullmatch(label):
        return label
    raise Refused(
        "a label's value has at most 63 letters, digits, '-', '_' and '.', and begins and ends with a letter or digit",
        at=at,
        shown=_brief(value),
    )


def _qualified_name(key: str) -> str:
    if _is_qualified_name(key):
        return key
    raise Refused(
        "write the name like 'team' or 'example.org/team', each part at most 63 long",
        at=f"[{key!r}]",
        shown="",
    )


def _is_qualified_name(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    if slash and not (len(prefix) <= 253 and _DNS_SUBDOMAIN.fullmatch(prefix)):
        return False
    return _LABEL.fullmatch(name) is not None


def variable(name: str, value: str) -> None:
    """Refuse what no process environment can hold. The value itself is never shown: it may be a secret."""
    at = f"[{name!r}]"
    if not _VARIABLE.fullmatch(name):
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
                shown = _brief(item) if isinstance(item, (int, float, type(None))) else f"<{type(item).__name__}>"
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


# --- tolerations

_TAINT: Final = re.compile(r"([^=:]+)(?:=([^=:]*))?:(NoSchedule|PreferNoSchedule|NoExecute)")
_TOLERATION_FIELDS: Final = ("key", "operator", "value", "effect", "tolerationSeconds")
_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def tolerations(value: object) -> tuple[Mapping[str, object], ...]:
    """Tolerations as Kubernetes writes them, or the taint as ``kubectl taint`` writes it.

    >>> tolerations(["dedicated=ml:NoSchedule"])
    ({'key': 'dedicated', 'operator': 'Equal', 'value': 'ml', 'effect': 'NoSchedule'},)
    """
    return tuple(_toleration(item, at=f"[{index}]") for index, item in enumerate(_listed(value, "the tolerations")))


def _toleration(value: object, *, at: str) -> Mapping[str, object]:
    if isinstance(value, str):
        return _taint(value, at=at)
    if not isinstance(value, Mapping):
        raise Refused("write a dict or the taint's text: 'dedicated=ml:NoSchedule'", at=at, shown=_brief(value))
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
        _string(value.get(name, ""), at=f"{at}[{name!r}]")
    if value.get("operator", "Equal") not in ("Equal", "Exists"):
        raise Refused("the operator is 'Equal' or 'Exists'", at=at, shown=_brief(value))
    if value.get("operator") == "Exists" and value.get("value"):
        raise Refused("a toleration with the operator 'Exists' has no value", at=at, shown=_brief(value))
    if not value.get("key") and value.get("operator") != "Exists":
        raise Refused("a toleration without a key needs the operator 'Exists'", at=at, shown=_brief(value))
    if value.get("effect", "") not in ("", *_EFFECTS):
        raise Refused(f"the effect is one of {', '.join(_EFFECTS)}", at=at, shown=_brief(value))
    lasting = value.get("tolerationSeconds")
    if lasting is None:
        return
    if isinstance(lasting, bool) or not isinstance(lasting, int):
        raise Refused("tolerationSeconds is a whole number", at=at, shown=_brief(value))
    if value.get("effect") != "NoExecute":
        raise Refused("tolerationSeconds needs the effect 'NoExecute'", at=at, shown=_brief(value))


def _taint(text: str, *, at: str) -> Mapping[str, object]:
    match = _TAINT.fullmatch(text)
    if match is None:
        raise Refused("write the taint as 'key=value:NoSchedule' or 'key:NoSchedule'", at=at, shown=_brief(text))
    key, value, effect = match.groups()
    if value is None:
        return {"key": key, "operator": "Exists", "effect": effect}
    return {"key": key, "operator": "Equal", "value": value, "effect": effect}


def read_tolerations(text: str) -> object:
    """Taints with commas between, or a JSON list."""
    return read_json(text) if text.lstrip().startswith("[") else read_list(text)


# --- exceptions


def exception_classes(value: object) -> tuple[type[BaseException], ...]:
    """Exception classes, one or several, as an ``except`` clause takes them."""
    if isinstance(value, type):
        value = (value,)
    if not isinstance(value, (tuple, list)):
        raise Refused("write exception classes: (OSError, ValueError)")
    return tuple(_exception_class(item, at=f"[{index}]") for index, item in enumerate(value))


def _exception_class(value: object, *, at: str) -> type[BaseException]:
    if isinstance(value, type) and issubclass(value, BaseException):
        return value
    if isinstance(value, BaseException):
        raise Refused(f"write the class {type(value).__name__}, not an instance", at=at, shown=_brief(value))
    raise Refused("it is not an exception class", at=at, shown=_brief(value))


def read_exception_classes(text: str) -> NoReturn:
    """Refuse: a class cannot be named by text alone without importing whatever it names."""
    raise Refused("exception classes can be set in Python only, with @remote or configure()")

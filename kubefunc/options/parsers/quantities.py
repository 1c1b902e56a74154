"""Kubernetes quantities: memory, CPUs and GPUs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from numbers import Real
from typing import Final

from kubefunc.options.kind import Refused, brief
from kubefunc.options.parsers.mappings import is_qualified_name, read_mapping
from kubefunc.options.parsers.numbers import as_int, read_whole_number

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
_QUANTITY: Final = _NUMBER + r"(?:[eE]([+-]?[0-9]{1,2})|([A-Za-z]*))"
_LEAST_MEMORY: Final = 1024**2  # below this a unit was forgotten: no Python starts in less
_MEMORY_EXAMPLES: Final = "'4Gi' (binary) or '4G' (decimal)"


def quantity(text: str) -> int:
    """A Kubernetes quantity in billionths, exactly, so that ``"1"`` and ``"1000m"`` compare as equal.

    >>> quantity("1") == quantity("1000m")
    True

    Raises:
        ValueError: the text is no positive quantity.
    """
    match = re.fullmatch(_QUANTITY, text, re.ASCII)
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
    number = as_int(value)
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


def size(value: object) -> str:
    """A number of bytes.

    >>> size("10Gi"), size(2**30)
    ('10Gi', '1073741824')
    """
    if isinstance(value, (tuple, list)):
        raise Refused("write one size such as '10Gi'")
    if isinstance(value, (str, int)) and not isinstance(value, bool) and _is_tiny(str(value)):
        raise Refused("that is less than 1 MiB. Did you forget a unit? Write '10Gi' or '512Mi'")
    return _bytes(value, at="")


def _is_tiny(text: str) -> bool:
    try:
        return quantity(text) < _LEAST_MEMORY * _NANO and not text.endswith("m")
    except ValueError:
        return False


def size_in_bytes(text: str) -> int:
    """The bytes of a quantity.

    >>> size_in_bytes("1Ki")
    1024
    """
    return quantity(text) // _NANO


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
    number = as_int(value)
    if number is None:
        raise Refused("GPUs are counted in whole numbers", at=at, shown=brief(value))
    if number < (1 if at else 0):
        raise Refused("the number must be at least 1 (None means no GPU)", at=at, shown=brief(value))
    return number


def _extended_resource(name: object) -> str:
    if isinstance(name, str) and "/" in name and is_qualified_name(name):
        return name
    raise Refused(
        "write the resource's full name, such as 'nvidia.com/gpu' or 'amd.com/gpu'", at=f"[{name!r}]", shown=""
    )


def read_gpu(text: str) -> object:
    """``1``, or ``amd.com/gpu=1``."""
    if "=" not in text:
        return read_whole_number(text)
    return {name: read_whole_number(number) for name, number in read_mapping(text).items()}

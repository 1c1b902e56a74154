"""Classes of exceptions."""

from __future__ import annotations

from typing import NoReturn

from kubefunc.options.kind import Refused, brief


def classes(value: object) -> tuple[type[BaseException], ...]:
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
        raise Refused(f"write the class {type(value).__name__}, not an instance", at=at, shown=brief(value))
    raise Refused("it is not an exception class", at=at, shown=brief(value))


def read(text: str) -> NoReturn:
    """Refuse: a class cannot be named by text alone without importing whatever it names."""
    raise Refused("exception classes can be set in Python only, with @remote or configure()")

"""``dataclass(frozen=True, kw_only=True)`` for programs that must start fast.

The import of ``dataclasses`` costs each Pod 10 ms, most of it for ``inspect``. Type checkers see the real one::

    TYPE_CHECKING = False
    if TYPE_CHECKING:
        from dataclasses import dataclass
    else:
        from kubefunc.runner.protocol.record import dataclass
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def dataclass(*, frozen: bool, kw_only: bool) -> Callable[[type], type]:
    """Give a class a constructor that takes its annotated fields by keyword, and forbid to change them.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Point:
    ...     x: int
    ...     y: int = 0
    >>> Point(x=2)
    Point(x=2, y=0)
    >>> Point(y=1)
    Traceback (most recent call last):
    ...
    TypeError: Point: missing x
    """
    if not (frozen and kw_only):
        raise TypeError("only frozen=True, kw_only=True is needed here")
    return _completed


def _completed(cls: Any) -> Any:
    names = [name for each in reversed(cls.__mro__[:-1]) for name in each.__annotations__]
    defaults = {name: getattr(cls, name) for name in names if hasattr(cls, name)}

    def make(self: object, **values: Any) -> None:
        found = {**defaults, **values}
        unknown = found.keys() - names
        missing = [name for name in names if name not in found]
        if unknown or missing:
            raise TypeError(f"{cls.__name__}: " + (f"unknown {min(unknown)}" if unknown else f"missing {missing[0]}"))
        self.__dict__.update(found)

    cls.__init__ = make
    cls.__setattr__ = _refuse
    cls.__eq__ = lambda self, other: type(self) is type(other) and vars(self) == vars(other)
    cls.__repr__ = lambda self: f"{cls.__name__}({', '.join(f'{name}={vars(self)[name]!r}' for name in names)})"
    return cls


def _refuse(self: object, name: str, value: object) -> None:
    raise AttributeError(f"cannot assign to field {name!r}")

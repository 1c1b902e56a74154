"""Whether a function can be called with these arguments: asked of its signature, before anything is sent."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any


def refuse_misfits(
    where: str, function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
) -> None:
    """Refuse arguments that the call itself would refuse.

    >>> refuse_misfits("f.remote()", lambda x, y=0: x, (), {"y": 1})
    Traceback (most recent call last):
    ...
    TypeError: f.remote(): missing a required argument: 'x'. It takes (x, y=0).

    Raises:
        TypeError: as Python's own, where the function's signature is known for sure.
    """
    __tracebackhide__ = True
    signature = _signature(function)
    if signature is not None:
        _bind(where, signature, args, kwargs)


def without_misfits(
    where: str,
    function: Callable[..., object],
    items: Iterable[tuple[object, ...]],
    kwargs: Mapping[str, object],
) -> Iterator[tuple[object, ...]]:
    """The items of a map, each looked at as in :func:`refuse_misfits`: only their number of arguments counts."""
    __tracebackhide__ = True
    signature = _signature(function)
    fitting: set[int] = set()
    for index, item in enumerate(items):
        if signature is not None and len(item) not in fitting:
            _bind(f"{where}: items[{index}]", signature, item, kwargs)
            fitting.add(len(item))
        yield item


def _bind(where: str, signature: inspect.Signature, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    __tracebackhide__ = True
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        takes = signature.replace(return_annotation=inspect.Signature.empty) if signature.parameters else "no arguments"
        raise TypeError(f"{where}: {error}. It takes {takes}.") from None


def _signature(function: Callable[..., object]) -> inspect.Signature | None:
    """What the function itself takes, not what it wraps: a decorator may add or take away arguments.

    None for what only claims a signature: ``__signature__``, classes with a metaclass, extensions.
    """
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = getattr(inner, "__func__", inner)
    if not isinstance(inner, (types.FunctionType, types.BuiltinFunctionType, type)):
        inner = type(inner).__call__
    if not isinstance(inner, (types.FunctionType, types.BuiltinFunctionType)) or _claims(function, inner):
        return None
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # a builtin without one
        return None


def _claims(*functions: Any) -> bool:
    return any(
        "__signature__" in getattr(each, "__dict__", {}) or hasattr(type(each), "__signature__") for each in functions
    )

"""Why a call cannot be sent: which part of it does not pickle, and what to do instead."""

from __future__ import annotations

import io
import types
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeAlias

from kubefunc.errors import FileError, SerializationError
from kubefunc.runner.execution.pickling import NamedHereOnly

Pickled: TypeAlias = Callable[[object], bytes]


def explained(
    function: Callable[..., object], parts: Sequence[tuple[str, object]], error: Exception, pickled: Pickled
) -> SerializationError:
    """Which of these parts, named for a person, does not pickle, and what in it."""
    from kubefunc.runner.execution.culprit import find_unpicklable  # only failures pay for it

    name = title(function)
    for root, part in parts:
        if not _pickles(part, pickled):
            path, culprit, cause = find_unpicklable(part, root, pickled)
            if isinstance(cause, FileError):
                return FileError(f"{name} cannot be sent: {path} is {cause}")
            return SerializationError(_message(name, path, culprit, cause))
    return SerializationError(f"{name} cannot be sent: each argument pickles, but all together do not ({_said(error)})")


def title(function: Callable[..., object]) -> str:
    """The function's name, for a person."""
    return str(getattr(function, "__qualname__", None) or repr(function))


def _pickles(obj: object, pickled: Pickled) -> bool:
    try:
        pickled(obj)
    except Exception:  # noqa: BLE001 - as in pack()
        return False
    return True


def _message(name: str, path: str, culprit: object, cause: Exception) -> str:
    return (
        f"{name} cannot be sent: {path} is {_kind(culprit)}, which cannot be pickled ({_said(cause)}). "
        f"{_way_out(culprit, cause)}"
    )


def _kind(obj: object) -> str:
    kind = obj if isinstance(obj, type) else type(obj)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"the class {name}" if isinstance(obj, type) else f"of type {name}"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _way_out(culprit: object, cause: Exception) -> str:
    """What to do instead, in one sentence."""
    if getattr(type(culprit), "__kubefunc_call__", False) is True:
        return "Pass its result: pass call.result() instead of the call."
    if isinstance(culprit, Future):
        return "Pass its result: as with a Call, pass call.result() instead of the Future."
    if isinstance(cause.__cause__ or cause, RecursionError):
        return "It is nested too deeply: pass it as flat data, such as a list."
    if isinstance(culprit, io.IOBase):
        return "Pass its path, and open it inside the function."
    if isinstance(culprit, (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)):
        return "Pass a list of its items, or the arguments that it is made from."
    if isinstance(cause, NamedHereOnly):
        return cause.advice
    kind = type(culprit)
    if kind.__module__.partition(".")[0] in (
        "_thread",
        "threading",
        "multiprocessing",
        "asyncio",
        "_asyncio",
    ):
        return "Create it inside the function; a class that holds one can leave it out in __getstate__."
    return (
        f"Create it inside the function from plain data, or teach {kind.__qualname__} to be pickled "
        "(__reduce__, or __getstate__ and __setstate__)."
    )

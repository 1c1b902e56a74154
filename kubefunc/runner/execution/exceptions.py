"""An exception, its chain and its notes, as data: pickle alone drops all but the exception itself.

A chain is a list of nodes (JSON) and one body of pickles. Node::

    {"type": "module.Name", "message": str(exc), "notes": [...], "at": [offset, size] or null,
     "cause": node number or null, "context": ..., "suppress": bool, "members": [node numbers of an ExceptionGroup]}

Node 0 is the exception that was raised.
"""

from __future__ import annotations

import pickle
import sys

TYPE_CHECKING = False  # type checkers know the name; importing typing would cost each Pod 10 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Node = dict[str, Any]
    Dumps = Callable[[object], bytes]

_LIMIT = 50  # nodes: a chain made in a loop must not fill the message


def encode(error: BaseException, dumps: Dumps) -> tuple[list[Node], bytes]:
    """All exceptions reachable from this one, as nodes and the body of their pickles."""
    found = _reachable(error)
    number = {id(each): index for index, each in enumerate(found)}
    body = bytearray()
    nodes = []
    for each in found:
        data = _pickled(each, dumps)
        nodes.append(
            {
                "type": type_name(type(each)),
                "message": text_of(each),
                "notes": [str(note) for note in _notes(each)],
                "at": None if data is None else [len(body), len(data)],
                "cause": number.get(id(each.__cause__)),
                "context": number.get(id(each.__context__)),
                "suppress": each.__suppress_context__,
                "members": [number[id(member)] for member in _members(each) if id(member) in number],
            }
        )
        body += data or b""
    return nodes, bytes(body)


def traceback_text(error: BaseException) -> str:
    """The whole traceback as Python prints it, without the frames of this runner."""
    try:
        import traceback  # most functions raise nothing: their callers need not wait for it
    except Exception:  # as where the function has used up all descriptors, which may be why it raised
        return f"{type_name(type(error))}: {text_of(error)}"
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = _without_runner(each.__traceback__)
        waiting += [other for other in (each.__cause__, each.__context__) if other is not None]
    return "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip("\n")


def rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """An exception without a call of its ``__init__``, which may want other arguments than ``args``."""
    error: BaseException = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def type_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def text_of(error: object) -> str:
    """Its text, whatever its class does when asked."""
    try:
        return str(error)
    except Exception:
        return "<its __str__ raised>"


def _reachable(error: BaseException) -> list[BaseException]:
    found = [error]
    seen = {id(error)}
    for each in found:
        for other in [each.__cause__, each.__context__, *_members(each)]:
            if other is not None and id(other) not in seen and len(found) < _LIMIT:
                seen.add(id(other))
                found.append(other)
    return found


def _members(error: BaseException) -> tuple[BaseException, ...]:
    if sys.version_info >= (3, 11) and isinstance(error, BaseExceptionGroup):  # noqa: F821 - guarded by the version
        return tuple(error.exceptions)
    return ()


def _notes(error: BaseException) -> list[object]:
    notes = getattr(error, "__notes__", None)
    return list(notes) if isinstance(notes, (list, tuple)) else []


def _without_runner(frames: Any) -> Any:
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("kubefunc.runner"):
        frames = frames.tb_next
    return frames


def _pickled(error: BaseException, dumps: Dumps) -> bytes | None:
    """Its pickle, in the first of its forms that loads again as an equal exception; None where none does."""
    form = _form(error, dumps)
    return None if form is None else dumps(form)


def _form(error: BaseException, dumps: Dumps) -> object | None:
    """What to pickle for it: itself, or else something that needs neither its ``__init__`` nor all it holds."""
    state = {name: value for name, value in error.__dict__.items() if name != "__notes__"}
    forms: tuple[Callable[[], object], ...] = (
        lambda: error,
        lambda: _Rebuilt(type(error), error.args, state),
        lambda: _Rebuilt(type(error), *_what_pickles(error.args, state, dumps)),
    )
    if _members(error):
        forms = (lambda: error, lambda: _rebuilt_group(error, state, dumps))
    for make in forms:
        try:
            form = make()
            again = pickle.loads(dumps(form))
        except Exception:
            continue
        if _are_equal(again, error):
            return form
    return None


def _are_equal(again: object, error: BaseException) -> bool:
    if type(again) is not type(error) or text_of(again) != text_of(error):
        return False
    return all(
        _are_equal(mine, its) or isinstance(mine, _Unreadable)
        for mine, its in zip(_members(again), _members(error), strict=True)
    )


class _Unreadable(Exception):
    """Stands in an ExceptionGroup for a member that cannot be pickled in any form."""


def _rebuilt_group(error: BaseException, state: dict[str, Any], dumps: Dumps) -> _Rebuilt:
    """A group whose members are each in a form of its own."""
    members = [
        _form(member, dumps) or _Unreadable(f"{type_name(type(member))}: {text_of(member)} (it cannot be pickled)")
        for member in _members(error)
    ]
    _, kept = _what_pickles((), state, dumps)
    return _Rebuilt(type(error), (error.args[0], members), kept)


class _Rebuilt:
    """Pickles as a call of :func:`rebuild`."""

    def __init__(self, cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> None:
        self.parts = (cls, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, self.parts


def _what_pickles(args: tuple[Any, ...], state: dict[str, Any], dumps: Dumps) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def pickles(value: object) -> bool:
        try:
            pickle.loads(dumps(value))
        except Exception:
            return False
        return True

    kept = tuple(value if pickles(value) else repr(value) for value in args)
    return kept, {name: value for name, value in state.items() if pickles(value)}

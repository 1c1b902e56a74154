"""An exception, its chain and its notes, as data: pickle alone drops all but the exception itself.

A chain is a list of nodes (JSON) and one body of pickles. Node::

    {"type": "module.Name", "message": str(exc), "notes": [...], "at": [offset, size] or null,
     "cause": node number or null, "context": ..., "suppress": bool, "members": [node numbers of an ExceptionGroup]}

Node 0 is the exception that was raised.

A class may raise whatever it likes when one of its exceptions is looked at: from ``__str__``, ``__getattr__``,
``__setattr__`` (as a frozen dataclass does), ``__bool__`` or ``__reduce__``. So fields are read and written as those of
BaseException itself, and what the class must be asked for is asked once, and may fail.
"""

from __future__ import annotations

import pickle
import sys

TYPE_CHECKING = False  # type checkers know the name; importing typing would cost each Pod 10 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    Node = dict[str, Any]
    Dumps = Callable[[object], bytes]
    Form = tuple[object, bytes]  # what is pickled for an exception, and its pickle

_LIMIT = 50  # nodes: a chain made in a loop must not fill the message
_UNSET = object()
_MEMBER = type(vars(OSError)["errno"])
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes})  # equal copies of these are the same


def encode(error: BaseException, dumps: Dumps) -> tuple[list[Node], bytes]:
    """All exceptions reachable from this one, as nodes and the body of their pickles."""
    found = _reachable(error)
    number = {id(each): index for index, each in enumerate(found)}
    body = bytearray()
    nodes = []
    forms = _Forms(dumps)
    for each in found:
        form = forms.of(each)
        data = None if form is None else form[1]
        nodes.append(
            {
                **_text_node(each),
                "at": None if data is None else [len(body), len(data)],
                "cause": number.get(id(get_field(each, "__cause__"))),
                "context": number.get(id(get_field(each, "__context__"))),
                "suppress": get_field(each, "__suppress_context__"),
                "members": [number[id(member)] for member in members_of(each) if id(member) in number],
            }
        )
        body += data or b""
    return nodes, bytes(body)


def encode_text(error: BaseException) -> list[Node]:
    """The one node of an exception of which only type, text and notes travel."""
    return [{**_text_node(error), "at": None, "cause": None, "context": None, "suppress": False, "members": []}]


def get_field(error: BaseException, name: str) -> Any:
    """A field of BaseException, such as ``__cause__``, whatever the exception's class does when it is asked."""
    return BaseException.__dict__[name].__get__(error)


def set_field(error: BaseException, name: str, value: object) -> None:
    """Set a field of BaseException, also on an exception whose class lets nobody set anything."""
    BaseException.__dict__[name].__set__(error, value)


def traceback_text(error: BaseException) -> str:
    """The whole traceback as Python prints it, without the frames of this runner."""
    try:
        import traceback  # most functions raise nothing: their callers need not wait for it
    except Exception:  # as where the function has used up all descriptors, which may be why it raised
        return _last_line(error)
    for each in chain(error):
        set_field(each, "__traceback__", _without_runner(get_field(each, "__traceback__")))
    if any(map(_hides_its_notes, chain(error))):  # from Python 3.13 on, traceback leaves them out and says so
        return _plain_traceback(error)
    try:
        return "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip("\n")
    except BaseException:  # traceback asks the exception's class for more than its text
        return _plain_traceback(error)


def _hides_its_notes(error: BaseException) -> bool:
    """Whether its class raises something when it is asked for the notes."""
    try:
        error.__notes__  # type: ignore[attr-defined, unused-ignore]  # noqa: B018
    except AttributeError:
        return False
    except BaseException:
        return True
    return False


def rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Make an exception without its ``__init__``, which may want other arguments than ``args``."""
    native = _native(cls)
    try:
        error: BaseException = cls.__new__(cls, *args)
    except Exception:  # a __new__ of its own, which wants others too
        error = native.__new__(cls, *args)
    try:
        native.__init__(error, *args)  # an OSError and its like read their arguments there
    except Exception:
        set_field(error, "args", args)
    fields = _fields(_bases(cls))
    for name, value in state.items():
        if name in fields:
            fields[name].__set__(error, value)
        else:
            get_field(error, "__dict__")[name] = value
    return error


def type_name(cls: type) -> str:
    """Module and name of a class, as they are written in a traceback."""
    module, name = type.__dict__["__module__"].__get__(cls), type.__dict__["__qualname__"].__get__(cls)
    return name if module == "builtins" else f"{module}.{name}"


def text_of(error: object) -> str:
    """Its text, whatever its class does when asked."""
    try:
        return str.__str__(str(error))  # of a class derived from str, the plain text
    except BaseException:
        return "<its __str__ raised>"


def notes_of(error: BaseException) -> list[str]:
    """Its notes as text."""
    notes = get_field(error, "__dict__").get("__notes__")
    return [text_of(note) for note in notes] if type(notes) in (list, tuple) else []


def members_of(error: BaseException) -> tuple[BaseException, ...]:
    """The exceptions in an ExceptionGroup; none in any other exception."""
    if sys.version_info >= (3, 11) and issubclass(type(error), BaseExceptionGroup):  # noqa: F821 - guarded
        members: tuple[BaseException, ...] = vars(BaseExceptionGroup)["exceptions"].__get__(error)  # noqa: F821
        return members
    return ()


def add_note(error: BaseException, note: str) -> None:
    """Add a note, also to an exception whose class lets nobody set anything."""
    notes = notes_of(error)
    if note not in notes:
        get_field(error, "__dict__")["__notes__"] = [*notes, note]


def chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, its cause or context, and so on: each once."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        cause = get_field(each, "__cause__")
        each = cause if cause is not None or get_field(each, "__suppress_context__") else get_field(each, "__context__")


def _text_node(error: BaseException) -> Node:
    return {"type": type_name(type(error)), "message": text_of(error), "notes": notes_of(error)}


def _last_line(error: BaseException) -> str:
    return f"{type_name(type(error))}: {text_of(error)}"


def _plain_traceback(error: BaseException) -> str:
    """What Python would print, made from BaseException's own fields alone."""
    import traceback

    parts: list[str] = []
    for each in chain(error):
        frames = "".join(traceback.format_list(traceback.extract_tb(get_field(each, "__traceback__"))))
        notes = "".join(f"\n{note}" for note in notes_of(each))
        parts.append(f"Traceback (most recent call last):\n{frames}{_last_line(each)}{notes}")
        if get_field(each, "__cause__") is not None:
            parts.append("The above exception was the direct cause of the following exception:")
        else:
            parts.append("During handling of the above exception, another exception occurred:")
    return "\n\n".join(reversed(parts[:-1]))


def _reachable(error: BaseException) -> list[BaseException]:
    found = [error]
    seen = {id(error)}
    for each in found:
        for other in [get_field(each, "__cause__"), get_field(each, "__context__"), *members_of(each)]:
            if other is not None and id(other) not in seen and len(found) < _LIMIT:
                seen.add(id(other))
                found.append(other)
    return found


def _without_runner(frames: Any) -> Any:
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("kubefunc.runner"):
        frames = frames.tb_next
    return frames


# -- what is pickled for an exception


class _Forms:
    """Finds out what to pickle for exceptions, and keeps it: a member of a group is asked for again and again."""

    def __init__(self, dumps: Dumps) -> None:
        self._dumps = dumps
        self._known: dict[int, Form | None] = {}

    def of(self, error: BaseException) -> Form | None:
        """The first form of an exception that loads as a copy of it; None where none does.

        A form that loads with the class and the number of arguments is good enough where no other is better. Texts are
        not compared: that of an object without a ``__repr__`` holds its address, and that of a set its order.
        """
        if id(error) not in self._known:
            self._known[id(error)] = self._found(error)
        return self._known[id(error)]

    def _found(self, error: BaseException) -> Form | None:
        good_enough: Form | None = None
        for make in self._forms(error):
            try:
                form = make()
                data = self._dumps(form)
                again = pickle.loads(data)
                if not _is_same_kind(again, error):
                    continue
                if _is_copy(again, error):
                    return form, data
            except BaseException:
                continue
            good_enough = good_enough or (form, data)
        return good_enough

    def _forms(self, error: BaseException) -> tuple[Callable[[], object], ...]:
        """What to pickle for it: itself, or else something that needs neither its ``__init__`` nor all it holds."""
        if members_of(error):
            return lambda: error, lambda: self._rebuilt_group(error)
        return (
            lambda: error,
            lambda: _Rebuilt(type(error), *_parts(error)),
            lambda: _Rebuilt(type(error), *_what_pickles(*_parts(error), self._dumps)),
        )

    def _rebuilt_group(self, error: BaseException) -> _Rebuilt:
        """A group whose members are each in a form of its own."""
        members = []
        for member in members_of(error):
            form = self.of(member)
            told = f"{_last_line(member)} (it cannot be pickled)"
            members.append(_Unreadable(told) if form is None else form[0])
        _, kept = _what_pickles((), _parts(error)[1], self._dumps)
        return _Rebuilt(type(error), (get_field(error, "args")[0], members), kept)


def _is_same_kind(again: Any, error: BaseException) -> bool:
    if type(again) is not type(error) or len(get_field(again, "args")) != len(get_field(error, "args")):
        return False
    members = list(zip(members_of(again), members_of(error), strict=True))
    return all(type(mine) is _Unreadable or _is_same_kind(mine, its) for mine, its in members)


def _is_copy(again: BaseException, error: BaseException) -> bool:
    """Whether an exception of the same kind has lost or changed nothing that can be told without asking its class."""
    if not all(map(_is_alike, get_field(again, "args"), get_field(error, "args"))):
        return False
    for field in _slots(type(error)).values():
        mine, its = _read(field, again), _read(field, error)
        if not _is_alike(mine, its):
            return False
    members = zip(members_of(again), members_of(error), strict=True)
    return all(type(mine) is _Unreadable or _is_copy(mine, its) for mine, its in members)


def _is_alike(mine: object, its: object) -> bool:
    if type(mine) is not type(its):
        return False
    return type(mine) not in _PLAIN or mine == its or (mine != mine and its != its)  # not a number


def _parts(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments and state of an exception, as its built-in base class gives them, with its ``__slots__``."""
    _, args, *states = _native(type(error)).__reduce__(error)
    state = dict(states[0]) if states and type(states[0]) is dict else {}
    slots = {name: _read(slot, error) for name, slot in _slots(type(error)).items()}
    state.update((name, value) for name, value in slots.items() if value is not _UNSET)
    state.pop("__notes__", None)
    return args, state


def _native(cls: type[BaseException]) -> Any:
    """The nearest base class that is written in C."""
    return next(base for base in _bases(cls) if not _is_made_by_python(base))


def _slots(cls: type[BaseException]) -> dict[str, Any]:
    """The fields that ``__slots__`` of a class and its bases have made: BaseException does not pickle them."""
    return _fields(base for base in _bases(cls) if _is_made_by_python(base))


def _fields(bases: Iterable[type]) -> dict[str, Any]:
    """The members that instances keep outside of their ``__dict__``, such as ``name`` of an ImportError."""
    fields: dict[str, Any] = {}
    for base in bases:
        for name, value in type.__dict__["__dict__"].__get__(base).items():
            if type(value) is _MEMBER:
                fields.setdefault(name, value)
    return fields


def _bases(cls: type) -> tuple[type, ...]:
    """Its ``__mro__``, whatever its metaclass does."""
    bases: tuple[type, ...] = type.__dict__["__mro__"].__get__(cls)
    return bases


def _is_made_by_python(cls: type) -> bool:
    return bool(type.__dict__["__flags__"].__get__(cls) & _HEAP_TYPE)


def _read(field: Any, error: BaseException) -> object:
    try:
        return field.__get__(error)
    except AttributeError:  # a slot that nothing was put into
        return _UNSET


class _Unreadable(Exception):
    """Stands in an ExceptionGroup for a member that cannot be pickled in any form."""


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
        except BaseException:
            return False
        return True

    kept = tuple(value if pickles(value) else _shown(value) for value in args)
    return kept, {name: value for name, value in state.items() if pickles(value)}


def _shown(value: object) -> str:
    try:
        return str.__str__(repr(value))
    except BaseException:
        return f"<{type_name(type(value))}>"

"""Where in an object is the part that cannot be pickled: imported only after pickling has failed.

Works on both sides: the client looks into arguments before anything is sent, the runner into a return value.
"""

from __future__ import annotations

import copyreg
import functools
import time
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeAlias

    Dumps: TypeAlias = Callable[[object], bytes]

SECONDS = 5.0  # for the whole search: beyond that the part found so far is the answer
DEPTH = 100
_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray)


class Path:
    """How a part is reached: an expression, and where the expression's first name comes from.

    Such as ``args[1].session.lock``, ``closure variable 'x' of function f``,
    ``x.lock (closure variable 'x' of function f)``.
    """

    __slots__ = ("expression", "origin")

    def __init__(self, expression: str, origin: str = "") -> None:
        self.expression = expression
        self.origin = origin

    def __add__(self, suffix: str) -> Path:
        return Path(self.expression + suffix, self.origin)

    def __str__(self) -> str:
        if not self.origin:
            return self.expression
        if self.expression.isidentifier():  # nothing was added to the variable's own name
            return self.origin
        return f"{self.expression} ({self.origin})"


def find_unpicklable(
    obj: object,
    root: str,
    dumps: Dumps,
    *,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[str, object, Exception]:
    """The path to the innermost part that does not pickle, that part, and what pickling it raised.

    Only pickles parts of the object, again and again, and asks them for their state, as pickling itself does.

    Args:
        obj: what ``dumps`` has failed on.
        root: how to call it, such as ``args[1]`` or ``result``.
        dumps: pickles any object, and raises where it cannot. An error whose attribute ``culprit`` is the very
            object that was pickled ends the search there.
        seconds: how long the search may take; a part that was found by then is the answer.

    Raises:
        ValueError: the object does pickle.
    """
    error = _failure(obj, dumps)
    if error is None:
        raise ValueError(f"{root} does pickle")
    deadline = clock() + seconds
    search = _Search(dumps, lambda: clock() > deadline)
    path, culprit, cause = search.innermost(obj, Path(root), error, 0) or (Path(root), obj, error)
    return str(path), culprit, cause


def _failure(obj: object, dumps: Dumps) -> Exception | None:
    try:
        dumps(obj)
    except Exception as error:
        return error
    return None


class _Search:
    """One search: knows what it has looked into already."""

    def __init__(self, dumps: Dumps, is_late: Callable[[], bool]) -> None:
        self._dumps = dumps
        self._is_late = is_late
        # By id; holds the objects, so that an id stays that of one object: many parts are made on the way.
        self._visited: dict[int, object] = {}

    def innermost(self, obj: object, path: Path, error: Exception, depth: int) -> tuple[Path, object, Exception] | None:
        """The culprit in an object that does not pickle; None if all its parts lead back to where we were."""
        self._visited[id(obj)] = obj
        if depth == DEPTH or _is_whole(obj, error):
            return path, obj, error
        parts = [each for each in _parts(obj, path) if type(each[1]) not in _ATOMS]
        fresh = [each for each in parts if id(each[1]) not in self._visited]
        leads_back = len(fresh) < len(parts)
        while (failing := self._first_failing(fresh)) is not None:
            index, cause = failing
            place, part = fresh.pop(index)
            found = self.innermost(part, place, cause, depth + 1)
            if found is not None:
                return found
        return None if leads_back else (path, obj, error)

    def _first_failing(self, parts: list[tuple[Path, object]]) -> tuple[int, Exception] | None:
        low, high = 0, len(parts)
        # Halving finds the one bad element of a million in twenty steps.
        while high - low > 8 and not self._is_late():
            middle = (low + high) // 2
            bad = _failure([part for _, part in parts[low:middle]], self._dumps)
            low, high = (low, middle) if bad is not None else (middle, high)
        for index in range(low, high):
            if self._is_late():
                return None
            error = _failure(parts[index][1], self._dumps)
            if error is not None:
                return index, error
        return None


def _is_whole(obj: object, error: Exception) -> bool:
    """Whether no part of the object is to blame."""
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        return True  # too deep as a whole
    return getattr(error, "culprit", None) is obj  # the error names its object


def _parts(obj: Any, path: Path) -> Iterator[tuple[Path, object]]:
    """What pickling the object would pickle in turn, each with its path."""
    for kind, parts in _KINDS:
        if isinstance(obj, kind):
            return parts(obj, path)
    if type(obj) in (dict, types.MappingProxyType):
        return _parts_of_mapping(obj.items(), path)
    if type(obj) in (list, tuple):
        return _parts_of_items(enumerate(obj), path)
    if type(obj) in (set, frozenset):
        return ((Path(f"element {_short(each)} of {path}"), each) for each in obj)
    return _parts_of_instance(obj, path)


def _parts_of_method(method: types.MethodType, path: Path) -> Iterator[tuple[Path, object]]:
    yield path + ".__self__", method.__self__
    yield path + ".__func__", method.__func__


def _parts_of_wrapper(
    wrapper: staticmethod[..., object] | classmethod[object, ..., object], path: Path
) -> Iterator[tuple[Path, object]]:
    yield path, wrapper.__func__


def _parts_of_property(accessors: property, path: Path) -> Iterator[tuple[Path, object]]:
    for accessor in (accessors.fget, accessors.fset, accessors.fdel):
        yield path, accessor


def _parts_of_partial(partial: functools.partial[object], path: Path) -> Iterator[tuple[Path, object]]:
    yield path + ".func", partial.func
    yield from _parts_of_items(enumerate(partial.args), path + ".args")
    yield from _parts_of_items(partial.keywords.items(), path + ".keywords")


def _parts_of_cache(cached: Any, path: Path) -> Iterator[tuple[Path, object]]:
    yield path + ".__wrapped__", cached.__wrapped__


def _parts_of_items(items: Iterable[tuple[object, object]], path: Path) -> Iterator[tuple[Path, object]]:
    for key, value in items:
        yield path + f"[{_short(key)}]", value


def _parts_of_mapping(items: Iterable[tuple[object, object]], path: Path) -> Iterator[tuple[Path, object]]:
    for key, value in items:
        yield path + f"[{_short(key)}]", value
        yield Path(f"key {_short(key)} of {path}"), key


def _parts_of_function(function: types.FunctionType, path: Path) -> Iterator[tuple[Path, object]]:
    name = function.__name__
    suffix = "" if path.expression.startswith("function ") or path.origin else f" in {path}"
    code = function.__code__
    for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        yield Path(variable, f"closure variable {variable!r} of function {name}{suffix}"), value
    for variable in sorted(_globals_in(code)):
        if variable in function.__globals__:
            value = function.__globals__[variable]
            yield Path(variable, f"global {variable!r} used by {name}{suffix}"), value
    positional = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    for parameter, value in zip(positional[len(positional) - len(defaults) :], defaults, strict=True):
        yield Path(parameter, f"default of parameter {parameter!r} of function {name}{suffix}"), value
    for parameter, value in (function.__kwdefaults__ or {}).items():
        yield Path(parameter, f"default of parameter {parameter!r} of function {name}{suffix}"), value
    for attribute, value in vars(function).items():
        yield Path(f"{name}.{attribute}", f"attribute of function {name}{suffix}"), value


def _globals_in(code: types.CodeType) -> set[str]:
    import dis  # needed here only

    names = {
        str(instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL")
    }
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            names |= _globals_in(inner)
    return names


def _parts_of_class(cls: type, path: Path) -> Iterator[tuple[Path, object]]:
    for base in cls.__bases__:
        yield Path(base.__name__, f"base {base.__name__!r} of class {cls.__name__}"), base
    for name, value in vars(cls).items():
        if name not in ("__dict__", "__weakref__"):
            yield Path(f"{cls.__name__}.{name}"), value


def _parts_of_instance(obj: object, path: Path) -> Iterator[tuple[Path, object]]:
    """By the object's own answer to ``__reduce_ex__``: attributes, elements, constructor's arguments."""
    try:
        reducer = copyreg.dispatch_table.get(type(obj))
        reduced = reducer(obj) if reducer else obj.__reduce_ex__(4)
    except Exception:
        return
    if not isinstance(reduced, tuple):
        return
    function, arguments, state, elements, items = _five(reduced)
    yield from _parts_of_state(obj, state, path)
    yield from _parts_of_items(enumerate(elements or ()), path)
    yield from _parts_of_mapping(items or (), path)
    yield from _parts_of_arguments(obj, function, arguments, path)


def _five(reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*reduced, None, None, None)[:5]


def _parts_of_state(obj: object, state: Any, path: Path) -> Iterator[tuple[Path, object]]:
    halves = state if isinstance(state, tuple) and len(state) == 2 else (state,)  # (__dict__, __slots__)
    if not all(half is None or isinstance(half, dict) for half in halves):
        yield path + ".__getstate__()", state
        return
    for half in halves:
        for name, value in (half if isinstance(half, dict) else {}).items():
            yield path + _attribute(obj, name, value), value


def _attribute(obj: object, name: object, value: object) -> str:
    if isinstance(name, str) and name.isidentifier() and _has(obj, name, value):
        return f".{name}"
    return f".__getstate__()[{_short(name)}]"


def _has(obj: object, name: str, value: object) -> bool:
    """Whether the state's entry is the object's attribute of that name; asks no property and no __getattr__."""
    attributes = getattr(obj, "__dict__", None)
    if isinstance(attributes, dict) and attributes.get(name) is value:
        return True
    return any(isinstance(vars(cls).get(name), types.MemberDescriptorType) for cls in type(obj).__mro__)


def _parts_of_arguments(obj: object, function: object, arguments: object, path: Path) -> Iterator[tuple[Path, object]]:
    if not isinstance(arguments, tuple):
        return
    yield Path(f"type({path})"), type(obj)
    if isinstance(obj, tuple):  # a named tuple, or another class derived from tuple
        names = getattr(type(obj), "_fields", None)
        for index, value in enumerate(obj):
            yield path + (f".{names[index]}" if names else f"[{index}]"), value
        return
    for index, value in enumerate(arguments):
        if value is type(obj):
            continue
        if isinstance(obj, BaseException):
            yield path + f".args[{index}]", value
        else:
            yield path + f".__reduce__()[1][{index}]", value
    if function is not type(obj):
        yield path + ".__reduce__()[0]", function


_KINDS: tuple[tuple[Any, Callable[[Any, Path], Iterator[tuple[Path, object]]]], ...] = (
    (types.FunctionType, _parts_of_function),
    (type, _parts_of_class),
    (types.MethodType, _parts_of_method),
    ((staticmethod, classmethod), _parts_of_wrapper),
    (property, _parts_of_property),
    (functools.partial, _parts_of_partial),
    (type(functools.cache(len)), _parts_of_cache),
)


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."

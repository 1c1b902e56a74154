"""Pickling by value what cloudpickle leaves to a name that only this program knows.

An object whose pickle is its name (a cached function, a ``NewType``) is of no use to a process that has another
``__main__``. Such objects are taken apart here, and put together again by :func:`restore`; what cannot be taken apart
is refused. Classes keep their ``__slots__``, enums their aliases. The client pickles calls with this, the runner
results.
"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
import types
from enum import Enum

import cloudpickle  # type: ignore[import-untyped, unused-ignore]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Reduced = tuple[Any, ...]

_cloudpickle: Any = importlib.import_module("cloudpickle.cloudpickle")
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_C_METHODS = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType)
_OF_TYPED_DICTS = (
    *("__total__", "__required_keys__", "__optional_keys__", "__readonly_keys__", "__mutable_keys__"),
    *("__module__", "__qualname__", "__doc__", "__orig_bases__"),
)
_ALIASES = ("types", "_collections_abc")  # modules that name types which have no name of their own


class NamedHereOnly(pickle.PicklingError):
    """An object that is pickled by its name, where no other process can look that name up.

    Attributes:
        culprit: the object.
        advice: what to do instead, as a sentence.
    """

    def __init__(self, culprit: object, why: str, advice: str) -> None:
        super().__init__(why)
        self.culprit = culprit
        self.advice = advice


class Pickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
    """cloudpickle's pickler, for what that one refuses or loses as well."""

    def is_importable(self, module: str) -> bool:
        """Whether the process that loads the pickle can import this module."""
        return module != "__main__"

    def reducer_override(self, obj: Any) -> Any:
        """Called for every object that is not of a simple built-in type."""
        kind: Any = type(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if kind is types.FunctionType:
            if is_single_dispatch(obj) and not self._is_named(obj, obj.__qualname__):
                return reduce_single_dispatch(obj)
            return super().reducer_override(obj)
        if kind is io.TextIOWrapper and obj is not sys.stdout and obj is not sys.stderr:
            raise TypeError("cannot pickle an open file")  # cloudpickle would send its content in place of it
        take_apart = _KINDS.get((kind.__module__, kind.__qualname__))
        if take_apart is not None and not self._is_named(obj, _qualname(obj)):
            return take_apart(obj)
        if kind.__reduce__ is object.__reduce__ and kind.__reduce_ex__ is object.__reduce_ex__:
            return super().reducer_override(obj)
        if kind in self.dispatch_table:
            return super().reducer_override(obj)
        reduced = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
        if isinstance(reduced, str) and not self._is_named(obj, reduced):
            raise _named_here_only(obj, reduced)
        return reduced

    def _is_named(self, obj: object, name: str) -> bool:
        module = _module_of(obj, name)
        return self.is_importable(module) and look_up(module, name) is obj

    def _reduce_class(self, cls: Any) -> Any:
        reduced = super().reducer_override(cls)
        if reduced is NotImplemented or not str(getattr(reduced[0], "__name__", "")).startswith("_make_skeleton"):
            return reduced
        return reduce_class(cls)


def dumps(obj: object) -> bytes:
    """Its pickle, made with :class:`Pickler`."""
    buffer = io.BytesIO()
    Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(obj)
    return buffer.getvalue()


def restore(module: str, name: str, kind: str, known_as: str | None, make: Callable[..., Any], *parts: object) -> Any:
    """An object that was taken apart: each once in a process.

    Args:
        module: where the object has its name. What stands under that name in the ``__main__`` of this process is taken
            for it, if it is of the same kind.
        name: its qualified name.
        kind: the name of its type.
        known_as: an id of the object in all processes that have had it; None where nothing can be kept for it.
        make: makes a new one, of the parts.
    """
    known = None if known_as is None else _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.get(known_as)
    if known is not None:
        return known
    mine = look_up(module, name) if module == "__main__" else None
    made = mine if type(mine).__qualname__ == kind else make(*parts)
    return made if known_as is None else _cloudpickle._lookup_class_or_track(known_as, made)


def _restored(obj: Any, kind: str, make: Callable[..., Any], *parts: object) -> Reduced:
    name = _qualname(obj)
    try:
        known_as = _cloudpickle._get_or_create_tracker_id(obj)
    except TypeError:  # no weak references to it
        known_as = None
    return restore, (_module_of(obj, name), name, kind, known_as, make, *parts)


def _named_here_only(obj: object, name: str) -> NamedHereOnly:
    module = _module_of(obj, name)
    return NamedHereOnly(
        obj,
        f"it is pickled by its name, {name!r} in {module}, which no other process can import",
        "Define it in a module of its own, which travels along, or make it inside the function.",
    )


def _qualname(obj: Any) -> str:
    return str(getattr(obj, "__qualname__", None) or getattr(obj, "__name__", ""))


def _module_of(obj: object, name: str) -> str:
    module = getattr(obj, "__module__", None)
    return module if isinstance(module, str) else str(pickle.whichmodule(obj, name))  # type: ignore[attr-defined]


def look_up(module: str, name: str) -> object | None:
    """What this name means in a module that is loaded; None where it means nothing."""
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


# -- classes


def reduce_class(cls: Any) -> Reduced:
    """A class by value.

    Raises:
        NamedHereOnly: it is written in C, and no module has a name for it.
    """
    if _is_made_in_c(cls):
        return _reduce_c_type(cls)
    if type(cls).__name__ == "_TypedDictMeta":
        return _restored(cls, "_TypedDictMeta", _make_typed_dict, *_parts_of_typed_dict(cls))
    make, parts, (state, slots), *rest = _cloudpickle._dynamic_class_reduce(cls)
    if issubclass(cls, Enum):
        return _reduce_enum(cls, parts, state)
    keywords = parts[3]
    keywords["__qualname__"] = cls.__qualname__
    if "__slots__" in vars(cls) and not issubclass(cls, tuple):  # a NamedTuple makes its own
        keywords["__slots__"] = _slots(cls)
    return (make, parts, (state, slots), *rest)


def _slots(cls: Any) -> object:
    slots = cls.__slots__
    return slots if isinstance(slots, (str, dict)) else tuple(slots)


def _is_made_in_c(cls: type) -> bool:
    """Whether there is nothing in the class that could travel."""
    if not cls.__flags__ & _HEAP_TYPE:
        return True
    return any(isinstance(value, _C_METHODS) and value.__objclass__ is cls for value in vars(cls).values())


def _reduce_c_type(cls: Any) -> Reduced:
    for module in (cls.__module__, *_ALIASES):
        for name, value in vars(sys.modules.get(module, types)).items():
            if value is cls:
                return named_in, (module, name)
    raise NamedHereOnly(
        cls,
        f"it has no name in {cls.__module__} by which another process could find it",
        "Ask for it inside the function: type(...) of an object that is made there.",
    )


def named_in(module: str, name: str) -> Any:
    """What the module calls so."""
    return getattr(importlib.import_module(module), name)


def _reduce_enum(cls: Any, parts: tuple[Any, ...], state: dict[str, Any]) -> Reduced:
    """With its aliases, and with what its ``__init__`` has given to the members."""
    values = {name: member.value for name, member in cls.__members__.items()}
    for name in values:
        state.pop(name, None)
    attributes = {member.name: dict(vars(member)) for member in cls.__members__.values()}
    parts = (*parts[:3], values, *parts[4:])
    return _cloudpickle._make_skeleton_enum, parts, (state, attributes), None, None, set_enum_state


def set_enum_state(cls: Any, state: tuple[dict[str, Any], dict[str, dict[str, Any]]]) -> None:
    """Give a new enum its methods, and its members what they hold."""
    methods, attributes = state
    _cloudpickle._class_setstate(cls, (methods, {}))
    for name, held in attributes.items():
        vars(cls.__members__[name]).update({key: value for key, value in held.items() if key != "__objclass__"})


# -- objects that pickle by name


def _parts_of_typed_dict(cls: Any) -> tuple[object, ...]:
    attributes = {name: getattr(cls, name) for name in _OF_TYPED_DICTS if hasattr(cls, name)}
    return type(cls).__module__, cls.__name__, dict(cls.__annotations__), attributes


def _make_typed_dict(module: str, name: str, annotations: dict[str, Any], attributes: dict[str, Any]) -> Any:
    made = importlib.import_module(module).TypedDict(name, annotations)
    made.__annotations__ = annotations
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made


def _reduce_cache(cached: Any) -> Reduced:
    attributes = {name: value for name, value in vars(cached).items() if name != "__wrapped__"}
    parts = (cached.__wrapped__, cached.cache_parameters(), attributes)
    return _restored(cached, "_lru_cache_wrapper", _make_cache, *parts)


def _make_cache(function: Any, parameters: dict[str, Any], attributes: dict[str, Any]) -> Any:
    cached = functools.lru_cache(**parameters)(function)
    vars(cached).update(attributes)
    return cached


def _reduce_cached_property(cached: Any) -> Reduced:
    """Without its lock, which it has before Python 3.12."""
    kept = {name: value for name, value in vars(cached).items() if name not in ("func", "lock")}
    return functools.cached_property, (cached.func,), kept


def _reduce_single_dispatch_method(method: Any) -> Reduced:
    """Without the cache that it has from Python 3.13 on."""
    return functools.singledispatchmethod, (method.func,), {"dispatcher": method.dispatcher}


def is_single_dispatch(function: Any) -> bool:
    """Whether this is what ``functools.singledispatch`` makes."""
    return isinstance(getattr(function, "registry", None), types.MappingProxyType) and hasattr(function, "dispatch")


def reduce_single_dispatch(function: Any) -> Reduced:
    """The function and its implementations: the dispatcher itself holds weak references."""
    ways = [(kind, way) for kind, way in function.registry.items() if kind is not object]
    return _restored(function, "function", _make_single_dispatch, function.registry[object], ways)


def _make_single_dispatch(function: Any, ways: list[tuple[Any, Any]]) -> Any:
    made = functools.singledispatch(function)
    for kind, way in ways:
        made.register(kind, way)
    return made


def _reduce_new_type(new_type: Any) -> Reduced:
    return _restored(new_type, "NewType", _make_new_type, new_type.__name__, new_type.__supertype__, vars(new_type))


def _make_new_type(name: str, supertype: Any, attributes: dict[str, Any]) -> Any:
    import typing

    kind: Any = typing.NewType
    made = kind(name, supertype)
    vars(made).update(attributes)
    return made


def _reduce_type_parameter(parameter: Any) -> Reduced:
    names = ("bound", "covariant", "contravariant", "infer_variance")
    keywords = {name: getattr(parameter, f"__{name}__") for name in names if hasattr(parameter, f"__{name}__")}
    if hasattr(parameter, "has_default") and parameter.has_default():
        keywords["default"] = parameter.__default__
    if type(parameter).__name__ == "TypeVarTuple":
        keywords = {name: value for name, value in keywords.items() if name == "default"}
    kind = type(parameter).__name__
    parts = (parameter.__name__, *getattr(parameter, "__constraints__", ()))
    return _restored(parameter, kind, _make_type_parameter, kind, parts, parameter.__module__, keywords)


def _make_type_parameter(kind: str, parts: tuple[Any, ...], module: str, keywords: dict[str, Any]) -> Any:
    import typing

    made = getattr(typing, kind)(*parts, **keywords)
    made.__module__ = module
    return made


def _reduce_type_alias(alias: Any) -> Reduced:
    parts = (alias.__name__, alias.__module__, alias.__value__, alias.__type_params__)
    return _restored(alias, "TypeAliasType", _make_type_alias, *parts)


def _make_type_alias(name: str, module: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    import typing

    names = {"__name__": module, "make": vars(typing)["TypeAliasType"], "parts": (name, value), "types": parameters}
    return eval("make(*parts, type_params=types)", names)  # it takes its module from who calls


_KINDS: dict[tuple[str, str], Callable[[Any], Reduced]] = {
    ("functools", "_lru_cache_wrapper"): _reduce_cache,
    ("functools", "cached_property"): _reduce_cached_property,
    ("functools", "singledispatchmethod"): _reduce_single_dispatch_method,
    ("typing", "NewType"): _reduce_new_type,
    ("typing", "TypeVar"): _reduce_type_parameter,
    ("typing", "ParamSpec"): _reduce_type_parameter,
    ("typing", "TypeVarTuple"): _reduce_type_parameter,
    ("typing", "TypeAliasType"): _reduce_type_alias,
}

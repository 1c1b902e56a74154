"""How an option is written: a field with what it accepts, its default, and how it is merged.

An option is added in one module, that of its group: the types that it accepts in the group's TypedDict, and the
field with its docstring in the group's dataclass. All else (layers, ``KUBEFUNC_*``, ``kubefunc config``, completion
in notebooks) follows from the field. Other tools' names for it may go into suggestions.py.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeVar, cast

from kubefunc.options.kind import Kind, accepted, none
from kubefunc.options.parsers import names, numbers

T = TypeVar("T")
PodTemplate: TypeAlias = Mapping[str, object] | Callable[[dict[str, object]], dict[str, object]]
Merge: TypeAlias = Callable[[object, object], object]


class Unset(enum.Enum):
    """The type of :data:`UNSET`."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""Inherit from the weaker layers: the same as leaving the option out."""


PREFIX: Final = "KUBEFUNC_"
BACKEND_VARIABLE: Final = "KUBEFUNC_BACKEND"  # read by the session


def variable_of(name: str) -> str:
    """The environment variable that sets an option."""
    return f"{PREFIX}{name.upper()}"


def replace(below: object, above: object) -> object:
    """The later layer wins."""
    return above


def by_key(below: object, above: object) -> object:
    """Merge mappings key by key. None removes what earlier layers set."""
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {**below, **above}
    return above


def option(default: T, kind: Kind, *, merge: Merge = replace) -> T:
    """A field of a group of options.

    Args:
        default: the value where no layer sets the option.
        kind: what is accepted, from Python and from the environment.
        merge: from the value of the weaker layers and that of a stronger one to the one that applies.
    """
    metadata = {"kind": kind, "merge": merge}
    if isinstance(default, dict):
        return cast(T, dataclasses.field(default_factory=default.copy, metadata=metadata))
    return dataclasses.field(default=default, metadata=metadata)


class Group:
    """Options that belong together: the base of a dataclass.

    A group with conditions between its options checks them in __post_init__.
    """

    def __post_init__(self) -> None:
        for name, kind in kinds(type(self)).items():
            value = accepted(f"Options: {name}", kind, getattr(self, name))
            if value is None and kind.nothing is not None:
                value = kind.nothing()
            object.__setattr__(self, name, value)  # the dataclass is frozen; this is its normalisation


def kinds(group: type[Group]) -> Mapping[str, Kind]:
    """The kind of each option of a group, by name, in the order of the fields."""
    return _metadata(cast(Any, group), "kind")  # mypy takes a class for not hashable


def merges(group: type[Group]) -> Mapping[str, Merge]:
    """How each option of a group is merged, by name."""
    return _metadata(cast(Any, group), "merge")  # mypy takes a class for not hashable


@functools.cache  # each call asks several times
def _metadata(group: object, key: str) -> Mapping[str, Any]:
    return {each.name: each.metadata[key] for each in _fields(group)}


def option_names() -> frozenset[str]:
    """The names of the options of all groups."""
    return frozenset(each.name for group in Group.__subclasses__() for each in _fields(group))


def _fields(group: object) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cast(Any, group))


class Layer(Mapping[str, object]):
    """The options that one source sets, checked and converted. None means "explicitly none"."""

    def __init__(self, values: Mapping[str, object], sources: Mapping[str, str]) -> None:
        self._values = dict(values)
        self._sources = dict(sources)

    def source(self, name: str) -> str:
        """Where the option was set, for messages: ``@remote``, ``KUBEFUNC_CPU``."""
        return self._sources[name]

    def __getitem__(self, name: str) -> object:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        # Names alone: the values of env may be secrets.
        return f"Layer({', '.join(f'{name} from {self._sources[name]}' for name in self._values)})"


# --- kinds that several options have

SWITCH: Final = Kind("True or False", numbers.switch, numbers.read_switch)
DURATION: Final = Kind("seconds or a timedelta, 0 or more", numbers.seconds, numbers.read_seconds)
SPAN: Final = Kind("seconds or a timedelta, more than 0", numbers.positive_seconds, numbers.read_seconds)
LIMIT: Final = Kind(
    "seconds or a timedelta, more than 0, or None for no limit", numbers.positive_seconds, numbers.read_seconds, none
)
OBJECT_NAME: Final = Kind("the object's name, or None", names.object_name, nothing=none)

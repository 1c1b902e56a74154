"""A script with objects of all kinds that pickle by their name in ``__main__``. They are checked in its calls and here.

``by_value.py call FILE``: checks what calls bring back, and leaves a result in the file, as its Pod would send it.
``by_value.py read FILE``: another process, which reads that result.
"""

# ruff: noqa: D103, D106, PIE796, UP013 - a script as people write them

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import operator
import sys
import typing
from pathlib import Path
from typing import Any

import kubefunc
from kubefunc import remote


class Color(enum.Enum):
    RED = 1
    CRIMSON = 1
    BLUE = 2

    @classmethod
    def first(cls) -> Color:
        return cls.CRIMSON


class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    MARS = (0.6, 3.3)

    def __init__(self, mass: float, radius: float) -> None:
        self.mass = mass
        self.radius = radius


class Access(enum.Flag):
    READ = 4
    WRITE = 2
    BOTH = 6


class Labelled(enum.Enum):
    A = (1, "first")
    B = (2, "second")

    def __new__(cls, value: int, label: str) -> Any:
        made = object.__new__(cls)
        made._value_ = value
        made.label = label
        return made


Size = enum.Enum("Size", "SMALL LARGE")


class Outer:
    class Inner(enum.Enum):
        A = 1
        B = 1

    @dataclasses.dataclass(slots=True)
    class Slotted:
        x: int = 3


class Private:
    __slots__ = ("__secret", "shown")

    def __init__(self) -> None:
        self.shown = 1
        self.__secret = 2

    def get(self) -> int:
        return self.__secret


class Abstract(abc.ABC):
    __slots__ = ("below",)

    @abc.abstractmethod
    def total(self) -> int: ...


class Concrete(Abstract):
    __slots__ = ("above",)

    def __init__(self) -> None:
        self.below, self.above = 1, 2

    def total(self) -> int:
        return self.below + self.above


class Row(typing.TypedDict, total=False):
    name: str
    size: int


Functional = typing.TypedDict("Functional", {"a": int})


class Pair(typing.NamedTuple):
    left: int
    right: int = 2


UserId = typing.NewType("UserId", int)
P = typing.ParamSpec("P")
T = typing.TypeVar("T")


class Box(typing.Generic[T]):
    def __init__(self, held: T) -> None:
        self.held = held

    @functools.cached_property
    def twice(self) -> object:
        return [self.held, self.held]


@functools.lru_cache(maxsize=64)
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


class Cached:
    @functools.lru_cache  # noqa: B019 - it is what people write
    def method(self) -> int:
        return 8


@functools.singledispatch
def kind(value: object) -> str:
    return "object"


@kind.register
def _(value: int) -> str:
    return "int"


class Kinds:
    @functools.singledispatchmethod
    def of(self, value: object) -> str:
        return "object"

    @of.register
    def _(self, value: int) -> str:
        return "int"


if sys.version_info >= (3, 12):
    exec("type Alias = int | str")


def takes(user: UserId, call: typing.Callable[P, T] | None = None, row: Row | None = None) -> UserId:
    return UserId(user)


def there() -> list[Any]:
    """Uses all of them in the call's process, and returns some."""
    assert Color.first() is Color.RED is Color.CRIMSON
    assert list(Color.__members__) == ["RED", "CRIMSON", "BLUE"]
    assert Planet.MARS.mass == 0.6
    assert Access.BOTH is Access.READ | Access.WRITE
    assert (Labelled.A.label, Labelled(2)) == ("first", Labelled.B)
    assert Outer.Inner.B is Outer.Inner.A
    assert Outer.Inner.__qualname__ == "Outer.Inner"
    assert not hasattr(Private(), "__dict__")
    assert Private().get() == 2
    assert Concrete().total() == 3
    assert Row.__optional_keys__ == {"name", "size"}
    assert Box(3).twice == [3, 3]
    assert fibonacci(50) == 12586269025
    assert fibonacci.cache_parameters() == {"maxsize": 64, "typed": False}
    assert Cached().method() == 8
    assert [kind(1), kind(""), Kinds().of(1), Kinds().of("")] == ["int", "object", "int", "object"]
    assert takes(UserId(3)) == 3
    values = [Color.CRIMSON, Planet.MARS, Access.BOTH, Labelled.B, Size.LARGE, Outer.Inner.A, Outer.Slotted(4)]
    values += [Private(), Concrete(), Pair(1), Box(2), UserId, P, T, Row, fibonacci, kind]
    return [*values, Alias] if sys.version_info >= (3, 12) else values  # type: ignore[name-defined] # noqa: F821


def check(values: list[Any]) -> None:
    """All of them are this program's own objects, or of its own classes."""
    names = vars(sys.modules["__main__"])
    own = [value for name, value in names.items() if not name.startswith("__")]
    own += [member for value in own if isinstance(value, type(Color)) for member in value] + list(Outer.Inner)
    for value in values:
        home = operator.attrgetter(type(value).__qualname__) if type(value).__module__ == "__main__" else None
        is_own = any(value is each for each in own)
        assert is_own or (home is not None and home(sys.modules["__main__"]) is type(value)), value
    slotted, private, concrete = values[6:9]
    assert (slotted.x, private.get(), concrete.total()) == (4, 2, 3)


def pickled(values: list[Any]) -> bytes:
    """Values as the runner sends them."""
    from kubefunc.runner.execution.pickling import dumps

    return dumps(values)


def main(what: str, file: Path) -> None:
    """One of the two programs above."""
    if what == "read":
        from kubefunc.reading.unpickling import loads

        check(loads(file.read_bytes()))
        return
    kubefunc.configure(verbose=False)
    check(remote(there).remote().result(60))
    check(remote(lambda _: there()).map([1]).result(60)[0])
    with kubefunc.Executor(1) as executor:
        check(executor.submit(there).result(60))
    check(remote(lambda values: values).remote(there()).result(60))
    file.write_bytes(remote(lambda: pickled(there())).remote().result(60))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

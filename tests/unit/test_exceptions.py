"""Exceptions as data: what travels of those that pickle cannot carry."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
import threading
from typing import Any

import cloudpickle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubefunc.runner.execution.exceptions import add_note, encode, set_field, traceback_text

needs_groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="ExceptionGroup came with Python 3.11")


class KeywordOnly(Exception):
    """Its ``__init__`` cannot be repeated by pickle."""

    def __init__(self, *, where: str) -> None:
        super().__init__(f"at {where}")
        self.where = where


class Changed(Exception):
    """Says something else each time its ``__init__`` runs."""

    def __init__(self, text: str) -> None:
        super().__init__(f"changed {text}")


class NoCopySaysTheSame(Exception):
    """Refuses to be pickled by itself, and its text is another one in each process."""

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("I stay here")

    def __str__(self) -> str:
        return f"at {id(self):#x}"


def stays() -> Exception:
    """An exception whose class cannot be pickled in any form."""

    class Stays(Exception):
        lock = threading.Lock()

    return Stays("here")


class WithSlots(Exception):
    """Keeps a part outside of its ``__dict__``."""

    __slots__ = ("code", "unset")


class OfThePath(OSError):
    """Wants another argument than OSError does."""

    def __init__(self, path: str, *, hint: str) -> None:
        super().__init__(2, "not there", path)
        self.hint = hint


class NewWantsMore(Exception):
    """Its ``__new__`` cannot be repeated either."""

    def __new__(cls, *, where: str) -> Any:
        return super().__new__(cls, where)

    def __init__(self, *, where: str) -> None:
        self.where = where


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Nobody may set anything on it."""

    key: str


@dataclasses.dataclass(frozen=True)
class FrozenWithMore(Exception):
    """The same, and its argument is not in ``args``."""

    key: str
    more: object = None


class LooksWrong(Exception):
    """Raises whatever it is asked, also with what ends a process."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equality")

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(f"no {name}")

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(f"no {name}")

    def __reduce__(self) -> str:
        raise KeyboardInterrupt


class NoDict(Exception):
    """Hides its ``__dict__`` and its notes."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no dict")

    @property
    def __notes__(self) -> Any:
        raise RuntimeError("no notes")


class Plain:
    """Shows its address."""


def travelled(error: BaseException) -> Any:
    """The exception as the other side unpickles it, or None where only its text travels."""
    nodes, body = encode(error, cloudpickle.dumps)
    if nodes[0]["at"] is None:
        return None
    start, size = nodes[0]["at"]
    return pickle.loads(body[start : start + size])


def text_of_raised(error: BaseException) -> str:
    """The traceback's text, once it was raised."""
    with pytest.raises(type(error)) as caught:
        raise error
    return traceback_text(caught.value)


@needs_groups
def test_a_group_with_members_that_need_help() -> None:
    """Each member arrives as what it was: class, attributes, text."""
    group = ExceptionGroup("both", [KeywordOnly(where="home"), Changed("x"), ValueError(1)])  # noqa: F821
    again = travelled(group)
    assert type(again) is ExceptionGroup  # noqa: F821
    first, second, third = again.exceptions
    assert (type(first), first.where, str(first)) == (KeywordOnly, "home", "at home")
    assert (type(second), str(second)) == (Changed, "changed x")
    assert (type(third), third.args) == (ValueError, (1,))


@needs_groups
def test_a_group_in_a_group() -> None:
    """Also the inner one's members."""
    inner = ExceptionGroup("inner", [KeywordOnly(where="deep")])  # noqa: F821
    again = travelled(ExceptionGroup("outer", [inner, OSError(28, "full")]))  # noqa: F821
    assert again.exceptions[0].exceptions[0].where == "deep"
    assert again.exceptions[1].errno == 28


@needs_groups
def test_a_group_with_a_member_that_cannot_travel() -> None:
    """The others do; of this one the text."""
    again = travelled(ExceptionGroup("both", [stays(), ValueError("goes")]))  # noqa: F821
    assert "Stays: here (it cannot be pickled)" in str(again.exceptions[0])
    assert type(again.exceptions[1]) is ValueError


def test_an_exception_that_cannot_travel_leaves_its_text() -> None:
    """Name and message, in place of the exception."""
    nodes, body = encode(stays(), cloudpickle.dumps)
    assert (nodes[0]["at"], body) == (None, b"")
    assert nodes[0]["type"].endswith("Stays")
    assert nodes[0]["message"] == "here"


def test_a_text_that_no_copy_has_is_no_reason_to_leave_the_exception_behind() -> None:
    """Class and arguments make an exception; its text may hold an address, or the order of a set."""
    assert type(travelled(NoCopySaysTheSame(1))) is NoCopySaysTheSame
    assert type(travelled(KeyError(Plain())).args[0]) is Plain
    error = ValueError(1)
    error.__cause__ = LookupError(Plain())
    nodes, _ = encode(error, cloudpickle.dumps)
    assert all(node["at"] for node in nodes)


@needs_groups
def test_a_member_of_a_group_keeps_its_class_whatever_its_text() -> None:
    """As an exception outside of a group does."""
    again = travelled(ExceptionGroup("g", [KeyError(Plain()), NoCopySaysTheSame()]))  # noqa: F821
    assert [type(each) for each in again.exceptions] == [KeyError, NoCopySaysTheSame]


ARGUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.frozensets(st.text(max_size=5), max_size=5)
        | st.sets(st.text(min_size=1, max_size=5), max_size=5)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.builds(Plain)
    ),
    max_leaves=6,
)
KINDS = (Exception, KeyError, ValueError, LookupError, RuntimeError, StopIteration, NoCopySaysTheSame, WithSlots)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.lists(ARGUMENTS, max_size=3))
def test_an_exception_with_any_arguments_keeps_its_class(kind: type[Exception], args: list[object]) -> None:
    """And the number and classes of its arguments."""
    again = travelled(kind(*args))
    assert type(again) is kind
    assert [type(each) for each in again.args] == [type(each) for each in args]


@pytest.mark.parametrize("seed", ["0", "1", "2", "3"])
def test_the_order_of_sets_does_not_matter(seed: str) -> None:
    """Strings have other hashes in each process, and a set of them another order: no class is lost by that."""
    program = "from tests.unit import test_exceptions as t; t.test_an_exception_with_any_arguments_keeps_its_class()"
    environ = {**os.environ, "PYTHONHASHSEED": seed}
    subprocess.run([sys.executable, "-c", program], env=environ, check=True, timeout=120)


def test_a_copy_that_says_something_else_is_not_taken_where_a_better_one_is_to_be_had() -> None:
    """An ``__init__`` that changes its argument would change it twice."""
    again = travelled(Changed("x"))
    assert (type(again), again.args) == (Changed, ("changed x",))


def test_what_an_exception_keeps_outside_of_its_dict_travels() -> None:
    """Values of ``__slots__``, and what an OSError reads from its arguments."""
    error = WithSlots("s")
    error.code = 5
    again = travelled(error)
    assert (again.code, hasattr(again, "unset")) == (5, False)
    again = travelled(OfThePath("/nowhere", hint="look elsewhere"))
    assert (again.errno, again.filename, again.hint) == (2, "/nowhere", "look elsewhere")
    again = travelled(ModuleNotFoundError("no such", name="m", path="p"))
    assert (again.name, again.path) == ("m", "p")


def test_a_new_that_cannot_be_repeated() -> None:
    """The exception is made by its built-in base then."""
    again = travelled(NewWantsMore(where="home"))
    assert (type(again), again.args, again.where) == (NewWantsMore, ("home",), "home")


@pytest.mark.parametrize("error", [Frozen("k"), FrozenWithMore(key="k", more=threading.Lock()), FrozenWithMore("k")])
def test_a_frozen_dataclass(error: Any) -> None:
    """It lets nobody set anything, not even its traceback."""
    again = travelled(error)
    assert (type(again), again.key) == (type(error), "k")
    assert "in text_of_raised" in text_of_raised(error)


@pytest.mark.parametrize("kind", [LooksWrong, NoDict])
def test_an_exception_that_raises_when_it_is_looked_at(kind: type[Exception]) -> None:
    """It travels all the same, with its traceback, its notes and its cause."""
    error = kind("x")
    set_field(error, "__cause__", ValueError("below"))
    add_note(error, "a note")
    text = text_of_raised(error)
    assert "ValueError: below\n\nThe above exception was the direct cause" in text
    assert f"in text_of_raised\n    raise error\n{__name__}.{kind.__name__}: " in text
    assert text.endswith("a note")
    nodes, _ = encode(error, cloudpickle.dumps)
    assert nodes[0]["notes"] == ["a note"]
    assert type(travelled(error)) is kind


def test_notes_that_are_no_text() -> None:
    """Of one that cannot be shown it is said that it cannot."""
    error = ValueError("x")
    set_field(error, "__dict__", {"__notes__": [LooksWrong("n"), 3]})
    nodes, _ = encode(error, cloudpickle.dumps)
    assert nodes[0]["notes"] == ["<its __str__ raised>", "3"]

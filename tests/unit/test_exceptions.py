"""Exceptions as data: what travels of those that pickle cannot carry."""

from __future__ import annotations

import pickle
import sys
from typing import Any

import cloudpickle
import pytest

from kubefunc.runner.execution.exceptions import encode

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


class Stays(Exception):
    """Cannot be pickled, and no copy says the same."""

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("I stay here")

    def __str__(self) -> str:
        return f"at {id(self):#x}"


def travelled(error: BaseException) -> Any:
    """The exception as the other side unpickles it, or None where only its text travels."""
    nodes, body = encode(error, cloudpickle.dumps)
    if nodes[0]["at"] is None:
        return None
    start, size = nodes[0]["at"]
    return pickle.loads(body[start : start + size])


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
    stays = Stays()
    again = travelled(ExceptionGroup("both", [stays, ValueError("goes")]))  # noqa: F821
    assert f"Stays: at {id(stays):#x}" in str(again.exceptions[0])
    assert type(again.exceptions[1]) is ValueError


def test_an_exception_that_cannot_travel_leaves_its_text() -> None:
    """Name and message, in place of the exception."""
    nodes, body = encode(Stays(), cloudpickle.dumps)
    assert (nodes[0]["at"], body) == (None, b"")
    assert nodes[0]["type"].endswith("Stays")
    assert nodes[0]["message"].startswith("at 0x")

"""What a map accepts, and how it says what it does not accept."""

from __future__ import annotations

from typing import Any

import pytest

from kubefunc.errors import ConfigurationError
from kubefunc.packing.inputs import map_items, parse_how, starmap_items


def test_inputs_end_with_the_shortest() -> None:
    """As with the builtin map."""
    assert list(map_items("f.map()", ([1, 2, 3], "ab"))) == [(1, "a"), (2, "b")]


def test_a_generator_is_consumed_once() -> None:
    """Nothing is taken from it before the items are, and nothing twice."""
    numbers = iter(range(5))
    items = map_items("f.map()", (numbers,))
    assert list(items) == [(0,), (1,), (2,), (3,), (4,)]
    assert next(numbers, None) is None


def test_an_error_of_a_generator_is_its_own() -> None:
    """What the caller's generator raises comes out as it is."""

    def broken() -> Any:
        yield 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(map_items("f.map()", (broken(),)))


@pytest.mark.parametrize(
    ("iterables", "said"),
    [
        ((), r"f\.map\(\) needs at least one iterable"),
        (([1], 5), r"f\.map\(\): argument 2 is 5, which cannot be iterated over"),
        ((None,), r"argument 1 is None"),
    ],
)
def test_what_is_no_iterable_is_named(iterables: tuple[object, ...], said: str) -> None:
    """The message has the argument's number and value."""
    with pytest.raises(ConfigurationError, match=said):
        map_items("f.map()", iterables)


def test_starmap_takes_tuples_of_arguments() -> None:
    """Each item is the arguments of one call."""
    assert list(starmap_items("f.starmap()", ((n, str(n)) for n in range(2)))) == [(0, "0"), (1, "1")]
    with pytest.raises(ConfigurationError, match=r"items\[1\] is 7, not a tuple of arguments"):
        list(starmap_items("f.starmap()", [(1, 2), 7]))
    with pytest.raises(ConfigurationError, match="argument 1 is 7"):
        starmap_items("f.starmap()", 7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chunksize": 0}, r"f\.map\(\): chunksize=0 is not accepted\. Accepted: an int of 1 or more, or None"),
        ({"chunksize": 2.0}, r"chunksize=2\.0"),
        ({"max_parallelism": -1}, r"max_parallelism=-1"),
        ({"max_parallelism": True}, r"max_parallelism=True"),
        ({"kwargs": [1]}, r"kwargs=\[1\] is not accepted. Accepted: a dict"),
        ({"kwargs": {1: 2}}, r"kwargs=\{1: 2\}"),
        ({"return_exceptions": 1}, r"return_exceptions=1"),
        ({"fail_fast": "yes"}, r"f\.map\(\): fail_fast='yes' is not accepted\. Accepted: True or False"),
    ],
)
def test_a_wrong_keyword_is_refused_at_once(changes: dict[str, Any], said: str) -> None:
    """The message has name, value and what is accepted."""
    given = {"kwargs": None, "chunksize": None, "max_parallelism": None, "return_exceptions": False, "fail_fast": False}
    with pytest.raises(ConfigurationError, match=said):
        parse_how("f.map()", **given | changes)

"""What a map is given, checked before anything is sent. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

from kubefunc.errors import ConfigurationError
from kubefunc.options.parsers.numbers import as_int


@dataclass(frozen=True)
class HowToMap:
    """The keywords of ``map`` and ``starmap``.

    Attributes:
        kwargs: keyword arguments that all items share.
        chunksize: items for one Pod one after another; None: kubefunc decides.
        max_parallelism: Pods, or processes of this machine, at once; None: kubefunc decides.
        return_exceptions: a failed item gives its exception as its result.
        fail_fast: the first failure cancels all other items.
    """

    kwargs: dict[str, object]
    chunksize: int | None
    max_parallelism: int | None
    return_exceptions: bool
    fail_fast: bool = False


def parse_how(
    where: str,
    kwargs: object,
    *,
    chunksize: object,
    max_parallelism: object,
    return_exceptions: object,
    fail_fast: object,
) -> HowToMap:
    """Check the keywords where they are written.

    >>> parse_how("f.map()", None, chunksize=0, max_parallelism=None, return_exceptions=False, fail_fast=False)
    Traceback (most recent call last):
    ...
    kubefunc.errors.ConfigurationError: f.map(): chunksize=0 is not accepted. Accepted: an int of 1 or more, or None.

    Args:
        where: what the person wrote, for messages.

    Raises:
        ConfigurationError: a value is not accepted.
    """
    if kwargs is not None and not (isinstance(kwargs, dict) and all(isinstance(name, str) for name in kwargs)):
        raise _refused(where, "kwargs", kwargs, "a dict of argument names to values, or None")
    return HowToMap(
        kwargs=dict(kwargs or {}),
        chunksize=_count(where, "chunksize", chunksize),
        max_parallelism=_count(where, "max_parallelism", max_parallelism),
        return_exceptions=_switch(where, "return_exceptions", return_exceptions),
        fail_fast=_switch(where, "fail_fast", fail_fast),
    )


def _switch(where: str, name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _refused(where, name, value, "True or False")
    return value


def _count(where: str, name: str, value: object) -> int | None:
    if value is None:
        return None
    count = as_int(value)
    if count is None or count < 1:
        raise _refused(where, name, value, "an int of 1 or more, or None")
    return count


def _refused(where: str, name: str, value: object, accepted: str) -> ConfigurationError:
    shown = repr(value)
    shown = shown if len(shown) <= 100 else f"{shown[:97]}..."
    return ConfigurationError(f"{where}: {name}={shown} is not accepted. Accepted: {accepted}.")


def map_items(where: str, iterables: tuple[object, ...]) -> Iterable[tuple[object, ...]]:
    """The arguments of each item, as the builtin ``map`` takes them: to the end of the shortest.

    >>> list(map_items("f.map()", ([1, 2, 3], "ab")))
    [(1, 'a'), (2, 'b')]

    Raises:
        ConfigurationError: there is no iterable, or one is none.
    """
    if not iterables:
        raise ConfigurationError(f"{where} needs at least one iterable, with a value for each item.")
    return zip(
        *[_iterator(f"{where}: argument {number}", each) for number, each in enumerate(iterables, 1)], strict=False
    )


def starmap_items(where: str, iterable: object) -> Iterator[tuple[object, ...]]:
    """The arguments of each item, where each item is a tuple of them.

    >>> list(starmap_items("f.starmap()", [(1, 2), [3, 4]]))
    [(1, 2), (3, 4)]

    Raises:
        ConfigurationError: it, or one of its items, cannot be iterated over.
    """
    return _tuples(where, _iterator(f"{where}: argument 1", iterable))


def _tuples(where: str, iterator: Iterator[object]) -> Iterator[tuple[object, ...]]:
    for index, item in enumerate(iterator):
        if not isinstance(item, Iterable):
            raise ConfigurationError(
                f"{where}: items[{index}] is {item!r}, not a tuple of arguments. For one argument each, use map()."
            )
        yield tuple(item)


def _iterator(what: str, candidate: object) -> Iterator[object]:
    try:
        return iter(cast("Iterable[object]", candidate))
    except TypeError:
        raise ConfigurationError(
            f"{what} is {candidate!r}, which cannot be iterated over. Pass a list, a range or another iterable; "
            "what all items share goes into kwargs={...}."
        ) from None

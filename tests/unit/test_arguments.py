"""Arguments that a function does not take are refused before anything is sent."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest

from kubefunc import Executor, RemoteFunction, remote
from kubefunc.packing.arguments import refuse_misfits, without_misfits


def plain(x: int, y: int = 0, /, *, scale: float = 1.0) -> float:
    """Positional, optional and keyword-only."""
    return (x + y) * scale


async def waits(x: int) -> int:
    """A coroutine function."""
    return x


def takes_all(*args: int, **kwargs: int) -> None:
    """Whatever comes."""


def injecting(function: Callable[..., int]) -> Callable[..., int]:
    """A decorator that brings the first argument: what it gives takes one less than the function."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> int:
        return function("session", *args, **kwargs)

    return wrapper


@injecting
def injected(session: str, x: int) -> int:
    """Called with one argument."""
    return x


class Model:
    def predict(self, row: int) -> int:
        return row

    @classmethod
    def load(cls, path: str) -> str:
        return path

    @staticmethod
    def check(path: str) -> str:
        return path

    def __call__(self, x: int) -> int:
        return x


class Claiming:
    """Its signature is not what it takes, as some libraries have it."""

    __signature__ = "(nothing)"

    def __call__(self, *args: object) -> None: ...


def claiming(*args: object) -> None:
    """Its signature is set below."""


claiming.__signature__ = "nothing"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (plain, (1,), {}),
        (plain, (1, 2), {"scale": 2.0}),
        (waits, (1,), {}),
        (takes_all, (1, 2, 3), {"a": 1}),
        (injected, (1,), {}),
        (Model().predict, (1,), {}),
        (Model.predict, (Model(), 1), {}),
        (Model.load, ("x",), {}),
        (Model.check, ("x",), {}),
        (Model(), (1,), {}),
        (functools.partial(plain, 1), (), {}),
        (functools.partial(plain, 1), (2,), {"scale": 1.0}),
        (functools.partial(plain, scale=2.0), (2,), {"scale": 1.0}),
        (lambda x: x, (1,), {}),
        (print, ("x", "y"), {"end": ""}),
        (math.hypot, (1, 2, 3), {}),
        (max, (1, 2, 3), {}),
        (dict.fromkeys, ([1], 2), {}),
        (functools.lru_cache(plain), (), {}),
        (Claiming(), (1, 2), {}),
        (claiming, (1, 2), {}),
    ],
)
def test_what_python_takes_is_let_through(
    function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Whatever a decorator adds, and where the signature is not known for sure, the function decides itself."""
    refuse_misfits("f.remote()", function, args, kwargs)
    assert list(without_misfits("f.map()", function, [args], kwargs)) == [args]


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "why"),
    [
        (plain, (), {}, "missing a required argument: 'x'"),
        (plain, (1, 2, 3), {}, "too many positional arguments"),
        (plain, (1,), {"factor": 2}, "unexpected keyword argument 'factor'"),
        (plain, (1,), {"x": 2}, "'x'"),
        (waits, (), {}, "missing a required argument: 'x'"),
        (Model().predict, (1, 2), {}, "too many positional arguments"),
        (Model.load, (), {}, "missing a required argument: 'path'"),
        (Model(), (), {}, "missing a required argument: 'x'"),
        (functools.partial(plain, 1, 2), (3,), {}, "too many positional arguments"),
        (math.sqrt, (1, 2), {}, "too many positional arguments"),
    ],
)
def test_what_python_would_refuse_is_refused(
    function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object], why: str
) -> None:
    """A TypeError that says where, why, and what the function takes."""
    with pytest.raises(TypeError) as caught:
        refuse_misfits("f.remote()", function, args, kwargs)
    assert str(caught.value).startswith("f.remote(): ")
    assert why in str(caught.value)
    assert " It takes (" in str(caught.value)
    with pytest.raises(TypeError):
        function(*args, **kwargs)  # pyright: ignore[reportUnusedCoroutine]


def test_an_item_that_does_not_fit_is_named() -> None:
    """Items are looked at while they are read; their values play no part."""
    items = without_misfits("f.starmap()", plain, [(1,), (1, 2), (3,), (1, 2, 3)], {"scale": 2.0})
    with pytest.raises(TypeError, match=r"f\.starmap\(\): items\[3\]: too many positional arguments"):
        list(items)


@pytest.mark.usefixtures("nothing_is_sent")
def test_calls_maps_and_executors_say_it_at_once() -> None:
    """In the line that is wrong, not in ``result()``, and before a backend is even chosen."""
    function: RemoteFunction[..., Any] = remote(plain)
    with pytest.raises(TypeError, match=r"plain\.remote\(\): missing a required argument: 'x'"):
        function.remote()
    with pytest.raises(TypeError, match=r"plain\.map\(\): items\[0\]: too many positional arguments"):
        function.map([1], [2], [3])
    with pytest.raises(TypeError, match=r"plain\.map\(\): items\[0\]: got an unexpected keyword argument 'factor'"):
        function.map([1], kwargs={"factor": 3})
    with pytest.raises(TypeError, match=r"plain\.starmap\(\): items\[1\]: missing a required argument: 'x'"):
        function.starmap([(1,), ()])
    executor = Executor()
    with pytest.raises(TypeError, match=r"Executor\.submit\(\): missing a required argument: 'x'"):
        executor.submit(function)
    with pytest.raises(TypeError, match=r"Executor\.map\(\): items\[0\]: too many positional arguments"):
        executor.map(plain, [1], [2], [3])
    bound: RemoteFunction[..., Any] = remote(Model().predict)
    with pytest.raises(TypeError, match=r"predict\.remote\(\): too many"):
        bound.remote(1, 2)


@pytest.fixture
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is started, and no cluster asked."""
    monkeypatch.setenv("KUBEFUNC_BACKEND", "local")
    monkeypatch.setattr("kubefunc.backends.local.backend.LocalBackend.submit", _refuse)
    monkeypatch.setattr("kubefunc.backends.local.backend.LocalBackend.submit", _refuse)


def _refuse(*args: object) -> None:
    pytest.fail("something was sent")

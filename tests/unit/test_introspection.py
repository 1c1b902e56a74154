"""What notebooks, debuggers and test runners see of decorated functions."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import kubefunc
from kubefunc import Executor, RemoteFunction, errors, remote
from kubefunc.options import UNSET, OptionChanges


@remote
def train(seed: int, *, rate: float = 0.1) -> float:
    """Train a model."""
    return seed * rate


@remote(retries=1)
async def waits(seed: int) -> int:
    """Train it later."""
    return seed


class Model:
    @remote
    def fit(self, rows: list[float]) -> float:
        """Fit."""
        return sum(rows)

    @remote
    @classmethod
    async def load(cls, path: str) -> str:
        """Load."""
        return path


def names(function: Callable[..., object]) -> list[str]:
    """The parameters that a notebook completes."""
    return list(inspect.signature(function).parameters)


def test_remote_shows_the_functions_own_parameters() -> None:
    """Beside the function itself: with defaults and types; the docstrings say what each of them does."""
    assert str(inspect.signature(train)) == "(seed: 'int', *, rate: 'float' = 0.1) -> 'float'"
    assert inspect.signature(train.remote) == inspect.signature(train.local) == inspect.signature(train)
    assert names(Model().fit) == names(Model().fit.remote) == ["rows"]
    assert names(Model.load.remote) == ["path"]
    assert (train.__doc__, Model.fit.__doc__) == ("Train a model.", "Fit.")
    assert str(inspect.getdoc(train.remote)).startswith("Start a call on the cluster")
    assert (train.remote.__name__, train.remote.__qualname__) == ("remote", "RemoteFunction.remote")


@pytest.mark.parametrize(
    ("function", "own"),
    [
        (remote, ["function"]),
        (train.options, []),
        (waits.options, []),
        (kubefunc.configure, ["backend"]),
        (Executor, ["max_workers", "initializer", "initargs"]),
    ],
)
def test_options_are_completed_by_name(function: Callable[..., object], own: list[str]) -> None:
    """All of them, with the types that they accept; left out they are inherited."""
    found = inspect.signature(function).parameters
    assert list(found) == [*own, *OptionChanges.__annotations__]
    cpu = found["cpu"]
    assert (cpu.kind, cpu.default, cpu.annotation) == (cpu.KEYWORD_ONLY, UNSET, "float | str | Unset | None")


def test_a_bound_remote_is_an_ordinary_callable() -> None:
    """It can be handed on, wrapped, and pickled."""
    started = functools.partial(train.remote, 1)
    assert names(started) == ["rate"]
    assert pickle.loads(pickle.dumps(train.remote)).__self__ is train
    assert RemoteFunction.remote is RemoteFunction.__dict__["remote"].__get__(None)


def test_an_async_function_called_here_gives_its_coroutine() -> None:
    """Decorated, bound, of a class, with other options: it is awaited as if it were not decorated."""

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(waits(1), waits.local(2), waits.options(cpu=2)(3), Model.load("x"))

    assert asyncio.run(all_of_them()) == [1, 2, 3, "x"]
    assert repr(waits).startswith("<AsyncRemoteFunction ")
    assert pickle.loads(pickle.dumps(waits)) is waits


def shown(error: BaseException) -> list[str]:
    """The functions in a traceback as pytest and IPython show it: without the frames that ask to be left out."""
    frames = traceback.walk_tb(error.__traceback__)
    return [frame.f_code.co_name for frame, _ in frames if not frame.f_locals.get("__tracebackhide__")]


def test_tracebacks_end_in_the_users_line() -> None:
    """The frames of ours in between ask to be hidden where they say nothing."""

    @remote
    def fails() -> None:
        raise LookupError

    for wrong in (
        fails,
        fails.local,
        lambda: train.remote(),  # type: ignore[call-arg]
        lambda: train.map([1], [2]),  # type: ignore[call-overload]
        lambda: train.options(cpus=2),  # type: ignore[call-arg]
        lambda: train.options(memory="4GB"),
        lambda: remote(cpus=2),  # type: ignore[call-overload]
        lambda: remote(Model),
        lambda: Executor(memory="4GB"),
        lambda: Executor(1).submit(train),  # type: ignore[call-arg]
        lambda: kubefunc.configure(backend="docker"),  # type: ignore[arg-type]
    ):
        with pytest.raises((LookupError, TypeError, errors.ConfigurationError)) as caught:
            wrong()
        assert shown(caught.value) in (
            ["test_tracebacks_end_in_the_users_line", "<lambda>"],
            ["test_tracebacks_end_in_the_users_line", "fails"],
        )


def test_a_property_is_refused() -> None:
    """What cannot work says so where it is decorated."""
    with pytest.raises(errors.ConfigurationError, match="@remote on a property"):
        remote(property(lambda self: 1))  # type: ignore[call-overload]

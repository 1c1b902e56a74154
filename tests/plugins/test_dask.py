"""Examples of Dask's documentation, computed by our scheduler: the results are those of Dask's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array
import dask.bag
import dask.dataframe
import numpy as np
import pandas as pd
import pytest

import kubefunc
import kubefunc.dask

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def executor() -> Iterator[kubefunc.Executor]:
    """One for all tests here: its processes have imported everything once."""
    with kubefunc.Executor(2) as made:
        yield made


@pytest.fixture(params=["get", "executor"])
def scheduler(request: pytest.FixtureRequest, executor: kubefunc.Executor) -> Iterator[Any]:
    """Each of the two ways to give Dask something for ``scheduler=``."""
    if request.param == "executor":
        yield executor
        return
    with dask.config.set(pool=executor):
        yield kubefunc.dask.get


def inc(x: int) -> int:
    """Of Dask's page on delayed."""
    return x + 1


def add(x: int, y: int) -> int:
    """Of Dask's page on delayed."""
    return x + y


def an_array() -> Any:
    """Of the page on arrays."""
    x = dask.array.ones((400, 400), chunks=(100, 100))
    y = (x + x.T)[::2, 200:]
    return y.mean(axis=1)


def a_random_array() -> Any:
    """Blocks with their own streams of random numbers."""
    return dask.array.random.default_rng(7).normal(size=(1000,), chunks=(250,)).std()


def a_bag() -> Any:
    """Of the page on bags: words, and how often they occur."""
    lines = dask.bag.from_sequence(["to be or not", "not to be", "to do", "to be"], npartitions=3)
    return lines.map(str.split).flatten().frequencies(sort=True).topk(2, key=1)


def a_grouped_bag() -> Any:
    """All of a group must meet in one partition, whatever process they were in."""
    names = ["Alice", "Bob", "Charlie", "Dan", "Edith", "Frank", "Grace", "Bea"] * 4
    groups = dask.bag.from_sequence(names, npartitions=4).groupby(len, shuffle="tasks")
    return groups.map(lambda pair: (pair[0], len(pair[1])))


def delayed_calls() -> Any:
    """Of the page on delayed: a loop that becomes a graph."""
    output = []
    for x in [1, 2, 3, 4, 5]:
        a, b = dask.delayed(inc)(x), dask.delayed(lambda value: 2 * value)(x)
        output.append(dask.delayed(add)(a, b))
    return dask.delayed(sum)(output)


def a_frame() -> Any:
    """Of the page on data frames: a mean by group."""
    table = pd.DataFrame({"name": ["a", "b", "c", "a"] * 25, "x": range(100), "y": np.linspace(0, 1, 100)})
    frame = dask.dataframe.from_pandas(table, npartitions=4)
    return frame[frame.y > 0.1].groupby("name").x.mean()


@pytest.mark.parametrize("make", [an_array, a_random_array, a_bag, a_grouped_bag, delayed_calls, a_frame])
def test_results_are_those_of_dasks_own_scheduler(make: Callable[[], Any], scheduler: Any) -> None:
    """Array, bag, delayed and data frame."""
    [ours] = dask.compute(make(), scheduler=scheduler)
    [theirs] = dask.compute(make(), scheduler="sync")
    if isinstance(theirs, pd.Series):
        pd.testing.assert_series_equal(ours.sort_index(), theirs.sort_index())
    elif isinstance(theirs, list):
        assert sorted(ours) == sorted(theirs)
    else:
        np.testing.assert_array_equal(ours, theirs)


def test_it_can_be_the_default_scheduler() -> None:
    """``dask.config.set(scheduler=...)`` is for all that is computed inside."""
    with dask.config.set(scheduler=kubefunc.dask.get, num_workers=1):
        process = dask.delayed(os.getpid)().compute()
    assert process != os.getpid()


def test_options_are_given_to_compute() -> None:
    """They are for the Executor of this one computation."""
    seen = dask.delayed(os.getenv)("COLOUR")
    assert seen.compute(scheduler=kubefunc.dask.get, num_workers=1, env={"COLOUR": "blue"}) == "blue"
    with pytest.raises(kubefunc.errors.ConfigurationError, match="memory='lots'"):
        seen.compute(scheduler=kubefunc.dask.get, memory="lots")


def test_a_tasks_exception_is_its_own_and_ends_the_rest(scheduler: Any, tmp_path: Path) -> None:
    """The class that the task raised; what did not begin is cancelled."""

    def fail() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        dask.delayed(list)([dask.delayed(fail)()]).compute(scheduler=scheduler)

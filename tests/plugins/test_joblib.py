"""joblib and scikit-learn on our back end, beyond what joblib's own tests show."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import kubefunc
import kubefunc.joblib

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def ours() -> Iterator[None]:
    """All of joblib goes to two processes of ours."""
    kubefunc.joblib.register()
    with joblib.parallel_config("kubefunc", n_jobs=2):
        yield


class Mine(Exception):
    """An exception of the caller's."""


def raise_mine(x: int) -> int:
    """Fails for one."""
    if x == 3:
        raise Mine(x)
    return x


def test_cross_val_score_gives_the_same_scores() -> None:
    """scikit-learn uses joblib by itself: nothing is changed."""
    data, y = make_classification(n_samples=300, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    here = cross_val_score(model, data, y, cv=5, n_jobs=1)
    np.testing.assert_array_equal(cross_val_score(model, data, y, cv=5, n_jobs=2), here)


def test_grid_search_finds_the_same_model() -> None:
    """Also with a loop inside the loop: a forest in each candidate, whose own n_jobs become threads there."""
    data, y = make_classification(n_samples=200, random_state=0)
    grid = {"max_depth": [2, 4], "n_estimators": [5, 10]}
    search = GridSearchCV(RandomForestClassifier(random_state=0, n_jobs=2), grid, cv=2)
    with joblib.parallel_config("sequential"):
        here = GridSearchCV(RandomForestClassifier(random_state=0), grid, cv=2).fit(data, y)
    search.fit(data, y)
    assert search.best_params_ == here.best_params_
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"])


def test_an_exception_is_the_tasks_own() -> None:
    """With the traceback of where it was raised."""
    with pytest.raises(Mine) as raised:
        joblib.Parallel()(joblib.delayed(raise_mine)(n) for n in range(10))
    assert isinstance(raised.value.__cause__, kubefunc.errors.RemoteTraceback)
    assert "raise Mine(x)" in str(raised.value.__cause__)


def test_what_cannot_be_pickled_is_an_error_and_no_hang() -> None:
    """Also where it comes late, in a task that joblib sends from a thread of its own."""

    def tasks() -> Iterator[Any]:
        for n in range(40):
            yield joblib.delayed(id)(n if n < 39 else (local for local in ()))

    with pytest.raises(kubefunc.errors.SerializationError, match="generator"):
        joblib.Parallel(batch_size=1)(tasks())


def test_options_are_given_to_parallel_config() -> None:
    """And to Parallel itself, where they win. A slip is found where it is written."""
    with joblib.parallel_config("kubefunc", n_jobs=2, env={"COLOUR": "blue"}):
        assert joblib.Parallel()([joblib.delayed(os.getenv)("COLOUR")] * 2) == ["blue"] * 2
        assert joblib.Parallel(env={"COLOUR": "red"})([joblib.delayed(os.getenv)("COLOUR")] * 2) == ["red"] * 2
    with pytest.raises(kubefunc.errors.ConfigurationError, match="no option 'memmory'"):
        joblib.parallel_config("kubefunc", memmory="1Gi")


def test_processes_stay_for_the_next_loop() -> None:
    """Within one ``parallel_config`` they import things once."""
    first, second = (set(joblib.Parallel()([joblib.delayed(os.getpid)()] * 20)) for _ in range(2))
    assert os.getpid() not in first
    assert len(first | second) <= 2


def test_processes_stay_from_one_parallel_to_the_next() -> None:
    """As joblib's own do, where the next one wants the same."""
    loops = [joblib.Parallel(n_jobs=2, backend="kubefunc")([joblib.delayed(os.getpid)()] * 20) for _ in range(2)]
    assert len({*loops[0], *loops[1]}) <= 2


def test_a_task_may_name_the_back_end_itself() -> None:
    """It need not register it first; its loop runs there, one task after another."""

    def loop(n: int) -> list[int]:
        return list(joblib.Parallel(n_jobs=2, backend="kubefunc")(joblib.delayed(abs)(-k) for k in range(n)))

    results = joblib.Parallel(n_jobs=2, backend="kubefunc")(joblib.delayed(loop)(n) for n in range(3))
    assert results == [[], [0], [0, 1]]


def test_processes_end_when_others_take_their_place() -> None:
    """With the next loop that wants something else; nothing waits for a collection."""
    gc.disable()
    try:
        [process] = set(joblib.Parallel(n_jobs=2, backend="kubefunc", batch_size=1)([joblib.delayed(os.getpid)()]))
        joblib.Parallel(n_jobs=3, backend="kubefunc", batch_size=1)([joblib.delayed(os.getpid)()])
        while Path("/proc", str(process)).exists():
            time.sleep(0.01)
    finally:
        gc.enable()


def test_large_arrays_are_mapped_and_not_copied(tmp_path: Path) -> None:
    """One file for all tasks, gone when the loop is over; small ones travel."""

    def kind(array: Any) -> str:
        return type(array).__name__

    large, small = np.ones(200_000), np.ones(10)
    tasks = [joblib.delayed(kind)(array) for array in (large, small, large)]
    assert joblib.Parallel(temp_folder=tmp_path)(tasks) == ["memmap", "ndarray", "memmap"]
    assert not list(tmp_path.iterdir())
    assert joblib.Parallel(max_nbytes=None)(tasks) == ["ndarray"] * 3


def test_tasks_write_into_a_mapped_array(tmp_path: Path) -> None:
    """As joblib's documentation shows: the caller's own memmap is the same memory, also through any view of it."""

    def fill(row: Any, value: int) -> None:
        row[:] = value

    output = np.memmap(tmp_path / "output", dtype=np.int64, shape=(6, 8), mode="w+")
    views = [output[0], output[1, ::2], output[2, ::-1], output.T[:, 3], output[4:5, 1:3], output[5][6:]]
    expected = np.zeros((6, 8), np.int64)
    expected[0], expected[1, ::2], expected[2], expected[3], expected[4, 1:3], expected[5, 6:] = 1, 2, 3, 4, 5, 6
    joblib.Parallel()(joblib.delayed(fill)(view, value) for value, view in enumerate(views, 1))
    np.testing.assert_array_equal(output, expected)


def test_a_mapped_array_keeps_type_order_and_values(tmp_path: Path) -> None:
    """What arrives is what was sent, for views of all kinds."""
    source = np.memmap(tmp_path / "source", dtype="<f4", shape=(10, 20), mode="w+", order="F")
    source[:] = np.arange(200).reshape(10, 20)
    views = [source, source.T, source[3:7, ::-2], source[::3], source[2, 5:6], source[:0]]
    back = joblib.Parallel()(joblib.delayed(np.array)(view, order="K") for view in views)
    for sent, came in zip(views, back, strict=True):
        np.testing.assert_array_equal(sent, came)
        assert came.dtype == sent.dtype


def test_results_come_as_a_generator() -> None:
    """In order, or as they end."""
    ordered = joblib.Parallel(return_as="generator")(joblib.delayed(abs)(-n) for n in range(30))
    assert list(ordered) == list(range(30))
    unordered = joblib.Parallel(return_as="generator_unordered")(joblib.delayed(abs)(-n) for n in range(30))
    assert sorted(unordered) == list(range(30))


def test_a_loop_over_the_results_of_a_loop() -> None:
    """The inner one's results are waited for in the thread that feeds the outer one."""
    inner = joblib.Parallel(n_jobs=2, backend="kubefunc", return_as="generator", batch_size=1)
    outer = joblib.Parallel(n_jobs=2, backend="kubefunc", batch_size=1)
    doubled = inner(joblib.delayed(lambda x: 2 * x)(n) for n in range(12))
    assert outer(joblib.delayed(abs)(x) for x in doubled) == [2 * n for n in range(12)]


def test_inside_a_call_loops_run_one_after_another() -> None:
    """A call has no credentials to make others; a module that registers the back end is imported there too."""

    def loop() -> tuple[list[int], int]:
        import kubefunc.joblib

        kubefunc.joblib.register()
        with joblib.parallel_config("kubefunc", n_jobs=4):
            return joblib.Parallel()(joblib.delayed(abs)(-n) for n in range(3)), joblib.effective_n_jobs(4)

    assert kubefunc.remote(loop).remote().result(120) == ([0, 1, 2], 1)

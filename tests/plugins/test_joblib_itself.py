"""The tests by which joblib judges its back ends, run on ours."""

from __future__ import annotations

from multiprocessing.managers import BaseProxy
from typing import Any

import joblib.parallel
import pytest

from tests.plugins import joblib_tests

# Tests of theirs that say nothing of a back end, or that ours is not to pass; each with the reason.
CLASSES = "it compares with the classes of joblib's own back ends"
THREADS = "it runs joblib's own threads, whose ThreadPool can block for ever when it is ended (a race of CPython's)"
EXCLUDED = {
    "test_batching_auto_threading": THREADS,
    "test_parallel_return_order_with_return_as_generator_parameter": THREADS,
    "test_mutate_input_with_threads": THREADS,
    "test_backend_context_manager": CLASSES,
    "test_backend_hinting_and_constraints": CLASSES,
    "test_error_capture": "a task's KeyboardInterrupt is a RemoteExitError here, as that of any call",
    "test_initializer_reused": "each Parallel that has an initializer has processes of its own",
    "test_multiple_generator_call_separated_gc": "two loops disturb each other in their one executor; not here",
    "test_nested_parallel_warnings": "it wants a warning of multiprocessing inside a task, which works here",
    "test_parallel_pickling": "what cannot be pickled is a SerializationError here, with the path to it",
    "test_parallel_with_interactively_defined_bound_method_loky": "it looks for a process of loky's in the log",
}

_theirs = joblib_tests.load()
_tests = joblib_tests.tests_in(_theirs)

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.usefixtures("ours_by_default"),
]


@pytest.fixture
def ours_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test names no back end it gets ours."""
    monkeypatch.setattr(joblib.parallel, "DEFAULT_BACKEND", joblib_tests.OURS)
    monkeypatch.setattr(joblib.parallel, "DEFAULT_PROCESS_BACKEND", joblib_tests.OURS)


@pytest.fixture(autouse=True)
def proxies_with_their_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tasks share through a multiprocessing.Manager brings its key: multiprocessing's own children inherit it."""

    def reduce(proxy: Any) -> Any:
        make, (kind, token, serializer, more) = theirs(proxy)
        return make, (kind, token, serializer, {**more, "authkey": bytes(proxy._authkey)})

    theirs: Any = BaseProxy.__reduce__
    monkeypatch.setattr(BaseProxy, "__reduce__", reduce)


globals().update({name: test for name, test in _tests.items() if name not in EXCLUDED})


def test_each_exclusion_is_one_of_theirs() -> None:
    """The list above names only tests that there are."""
    assert EXCLUDED.keys() <= vars(_theirs).keys()

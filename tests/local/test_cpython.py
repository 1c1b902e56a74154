"""CPython's own tests of executors, run on ours: whoever knows the standard library's knows this one.

They come with Python itself as ``test.test_concurrent_futures`` (Debian has them in a package of their own,
libpython3-testsuite; other builds may leave them out): one module up to 3.11, from 3.12 on a package.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
import re
import unittest
from types import ModuleType
from typing import Any

import pytest

import kubefunc
from kubefunc import errors

HOME = "test.test_concurrent_futures"
PARTS = (
    *("util", "executor", "test_as_completed", "test_wait", "test_shutdown", "test_init", "test_process_pool"),
    "test_deadlock",
)

# What is not run on ours, by their classes, with the reason.
OF_THE_POOL = "it looks into the pool's own processes, queues and threads"
EXCLUDED = {
    "ProcessPoolExecutorTest": {
        "test_killed_child": "a process that dies breaks their whole pool; here its task fails, and the others go on",
        "test_traceback": "the remote traceback is a class of theirs; ours is kubefunc.errors.RemoteTraceback",
        "test_max_workers_too_large": "a limit of Windows for processes that one thread can wait for",
        "test_max_tasks_per_child": "there is no such option; .remote() has a fresh process for each call",
        "test_max_tasks_per_child_defaults_to_spawn_context": "there is no such option",
        "test_max_tasks_early_shutdown": "there is no such option",
        "test_ressources_gced_in_workers": "a multiprocessing.Manager is only for multiprocessing's own children",
        "test_saturation": OF_THE_POOL,
        "test_idle_process_reuse_one": OF_THE_POOL,
        "test_idle_process_reuse_multiple": OF_THE_POOL,
        "test_python_finalization_error": OF_THE_POOL,
        "test_force_shutdown_workers_invalid_op": OF_THE_POOL,
    },
    "ExecutorDeadlockTest": {
        "test_crash_big_data": "a process that dies breaks their whole pool; here its task fails, and the others go on",
        "test_shutdown_deadlock": "as above: theirs breaks",
        "test_shutdown_deadlock_pickle": OF_THE_POOL,
        "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": OF_THE_POOL,
    },
}
# Whole classes that are not run: FailingInitializerResourcesTest counts the semaphores of their pool, and ours has
# none; FutureTests are of the Future itself, which is theirs.


def _found() -> list[ModuleType]:
    try:
        home = importlib.import_module(HOME)
    except ImportError:
        return []
    return [importlib.import_module(f"{HOME}.{part}") for part in PARTS] if hasattr(home, "__path__") else [home]


THEIRS = _found()
pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not THEIRS, reason=f"this build of Python carries no {HOME}"),
]


class Executor(kubefunc.Executor):
    """Ours, with the one private attribute that their tests read."""

    @property
    def _broken(self) -> bool:
        return getattr(self._tasks, "_broken", None) is not None


def _on_ours(name: str) -> Any:
    """Their class of that name as a test case of ours, without what is excluded."""
    theirs = next((vars(module)[name] for module in THEIRS if name in vars(module)), None)
    mixin = next((module.ExecutorMixin for module in THEIRS if hasattr(module, "ExecutorMixin")), None)
    if theirs is None or mixin is None:
        return None
    bases = (theirs,) if issubclass(theirs, mixin) else (theirs, mixin)
    ours = {"executor_type": Executor, **dict.fromkeys(EXCLUDED.get(name, ()))}
    return type(f"Test{name}", (*bases, unittest.TestCase), ours)


TestSubmitAndMap = _on_ours("ProcessPoolExecutorTest")
TestAsCompleted = _on_ours("AsCompletedTests")
TestWait = _on_ours("WaitTests")
TestShutdown = _on_ours("ExecutorShutdownTest")
TestInitializer = _on_ours("InitializerMixin")
TestFailingInitializer = _on_ours("FailingInitializerMixin")
if TestFailingInitializer is not None:
    # They want a line in the log of concurrent.futures; here the Future's exception says it.
    TestFailingInitializer._assert_logged = lambda *_: contextlib.nullcontext()


TestDeadlock = _on_ours("ExecutorDeadlockTest")
if TestDeadlock is not None:
    # How a task ends that fails at any step. Theirs often breaks the whole pool; here the task has an error of its own.
    OURS: dict[str, Any] = {
        "BrokenProcessPool": (errors.KubefuncError, pickle.UnpicklingError),  # a task's own, raised while it loads
        "SystemExit": errors.RemoteExitError,
        "PicklingError": errors.SerializationError,
    }

    def _check_crash(self: Any, error: type[BaseException], function: Any, *args: object, **_: object) -> None:
        with pytest.raises(OURS.get(error.__name__, error)):
            self.executor.submit(function, *args).result(timeout=60)
        assert self.executor.submit(abs, -3).result(timeout=60) == 3

    TestDeadlock._check_crash = _check_crash


@pytest.fixture(autouse=True)
def programs_use_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that their tests run import our Executor; what a task prints there comes on standard error."""
    for module in THEIRS:
        if hasattr(module, "assert_python_ok"):
            monkeypatch.setattr(module, "assert_python_ok", _running_ours(module.assert_python_ok))


def _running_ours(theirs: Any) -> Any:
    def run(*arguments: str) -> tuple[int, bytes, bytes]:
        *options, program = arguments
        code, printed, errors = theirs(
            *options, program.replace("from concurrent.futures import", "from kubefunc import")
        )
        errors = re.sub(rb"kubefunc: .*calls run on this machine\n?", b"", errors)
        told = re.findall(rb"apple\r?\n?", errors)
        return code, printed + b"".join(told), errors if not told else errors.replace(told[0], b"")

    return run


def test_each_exclusion_is_one_of_theirs() -> None:
    """In one version of Python or another: the list names no test of theirs that has gone."""
    here = {name for module in THEIRS for name in vars(module)}
    assert EXCLUDED.keys() <= here

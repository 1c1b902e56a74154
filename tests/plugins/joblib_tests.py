"""joblib's own tests of its back ends, with ours where its own one for processes stands.

The tests come with joblib (``joblib/test/test_parallel.py``), in a module of their own: there the name of joblib's back
end "loky" is replaced by "kubefunc", and of each test the cases of other back ends are left out.
"""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import kubefunc.joblib

THEIRS = "joblib.test.test_parallel"
OURS = "kubefunc"
_REGISTER = "import kubefunc.joblib; kubefunc.joblib.register()\n"
_NAMES_OF_A_BACKEND = ("backend", "parent_backend", "outer_backend")


def load() -> ModuleType:
    """Their module, with the other name. It is a file: tasks import it, and so register the back end where they run."""
    spec = importlib.util.find_spec(THEIRS)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8").replace('"loky"', f'"{OURS}"')
    directory = Path(tempfile.mkdtemp(prefix="joblib-tests-"))
    atexit.register(shutil.rmtree, directory)
    name = "joblib_tests_of_kubefunc"
    directory.joinpath(f"{name}.py").write_text(f"{_REGISTER}{source}", encoding="utf-8")
    sys.path.append(str(directory))
    module = importlib.import_module(name)
    vars(module)["check_subprocess_call"] = _registering(vars(module)["check_subprocess_call"])
    return module


def _registering(run: Callable[..., Any]) -> Callable[..., Any]:
    """Programs of theirs, given as text or as a file, register the back end first."""

    def check_subprocess_call(command: list[str], **expected: Any) -> Any:
        *interpreter, program = command
        if "-c" in interpreter:
            return run([*interpreter, _REGISTER + program], **expected)
        file = Path(program)
        file.write_text(_REGISTER + file.read_text(encoding="utf-8"), encoding="utf-8")
        return run(command, **expected)

    return check_subprocess_call


def tests_in(module: ModuleType) -> dict[str, Any]:
    """Its tests by name, each with the cases that are ours."""
    found = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    return {name: test for name, test in found.items() if _leave_ours(test)}


def _leave_ours(test: Any) -> bool:
    """Whether any case of the test is ours, or it has none."""
    theirs = getattr(test, "pytestmark", ())
    marks = [_with_our_cases(mark) for mark in theirs if mark.name != "xfail"]  # ours is not to fail where theirs do
    test.pytestmark = marks
    return all(mark.name != "parametrize" or mark.args[1] for mark in marks)


def _with_our_cases(mark: pytest.Mark) -> pytest.Mark:
    if mark.name != "parametrize":
        return mark
    names, values, *rest = mark.args
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    at = next((names.index(name) for name in _NAMES_OF_A_BACKEND if name in names), None)
    if at is None:
        return mark
    ours = [value for value in values if _is_ours(value if len(names) == 1 else value[at])]
    return pytest.Mark(mark.name, (mark.args[0], ours, *rest), dict(mark.kwargs), _ispytest=True)


def _is_ours(backend: object) -> bool:
    return backend == OURS or isinstance(backend, kubefunc.joblib.KubefuncBackend)

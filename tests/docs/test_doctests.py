"""The examples in docstrings, executed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

import kubefunc

MODULES = sorted(
    found.name for found in pkgutil.walk_packages(kubefunc.__path__, "kubefunc.") if not found.name.endswith("__main__")
)


def _examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_module(name: str) -> None:
    """Each example of the module's docstrings gives what stands below it."""
    module = importlib.import_module(name)
    result = doctest.testmod(module)
    assert result.failed == 0


def test_there_are_examples() -> None:
    """The public functions are shown at work: without any example the test above could not fail."""
    shown = [name for name in MODULES if _examples(importlib.import_module(name))]
    assert {"kubefunc.function", "kubefunc.options.fields"} <= set(shown)

"""Fixtures for pytest: ``pytest_plugins = ["kubefunc.testing.fixtures"]`` in the topmost ``conftest.py``."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from kubefunc import testing


@pytest.fixture
def kubefunc_local() -> Generator[None]:
    """Calls of this test run on this machine, each in a process of its own."""
    with testing.local():
        yield


@pytest.fixture
def kubefunc_inline() -> Generator[None]:
    """Calls of this test run in this process."""
    with testing.inline():
        yield

"""What tests of every kind share: an environment in which nothing of this machine's owner shows through."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_OF_A_CLUSTER = ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
_OF_THE_TESTS = ("KUBEFUNC_TEST_KUBECONFIG",)


def pytest_configure() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and so would be every program that tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def clean_environment(home: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """This environment with another home, no cluster and no option of kubefunc; for subprocesses.

    ``python`` and the commands of this interpreter's environment come first on PATH.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _OF_A_CLUSTER and not name.startswith(("KUBEFUNC_", "PYTEST_", "PYTHON"))
    }
    # Downloads of pip are the one thing of the real home that is shared: they are dear and harmless.
    cache = environ.get("PIP_CACHE_DIR") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache" / "pip")
    path = f"{Path(sys.executable).parent}{os.pathsep}{environ.get('PATH', os.defpath)}"
    return {**kept, "HOME": str(home), "PATH": path, "PIP_CACHE_DIR": cache}


@pytest.fixture(autouse=True)
def _no_cluster_by_accident(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reaches the cluster that its developer's kubectl talks to, nor is changed by their options."""
    for name in [*_OF_A_CLUSTER, *os.environ]:
        if name in _OF_A_CLUSTER or (name.startswith("KUBEFUNC_") and name not in _OF_THE_TESTS):
            monkeypatch.delenv(name, raising=False)
    # An empty kubeconfig says "no cluster"; a missing file that KUBECONFIG names is an error.
    nothing = tmp_path_factory.getbasetemp() / "empty-kubeconfig"
    nothing.touch()
    monkeypatch.setenv("KUBECONFIG", str(nothing))


@pytest.fixture
def clean_env(tmp_path: Path) -> dict[str, str]:
    """:func:`clean_environment` with an empty home of this test's own."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    return clean_environment(home)

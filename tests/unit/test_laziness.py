"""What importing and using kubefunc does not load: every script and every Pod pays for an import."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import kubefunc
from kubefunc.runner.warm.attach import ABSENT, ATTACH
from tests.conftest import ROOT

OF_KUBERNETES = {"kubernetes", "tenacity", "yaml", "urllib3", "requests"}
HEAVY = OF_KUBERNETES | {"cloudpickle", "click", "rich", "asyncio", "concurrent.futures", "ssl"}


def _modules_after(statements: str, env: dict[str, str]) -> set[str]:
    """The modules that a fresh interpreter holds once it has executed the statements."""
    program = f"{statements}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_import_loads_next_to_nothing(clean_env: dict[str, str]) -> None:
    """``import kubefunc`` loads no other module of kubefunc, and nothing heavy."""
    loaded = _modules_after("import kubefunc", clean_env)
    assert {name for name in loaded if name.startswith("kubefunc")} == {"kubefunc"}
    assert loaded.isdisjoint(HEAVY)


def test_decorating_loads_no_backend(clean_env: dict[str, str]) -> None:
    """A module of decorated functions is imported in every Pod: it brings in no backend."""
    loaded = _modules_after("from kubefunc import remote, current\n@remote(cpu=1)\ndef f(): ...", clean_env)
    assert loaded.isdisjoint(HEAVY)
    assert not [name for name in loaded if name.startswith("kubefunc.backends")]


def test_local_call_loads_no_kubernetes_client(clean_env: dict[str, str]) -> None:
    """A call on this machine imports neither the Kubernetes client nor what only that needs."""
    script = "import kubefunc\nassert kubefunc.remote(len).remote([1, 2, 3]).result(30) == 3"
    loaded = _modules_after(script, clean_env)
    assert loaded.isdisjoint({*OF_KUBERNETES, "click", "rich"})


def test_a_reader_starts_with_almost_nothing() -> None:
    """A client waits for the program that hands its result out: no json, no hashes, no regular expressions."""
    program = "import kubefunc.runner.pod.courier, sys; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-E", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())
    assert loaded.isdisjoint({"json", "re", "typing", "hashlib", "pickle", "contextlib", "dataclasses"})


def test_a_worker_is_reached_with_almost_nothing(clean_env: dict[str, str]) -> None:
    """A script waits for the program that leads to its warm worker: that loads no module which Python has as a file."""
    command = [sys.executable, "-X", "importtime", *ATTACH[1:]]
    ended = subprocess.run(command, env=clean_env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == ABSENT
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "_socket" in loaded
    assert loaded.isdisjoint({"socket", "enum", "re", "struct", "zipfile", "kubefunc", "contextlib"})


def test_a_script_that_finds_warm_workers_loads_nothing_of_jobs(clean_env: dict[str, str]) -> None:
    """It waits for its imports: what makes, follows and explains Jobs is loaded with the first Job."""
    loaded = _modules_after(
        "import kubefunc.backends.kubernetes.backend, kubefunc.backends.kubernetes.warm.pools", clean_env
    )
    of_jobs = {"job_backend", "attempts", "results", "diagnose"}
    assert loaded.isdisjoint({f"kubefunc.backends.kubernetes.{each}" for each in of_jobs})
    assert loaded.isdisjoint({"importlib.metadata", "kubefunc.options.parsers.requirements"})


@pytest.mark.parametrize("name", kubefunc.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each name of ``__all__`` can be had, and is listed by dir()."""
    assert getattr(kubefunc, name) is not None
    assert name in dir(kubefunc)


@pytest.mark.parametrize(
    "first", ["import kubefunc.function", "import kubefunc.handles.call, kubefunc.session", "pass"]
)
def test_remote_is_the_decorator_whatever_was_imported_before(first: str, clean_env: dict[str, str]) -> None:
    """No submodule hides a public name: an imported submodule becomes an attribute of its package."""
    check = "\n".join(
        [
            first,
            "import kubefunc, types",
            "modules = {n for n in kubefunc.__all__ if isinstance(getattr(kubefunc, n), types.ModuleType)}",
            "assert modules == {'current', 'errors', 'testing', 'volumes'}, modules",
        ]
    )
    _modules_after(check, clean_env)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """A slip is told as Python tells it, naming module and attribute."""
    with pytest.raises(AttributeError, match=r"module 'kubefunc' has no attribute 'remoet'"):
        kubefunc.remoet  # noqa: B018

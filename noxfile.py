"""Everything that says whether kubefunc is in order; ``.ci/run`` calls ``nox`` as it is.

``nox`` runs every session below but ``bench``. ``nox -s unit -- -k payload`` hands on to pytest what follows
``--``.
Sessions for several Pythons run on those of 3.10-3.14 that this machine has, on PATH or in pyenv.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

PROJECT = nox.project.load_toml("pyproject.toml")
SUPPORTED = ("3.10", "3.11", "3.12", "3.13", "3.14")

# uv where it is installed: it makes a virtual environment in a second, from one cache shared by all sessions.
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ("lint", "types", "imports", "unit", "local", "plugins", "docs", "examples", "cluster")


def _runs(command: str, version: str) -> bool:
    """Whether the command starts this version: pyenv has shims also for versions that it will not start."""
    try:
        result = subprocess.run(
            [command, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except OSError:
        return False
    return result.returncode == 0 and result.stdout.strip() == version


def _pyenv_versions() -> Path | None:
    """The folder of pyenv's interpreters, where there is a pyenv."""
    root = os.environ.get("PYENV_ROOT", "")
    if not root and shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True).stdout.strip()
    return Path(root, "versions") if root else None


def _pythons_here() -> list[str]:
    """The supported versions that this machine has; those of pyenv alone are put on PATH, where nox looks."""
    pyenv = _pyenv_versions()
    found: list[str] = []
    for version in SUPPORTED:
        if _runs(f"python{version}", version):
            found.append(version)
            continue
        in_pyenv = sorted(pyenv.glob(f"{version}.*/bin/python{version}")) if pyenv else []
        if in_pyenv:
            os.environ["PATH"] = f"{in_pyenv[-1].parent}{os.pathsep}{os.environ['PATH']}"
            found.append(version)
    missing = [version for version in SUPPORTED if version not in found]
    if missing:
        print(f"noxfile: not on this machine, so not tested: Python {', '.join(missing)}", file=sys.stderr)
    return found


PYTHONS = _pythons_here()
# Calls run in an image with the caller's own Python; that of the hermetic cluster is Debian 12's.
ON_CLUSTER = "3.11" if "3.11" in PYTHONS else None


def _install(session: nox.Session, group: str) -> None:
    """The package as its users get it, editable, and what this group needs."""
    session.install("--quiet", "-e", ".", *nox.project.dependency_groups(PROJECT, group))


def _pytest(session: nox.Session, *arguments: str) -> None:
    _install(session, "test")
    session.run("python", "-m", "pytest", *arguments, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install("--quiet", *nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy --strict and pyright, over the package, its examples and the uses in tests/typing."""
    _install(session, "types")
    session.run("mypy")
    session.run("pyright")


@nox.session
def imports(session: nox.Session) -> None:
    """The map of the rooms in pyproject.toml, held against the imports."""
    session.install("--quiet", "--no-deps", "-e", ".")
    session.install("--quiet", *nox.project.dependency_groups(PROJECT, "imports"))
    session.run("lint-imports", "--no-cache")


@nox.session(python=PYTHONS)
def unit(session: nox.Session) -> None:
    """What needs no process and no network, on every Python."""
    _pytest(session, "tests/unit", "-n", "2")


@nox.session(python=PYTHONS)
def local(session: nox.Session) -> None:
    """The local backend with real processes, on every Python; four tests at a time, as most of them wait."""
    _pytest(session, "tests/local", "-n", "4")


@nox.session(python=ON_CLUSTER)
def plugins(session: nox.Session) -> None:
    """What other tools need of us: joblib with scikit-learn, Dask, notebooks; on one Python."""
    session.install("--quiet", *nox.project.dependency_groups(PROJECT, "plugins"))
    _pytest(session, "tests/plugins", "-n", "2", "--dist", "loadfile")


@nox.session(python=ON_CLUSTER)
def docs(session: nox.Session) -> None:
    """Every code block of the documentation, and the examples in docstrings."""
    session.install("--quiet", *nox.project.dependency_groups(PROJECT, "docs"))
    _pytest(session, "tests/docs")


@nox.session(python=ON_CLUSTER)
def examples(session: nox.Session) -> None:
    """Every example as its reader runs it."""
    session.install("--quiet", *nox.project.dependency_groups(PROJECT, "examples"))
    _pytest(session, "tests/examples")


@nox.session(python=ON_CLUSTER)
def cluster(session: nox.Session) -> None:
    """Everything on a real Kubernetes: $KUBEFUNC_TEST_KUBECONFIG, else one that is started for the tests.

    Calls mostly wait for a kubelet, so three tests at once fit on two cores; those marked ``alone`` follow.
    """
    session.install("--quiet", *nox.project.dependency_groups(PROJECT, "packages"))
    if session.posargs:
        _pytest(session, "tests/cluster")
        return
    _pytest(session, "tests/cluster", "-m", "not alone", "-n", "3", "--dist", "loadgroup")
    _pytest(session, "tests/cluster", "-m", "alone")


@nox.session
def bench(session: nox.Session) -> None:
    """The figures of docs/benchmarks.md; not part of a plain ``nox``."""
    session.install("--quiet", *nox.project.dependency_groups(PROJECT, "bench"))
    _install(session, "test")
    session.run("python", "-m", "tests.bench", *session.posargs)

"""The README's beginning as a newcomer follows it: installed from a wheel, in an environment that has nothing else."""

from __future__ import annotations

import sys
import venv
from pathlib import Path

import pytest

from tests.cluster.spaces import Space
from tests.commands import ran
from tests.conftest import ROOT
from tests.docs.pages import ENVIRONMENT, OUTPUT, Block, read_blocks, same_output

BLOCKS = read_blocks((ROOT / "README.md").read_text(encoding="utf-8"))
INSTALL = next(block for block in BLOCKS if block.mark == ENVIRONMENT)
PROGRAM = next(block for block in BLOCKS if block.language == "python")
SHOWN: Block = next(block for block in BLOCKS if block.mark == OUTPUT)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, examples_env: dict[str, str]) -> tuple[Path, dict[str, str]]:
    """A directory with the README's program, and the environment in which its command has installed the wheel."""
    place = tmp_path_factory.mktemp("newcomer")
    build = [sys.executable, "-m", "uv", "build", "--wheel", "-q", "--out-dir", str(place), str(ROOT)]
    ran(build, examples_env, place)
    [wheel] = place.glob("*.whl")
    # Until a release is published, the name kubefunc leads to this wheel.
    (place / "constraints.txt").write_text(f"kubefunc @ {wheel.as_uri()}\n")
    venv.create(place / "environment", with_pip=True)
    path = f"{place / 'environment' / 'bin'}:{examples_env['PATH']}"
    env = {**examples_env, "PATH": path, "PIP_CONSTRAINT": str(place / "constraints.txt")}
    ran(["bash", "-euo", "pipefail", "-c", INSTALL.text], env, place)
    (place / "program.py").write_text(PROGRAM.text)
    return place, env


def test_the_first_program_runs_on_this_machine(installed: tuple[Path, dict[str, str]]) -> None:
    """Without a cluster it prints what the README shows, and one line says where it runs."""
    place, env = installed
    result = ran(["python", "program.py"], env, place)
    assert same_output(SHOWN.text, result.stdout)
    assert result.stderr == "kubefunc: no cluster configured: calls run on this machine\n"


def test_the_first_program_runs_on_a_cluster(
    installed: tuple[Path, dict[str, str]], kube: Space, package_settings: dict[str, str]
) -> None:
    """`kubefunc doctor` finds the cluster ready, and the same file prints the same."""
    place, env = installed
    env = {**env, **package_settings, "KUBECONFIG": str(kube.kubeconfig)}
    assert "Kubernetes: ready" in ran(["kubefunc", "doctor"], env, place).stdout
    result = ran(["python", "program.py"], env, place)
    assert same_output(SHOWN.text, result.stdout)
    assert result.stderr.startswith(f"kubefunc: calls run on Kubernetes: context test, namespace {kube.namespace}\n")
    assert "kubefunc: packages installed in " in result.stderr

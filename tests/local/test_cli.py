"""The command ``kubefunc``, as a person runs it in a terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: dev
contexts:
  - {name: dev, context: {cluster: dev, user: me, namespace: team-a}}
  - {name: prod, context: {cluster: prod, user: me}}
clusters:
  - {name: dev, cluster: {server: "https://dev.example:6443"}}
  - {name: prod, cluster: {server: "https://prod.example:6443"}}
users:
  - {name: me, user: {token: secret-token}}
"""
IMAGE = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"


@pytest.fixture
def kubeconfig(tmp_path: Path) -> str:
    """A kubeconfig of two contexts; no cluster answers there, and none is asked."""
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    return str(path)


def _kubefunc(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from kubefunc.cli import main; main(prog_name='kubefunc')", *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _config(env: dict[str, str]) -> dict[str, tuple[str, str]]:
    """What ``kubefunc config`` says: name -> (value, source)."""
    result = _kubefunc("config", env=env)
    assert result.returncode == 0, result.stderr
    rows = [[part.strip() for part in line.split("  ") if part.strip()] for line in result.stdout.splitlines()]
    return {name: (value, source) for name, value, source in rows}


def test_config_with_a_kubeconfig(clean_env: dict[str, str], kubeconfig: str) -> None:
    """Backend, context and namespace are kubectl's; the image is of this Python."""
    shown = _config({**clean_env, "KUBECONFIG": kubeconfig})
    assert shown["backend"] == ("kubernetes", kubeconfig)
    assert shown["context"] == ("dev", kubeconfig)
    assert shown["server"] == ("https://dev.example:6443", "context dev")
    assert shown["namespace"] == ("team-a", "context dev")
    assert shown["image"] == (IMAGE, f"this Python, {sys.version.split()[0]}")


def test_config_from_the_environment(clean_env: dict[str, str], kubeconfig: str) -> None:
    """What a KUBEFUNC_* variable sets is shown with the variable's name."""
    shown = _config(
        {
            **clean_env,
            "KUBECONFIG": kubeconfig,
            "KUBEFUNC_CONTEXT": "prod",
            "KUBEFUNC_NAMESPACE": "batch",
            "KUBEFUNC_IMAGE": "registry.example/team/image:1",
            "KUBEFUNC_MEMORY": "4Gi",
        }
    )
    assert shown["context"] == ("prod", "KUBEFUNC_CONTEXT")
    assert shown["namespace"] == ("batch", "KUBEFUNC_NAMESPACE")
    assert shown["image"] == ("registry.example/team/image:1", "KUBEFUNC_IMAGE")
    assert shown["memory"] == ("4Gi", "KUBEFUNC_MEMORY")


def test_config_without_a_cluster(clean_env: dict[str, str]) -> None:
    """With no kubeconfig, calls run on this machine, and there is no context to show."""
    shown = _config(clean_env)
    assert shown["backend"] == ("local", "no kubeconfig, and not inside a Pod")
    assert "context" not in shown


def test_config_where_local_is_wanted(clean_env: dict[str, str], kubeconfig: str) -> None:
    """KUBEFUNC_BACKEND=local wins over a kubeconfig, and is named as the reason."""
    shown = _config({**clean_env, "KUBECONFIG": kubeconfig, "KUBEFUNC_BACKEND": "local"})
    assert shown["backend"] == ("local", "KUBEFUNC_BACKEND")


def test_config_shows_no_secret(clean_env: dict[str, str], kubeconfig: str) -> None:
    """Neither a token of the kubeconfig, a value of env nor the login of an index: of env only the names."""
    secrets = {"KUBEFUNC_ENV": "PASSWORD=hunter2,USER=me", "KUBEFUNC_PACKAGE_INDEX": "https://ada:hunter2@pypi.example"}
    result = _kubefunc("config", env={**clean_env, "KUBECONFIG": kubeconfig, **secrets})
    assert "https://****@pypi.example" in result.stdout
    assert "PASSWORD, USER" in result.stdout
    assert "hunter2" not in result.stdout + result.stderr
    assert "secret-token" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"KUBECONFIG": "/no/such/file"}, "no such file exists"),
        ({"KUBEFUNC_CPU": "many"}, "KUBEFUNC_CPU='many'"),
        ({"KUBEFUNC_BACKEND": "nomad"}, "KUBEFUNC_BACKEND='nomad'"),
        ({"KUBEFUNC_CONTEXT": "nowhere"}, "'nowhere'"),
    ],
)
def test_config_says_what_is_wrong(
    wrong: dict[str, str], message: str, clean_env: dict[str, str], kubeconfig: str
) -> None:
    """A wrong setting ends in one line and exit code 1, not in a traceback."""
    result = _kubefunc("config", env={**clean_env, "KUBECONFIG": kubeconfig, **wrong})
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_version(clean_env: dict[str, str]) -> None:
    """``kubefunc --version`` names the installed version."""
    import kubefunc

    assert _kubefunc("--version", env=clean_env).stdout.strip() == f"kubefunc, version {kubefunc.__version__}"


def test_choosing_a_backend_starts_nothing(clean_env: dict[str, str], tmp_path: Path) -> None:
    """``kubefunc config`` only looks: no process is forked or started, and no temporary folder is made."""
    program = """
import os, subprocess, sys, tempfile
def refuse(*arguments, **options):
    raise AssertionError("something was started")
subprocess.Popen = os.fork = os.posix_spawn = tempfile.mkdtemp = refuse
from kubefunc.cli import main
main(["config"], prog_name="kubefunc")
"""
    result = subprocess.run(
        [sys.executable, "-c", program], env=clean_env, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "local" in result.stdout

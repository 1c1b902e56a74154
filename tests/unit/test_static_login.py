"""Plain credentials are read without the kubernetes package: what it would have read, or nothing."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kubefunc.backends.kubernetes.api import pool
from kubefunc.backends.kubernetes.api.kubeconfig import ClusterConfig, find_config
from kubefunc.backends.kubernetes.api.static_login import static_login
from tests.conftest import ROOT

SERVER = "https://one:6443/below"


def data(text: str) -> str:
    """As a kubeconfig holds it."""
    return base64.b64encode(text.encode()).decode()


def written(folder: Path, cluster: dict[str, Any], user: dict[str, Any] | None) -> ClusterConfig:
    """A kubeconfig with this cluster and user, and the certificates that they may name."""
    for name in ("ca.crt", "client.crt", "client.key"):
        (folder / name).write_text(f"the file {name}")
    content = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "c", **({"user": "u"} if user is not None else {})}}],
        "clusters": [{"name": "c", "cluster": {"server": SERVER, **cluster}}],
        "users": [{"name": "u", "user": user or {}}],
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))
    config = find_config(None, {"KUBECONFIG": str(path)})
    assert config is not None
    return config


def seen(configuration: Any) -> list[object]:
    """What is used of it: paths as their content."""
    paths = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    headers = {each["key"].lower(): each["value"] for each in configuration.auth_settings().values()}
    contents = [path and Path(path).read_text() for path in paths]
    return [configuration.host.rstrip("/"), bool(configuration.verify_ssl), *contents, headers]


CLIENT = {"client-certificate": "client.crt", "client-key": "client.key"}


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        ({"certificate-authority-data": data("an authority")}, {"token": "t"}),
        ({"certificate-authority": "ca.crt"}, {"token": "t"}),
        ({"certificate-authority": "ca.crt", "certificate-authority-data": data("another")}, {"token": "t"}),
        ({"insecure-skip-tls-verify": True}, CLIENT),
        ({}, {"client-certificate-data": data("a certificate"), "client-key-data": data("a key"), "token": "t"}),
        ({"server": "http://one:8001"}, {"token": "t", **CLIENT}),
        ({"server": "https://one/"}, {"token": "t", "extensions": [{"name": "x"}]}),
    ],
)
def test_plain_credentials_are_those_that_kubernetes_reads(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any]
) -> None:
    """Tokens, certificates as data or as files beside the kubeconfig, no verification; over HTTP no certificates."""
    config = written(tmp_path, cluster, user)
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    login = static_login(config, str(tmp_path / "ours"), {})
    assert login is not None
    assert seen(login) == seen(pool._load(config, str(tmp_path / "theirs")))
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "ours").iterdir())


@pytest.mark.parametrize(
    ("cluster", "user"),
    [
        ({}, None),
        ({}, {}),
        ({}, {"token": ""}),
        ({}, {"token": 7}),
        ({}, {"tokenFile": "token"}),
        ({}, {"exec": {"command": "aws"}}),
        ({}, {"token": "t", "as": "somebody"}),
        ({}, {"username": "u", "password": "p"}),
        ({}, {"client-certificate": "client.crt"}),
        ({}, {"client-certificate": "nowhere.crt", "client-key": "client.key"}),
        ({"proxy-url": "http://proxy"}, {"token": "t"}),
        ({"tls-server-name": "two"}, {"token": "t"}),
        ({"insecure-skip-tls-verify": "yes"}, {"token": "t"}),
        ({"certificate-authority-data": "abc"}, {"token": "t"}),
    ],
)
def test_all_else_is_left_to_kubernetes(tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any] | None) -> None:
    """Plug-ins, proxies, other users, and what is broken: it knows what to say."""
    assert static_login(written(tmp_path, cluster, user), str(tmp_path), {}) is None


def test_proxies_and_several_files_are_left_to_kubernetes(tmp_path: Path) -> None:
    """It merges files, and knows which hosts go past a proxy."""
    config = written(tmp_path, {}, {"token": "t"})
    assert static_login(config, str(tmp_path), {}) is not None
    assert static_login(config, str(tmp_path), {"HTTPS_PROXY": "http://proxy"}) is None
    (tmp_path / "second").write_text("{}")
    two = find_config(None, {"KUBECONFIG": f"{config.source}:{tmp_path / 'second'}"})
    assert two is not None
    assert static_login(two, str(tmp_path), {}) is None


def test_a_program_with_plain_credentials_imports_no_kubernetes(tmp_path: Path) -> None:
    """That would take longer than all else before its first request."""
    config = written(tmp_path, {"server": "http://127.0.0.1:9"}, {"token": "t"})
    program = (
        "import os, sys\n"
        "from kubefunc.backends.kubernetes import configured\n"
        "from kubefunc.backends.kubernetes.api.pool import open_session\n"
        "open_session(configured(None, os.environ), print, 4)\n"
        "sys.exit('kubernetes' in sys.modules)\n"
    )
    environ = {"KUBECONFIG": config.source, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=environ, timeout=60, check=False).returncode == 0

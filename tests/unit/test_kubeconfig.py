"""Which cluster is found, from the environment and files alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kubefunc.backends.kubernetes.api.kubeconfig import find_config
from kubefunc.errors import ConfigurationError


def kubeconfig(path: Path, *names: str, current: str = "", **context: str) -> str:
    """A kubeconfig with a context, cluster and user of each of the names; JSON is YAML."""
    content: dict[str, Any] = {
        "current-context": current,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, **context}} for name in names],
        "clusters": [{"name": name, "cluster": {"server": f"https://{name}:6443"}} for name in names],
        "users": [{"name": name, "user": {"token": "t"}} for name in names],
    }
    path.write_text(json.dumps(content))
    return str(path)


def home(tmp_path: Path) -> Path:
    """A home directory's kubeconfig, not yet written."""
    (tmp_path / ".kube").mkdir()
    return tmp_path / ".kube" / "config"


def test_nothing_configured_is_no_cluster(tmp_path: Path) -> None:
    """No file, no variable: None, and the program runs on this machine."""
    assert find_config(None, {"HOME": str(tmp_path)}, tmp_path) is None


def test_finding_out_that_there_is_no_cluster_imports_nothing_heavy(tmp_path: Path) -> None:
    """Local calls do not pay for kubernetes, urllib3, yaml or tenacity."""
    code = (
        "import sys\nfrom kubefunc.backends.kubernetes.api.requests import find_config\n"
        "assert find_config(None, {'HOME': sys.argv[1]}) is None\n"
        "print(sorted({'kubernetes', 'urllib3', 'yaml', 'tenacity'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_current_context_of_the_home_directory(tmp_path: Path) -> None:
    """~/.kube/config, its current context, its namespace or "default"."""
    path = kubeconfig(home(tmp_path), "work", "play", current="play")
    config = find_config(None, {"HOME": str(tmp_path)})
    assert config is not None
    assert (config.context, config.namespace, config.host, config.source) == (
        "play",
        "default",
        "https://play:6443",
        path,
    )


def test_a_context_by_name_and_its_namespace(tmp_path: Path) -> None:
    """context= beats the current one; the context's namespace is taken."""
    kubeconfig(home(tmp_path), "work", "play", current="play", namespace="team")
    config = find_config("work", {"HOME": str(tmp_path)})
    assert config is not None
    assert (config.context, config.namespace) == ("work", "team")


def test_several_files_merge_as_kubectl_merges_them(tmp_path: Path) -> None:
    """The first current-context wins, missing files are skipped, a cluster may stand in another file."""
    one = kubeconfig(tmp_path / "one", "a", current="a")
    two = kubeconfig(tmp_path / "two", "b", current="b")
    environ = {"KUBECONFIG": os.pathsep.join([str(tmp_path / "absent"), one, two])}
    first, second = find_config(None, environ), find_config("b", environ)
    assert first is not None
    assert second is not None
    assert (first.context, first.source, second.source) == ("a", one, two)
    assert first.files == (one, two)


def test_a_config_that_defines_nothing_is_no_cluster(tmp_path: Path) -> None:
    """What remains in ~/.kube/config after the last kind cluster is deleted does not break local runs."""
    home(tmp_path).write_text("apiVersion: v1\ncontexts: []\nclusters: null\ncurrent-context: ''\n")
    assert find_config(None, {"HOME": str(tmp_path)}, tmp_path) is None


def test_dev_null_is_no_cluster(tmp_path: Path) -> None:
    """``KUBECONFIG=/dev/null`` is how people say so, whatever stands in their home directory."""
    kubeconfig(home(tmp_path), "work", current="work")
    assert find_config(None, {"KUBECONFIG": os.devnull, "HOME": str(tmp_path)}, tmp_path) is None


def test_in_a_pod_with_a_token(tmp_path: Path) -> None:
    """The service account's files and the environment's address are a configuration."""
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("team\n")
    environ = {
        "HOME": str(tmp_path),
        "KUBERNETES_SERVICE_HOST": "fd00::1",
        "KUBERNETES_SERVICE_PORT": "443",
    }
    config = find_config(None, environ, tmp_path)
    assert config is not None
    assert (config.context, config.namespace, config.host) == ("in-cluster", "team", "https://[fd00::1]:443")


def test_in_a_pod_without_a_token(tmp_path: Path) -> None:
    """Every Pod has the variables; without a token (as in our own Pods) there is no cluster to talk to."""
    environ = {
        "HOME": str(tmp_path),
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
    }
    assert find_config(None, environ, tmp_path) is None


BROKEN = {
    "no YAML": ("a: [", ["not valid YAML"]),
    "bytes": ("\0", ["not valid YAML"]),
    "not a mapping": ("- 1", ["list, not a mapping"]),
    "contexts not a list": ('{"contexts": {"a": 1}}', ["`contexts` is dict, not a list"]),
    "context without a name": ('{"contexts": [{"context": {}}]}', ["`contexts[0]`", "`name`"]),
    "no current context": (
        '{"contexts": [{"name": "a", "context": {}}]}',
        ["no current context", "use-context", "known are: a"],
    ),
    "unknown current context": (
        '{"current-context": "b", "contexts": [{"name": "a", "context": {}}]}',
        ["'b'", "known are: a"],
    ),
    "context without its cluster": (
        '{"current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "c"}}]}',
        ["'a'", "'c'", "not defined"],
    ),
    "cluster without a server": (
        (
            '{"current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "c"}}],'
            ' "clusters": [{"name": "c", "cluster": {"server": "host:1"}}]}'
        ),
        ["'c'", "'host:1'", "https://host:6443"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_kubeconfig_is_an_error_that_names_file_and_fault(case: str, tmp_path: Path) -> None:
    """Never a silent switch to this machine: what is broken is said, with the file and the place in it."""
    text, words = BROKEN[case]
    path = home(tmp_path)
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        find_config(None, {"HOME": str(tmp_path)}, tmp_path)
    assert not [word for word in [*words, str(path)] if word not in str(caught.value)]


def test_an_unknown_context_lists_the_known_ones(tmp_path: Path) -> None:
    """A misspelt context= shows what there is."""
    kubeconfig(home(tmp_path), "work", "play", current="play")
    with pytest.raises(ConfigurationError, match=r"'wrok'.*known are: play, work"):
        find_config("wrok", {"HOME": str(tmp_path)}, tmp_path)


def test_a_context_without_any_kubeconfig(tmp_path: Path) -> None:
    """Who names a context means a cluster: running locally instead would surprise."""
    with pytest.raises(ConfigurationError, match=r"'work' was asked for.*KUBECONFIG"):
        find_config("work", {"HOME": str(tmp_path)}, tmp_path)


def test_kubeconfig_pointing_nowhere(tmp_path: Path) -> None:
    """$KUBECONFIG was set for a reason: that the file is missing is an error, with the way to local runs."""
    with pytest.raises(ConfigurationError, match=r"nowhere.*KUBEFUNC_BACKEND=local"):
        find_config(None, {"KUBECONFIG": str(tmp_path / "nowhere")}, tmp_path)


def test_a_user_that_is_not_defined(tmp_path: Path) -> None:
    """A context whose user is missing is refused by name: it would be system:anonymous to the server."""
    content = {
        "current-context": "work",
        "contexts": [{"name": "work", "context": {"cluster": "c", "user": "ann"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://k8s:6443"}}],
    }
    path = tmp_path / "config"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="names the user 'ann', which is not defined"):
        find_config(None, {"KUBECONFIG": str(path)})


def test_a_credential_plugin_is_noted(tmp_path: Path) -> None:
    """The plugin's command is known, so that its failure can be told from a server's refusal."""
    path = home(tmp_path)
    content = json.loads(Path(kubeconfig(path, "eks", current="eks")).read_text())
    content["users"][0]["user"] = {"exec": {"command": "aws"}}
    path.write_text(json.dumps(content))
    config = find_config(None, {"HOME": str(tmp_path)})
    assert config is not None
    assert config.login == "The credential plugin 'aws'"

"""``f.manifest()`` and ``kubefunc render``: the objects of a call, without a cluster."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kubefunc import remote
from kubefunc.errors import ConfigurationError
from kubefunc.options import Options
from kubefunc.options.option import option_names
from tests.cluster.option_cases import CASES


@remote(cpu=2, env={"LEVEL": "high"})
def scale(value: int, factor: int = 2) -> int:
    """Never runs here."""
    return value * factor


def test_every_option_has_a_case_for_the_server() -> None:
    """An option that is added needs values in tests/cluster/option_cases.py, which the API server must accept."""
    assert set(CASES) == option_names()


@pytest.mark.parametrize("name", CASES)
def test_each_case_is_a_value_of_its_option(name: str) -> None:
    """And not its default alone, where it has another."""
    for value in CASES[name]:
        options: Any = {name: value}
        Options.of(**options)


def test_a_manifest_needs_no_cluster() -> None:
    """Secrets, then the Job, in the namespace that the options name; each time another call."""
    secret, job = scale.options(namespace="team").manifest(1, factor=3)
    assert (secret["kind"], job["kind"]) == ("Secret", "Job")
    assert job["metadata"]["name"] == secret["metadata"]["name"]
    assert {each["metadata"]["namespace"] for each in (secret, job)} == {"team"}
    assert job["metadata"]["annotations"]["kubefunc/module"] == __name__
    (main,) = (each for each in job["spec"]["template"]["spec"]["containers"] if each["name"] == "main")
    assert main["resources"] == {"requests": {"cpu": "2"}}
    assert scale.manifest(1)[1]["metadata"]["namespace"] == "default"
    assert scale.manifest(1)[1]["metadata"]["name"] != job["metadata"]["name"]


def test_a_manifest_of_a_gang_has_its_job_and_services() -> None:
    """An Indexed Job with a Pod for each rank, a headless Service that gives these names, and the one asked for."""
    gang = scale.options(gang=3, namespace="team", ports={"http": 8080}, service="scores")
    secret, job, headless, service = gang.manifest(1)
    assert (secret["kind"], job["kind"], headless["kind"], service["kind"]) == ("Secret", "Job", "Service", "Service")
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 3, 3)
    name = job["metadata"]["name"]
    assert (headless["metadata"]["name"], headless["spec"]["clusterIP"]) == (name, "None")
    assert job["spec"]["template"]["spec"]["subdomain"] == name
    assert service["metadata"]["name"] == "scores"
    told = json.loads(base64.b64decode(secret["data"]["spec.json"]))
    assert told["gang"]["peers"][2] == f"{name}-2.{name}.team.svc"


def test_a_manifest_refuses_what_a_gang_would() -> None:
    """As the call itself does."""
    with pytest.raises(ConfigurationError, match="detach=True"):
        scale.options(gang=3, detach=True).manifest(1)


def test_a_manifest_refuses_what_a_call_would() -> None:
    """Arguments that do not fit, and templates that cannot work."""
    with pytest.raises(TypeError, match=r"scale\.manifest\(\)"):
        scale.manifest()
    with pytest.raises(ConfigurationError, match="restartPolicy"):
        scale.options(pod_template={"spec": {"restartPolicy": "Always"}}).manifest(1)


# -- kubefunc render

PROGRAM = """
import kubefunc
print("imported")

@kubefunc.remote(labels={"team": "ml"})
def train(seed, rate=0.1, tags=()):
    return seed

class Model:
    @staticmethod
    @kubefunc.remote
    def fit(data): ...

def plain(): ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a module of remote functions."""
    (tmp_path / "jobs.py").write_text(PROGRAM)
    return tmp_path


def render(folder: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``kubefunc render`` in this folder."""
    command = [sys.executable, "-c", "from kubefunc.cli import main; main(prog_name='kubefunc')", "render", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("function", ["jobs:train", "jobs.py:train", "jobs:Model.fit"])
def test_render_prints_yaml(function: str, folder: Path, clean_env: dict[str, str]) -> None:
    """And nothing else on standard output, whatever the module prints when it is imported."""
    import yaml

    result = render(folder, clean_env, function, "3", "-n", "team")
    kinds = [each["kind"] for each in yaml.safe_load_all(result.stdout)]
    assert kinds == ["Secret", "Job"], result.stderr
    assert "imported" in result.stderr


def test_render_without_secrets_as_json(folder: Path, clean_env: dict[str, str]) -> None:
    """Arguments are literals, texts, and keywords."""
    result = render(folder, clean_env, "jobs:train", "3", "rate=0.5", "tags=['a']", "--no-secrets", "--json")
    (job,) = json.loads(result.stdout)
    assert (job["kind"], job["metadata"]["labels"]["team"]) == ("Job", "ml")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["jobs"], 2, "'jobs' is not MODULE:FUNCTION, such as jobs:train"),
        (["nowhere:f"], 1, "There is no module 'nowhere'"),
        (["nowhere.py:f"], 1, "There is no file nowhere.py"),
        (["jobs:nothing"], 1, "jobs has no 'nothing'"),
        (["jobs:plain"], 1, "jobs:plain is a function that @remote does not decorate"),
        (["jobs:train"], 2, "missing a required argument: 'seed'"),
        (["jobs:train", "1", "-n", "A B"], 1, "namespace='A B'"),
    ],
)
def test_render_says_what_is_wrong(
    arguments: list[str], code: int, message: str, folder: Path, clean_env: dict[str, str]
) -> None:
    """In a line, not in a traceback."""
    result = render(folder, clean_env, *arguments)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr

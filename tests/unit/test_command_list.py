"""The list of commands: what ``kubefunc --help`` shows, and what it costs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import click
import pytest

from kubefunc.backends.operations import Check, StoredCall, StoredPod
from kubefunc.cli.commands import COMMANDS, EXIT_CODES, main
from kubefunc.role import role_objects, role_yaml
from tests.conftest import ROOT


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_there_and_explains_itself(name: str) -> None:
    """With a docstring, and --json where it prints data."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert command.help
    assert name == "completion" or any("--json" in parameter.opts for parameter in command.params)


def test_help_loads_click_and_nothing_of_a_cluster(clean_env: dict[str, str]) -> None:
    """So it is there at once: neither the client nor rich, no session and no options."""
    program = (
        "import json, sys\n"
        "from kubefunc.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], env=clean_env, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    loaded = set(json.loads(result.stdout.splitlines()[-1]))
    assert loaded.isdisjoint({"kubernetes", "rich", "yaml", "urllib3", "tenacity", "ssl"})
    assert {name for name in loaded if name.startswith("kubefunc")} == {
        *("kubefunc", "kubefunc.cli", "kubefunc.cli.commands", "kubefunc.errors")
    }


def test_the_page_names_every_field_and_exit_code() -> None:
    """docs/command-line.md is the schema of --json, and repeats the exit codes of --help."""
    page = (ROOT / "docs/command-line.md").read_text(encoding="utf-8")
    fields = {each.name for kind in (StoredCall, StoredPod, Check) for each in dataclasses.fields(kind)}
    told = fields - {"words", "missing"} | {"cluster", "missing_rules"}  # of a Check, for people
    assert [name for name in sorted(told) if f"`{name}`" not in page] == []
    codes = [line.split()[0] for line in EXIT_CODES.splitlines() if line[:3].strip() == "" and line.strip()]
    assert [code for code in codes if f"| {code} |" not in page] == []


def test_role_is_the_one_of_the_documentation() -> None:
    """docs/role.yaml is what ``kubefunc role`` prints."""
    assert role_yaml() == (ROOT / "docs/role.yaml").read_text(encoding="utf-8")


def test_role_as_objects_says_the_same_as_the_yaml() -> None:
    """With its binding."""
    import yaml

    from kubefunc.role import Subject

    subject = Subject("ServiceAccount", "runner", "ci")
    assert list(yaml.safe_load_all(role_yaml("team", subject))) == role_objects("team", subject)

"""``kubefunc files``: what is sent with a function, what stays here, and why."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kubefunc.packing.code import MAX_CODE

JOBS = """
import hypothesis
from shop import prices
from kubefunc import remote
print("imported")

@remote
def train(seed):
    return prices
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project: a package with data, a key, a link, caches and an ignore file."""
    package = tmp_path / "shop"
    for name in ("raw/a.csv", "raw/b.csv", "__pycache__/x.pyc", ".venv/x", "env/pyvenv.cfg", "old/.git/config"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    texts = {"__init__.py": "", "jobs.py": JOBS, "prices.py": "", "prices.csv": "x" * 2048, "server.key": "k"}
    for name, text in {**texts, ".env": "A=1"}.items():
        (package / name).write_text(text)
    (package / "hosts").symlink_to("/etc/hostname")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".kubefuncignore").write_text("# large\nshop/raw/*.csv\n!shop/raw/b.csv\n")
    return tmp_path


def files(folder: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``kubefunc files`` in this folder."""
    command = [sys.executable, "-c", "from kubefunc.cli import main; main(prog_name='kubefunc')", "files", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


def test_files_are_listed_with_their_sizes_and_reasons(folder: Path, clean_env: dict[str, str]) -> None:
    """By their names in the Pod; what stays here with the way to send it, and what other people's modules it needs."""
    result = files(folder, clean_env, "shop.jobs:train")
    assert (result.returncode, result.stderr) == (0, "imported\n")
    first, *lines = result.stdout.splitlines()
    assert first.startswith("Sent to a cluster with each call: 5 files, 2.1 KiB of 50.0 MiB at most.")
    assert [line.split()[-1] for line in lines[:5]] == [
        f"shop/{name}" for name in ("__init__.py", "jobs.py", "prices.csv", "prices.py", "raw/b.csv")
    ]
    assert lines[2] == "    2.0 KiB  shop/prices.csv"
    assert lines[5] == "Stay here:"
    stay = dict(line.strip().split("  ", 1) for line in lines[6:-2])
    assert {name: why.strip() for name, why in stay.items()} == {
        "shop/.env": "its name begins with a dot (to send it, write !.env into .kubefuncignore)",
        "shop/.venv": "its name begins with a dot (to send it, write !.venv into .kubefuncignore)",
        "shop/__pycache__": "a cache",
        "shop/env": "a virtual environment",
        "shop/hosts": "a link out of the project, or to a hidden file: "
        f"{Path('/etc/hostname').resolve()} (to send it, write !hosts into .kubefuncignore)",
        "shop/old/.git": "its name begins with a dot (to send it, write !.git into .kubefuncignore)",
        "shop/raw/a.csv": ".kubefuncignore, line 2: shop/raw/*.csv",
        "shop/server.key": "its name looks like that of a key (to send it, write !server.key into .kubefuncignore)",
    }
    assert lines[-1] == "  hypothesis  imported by shop/jobs.py, line 2"


def test_the_advice_sends_what_stayed_here(folder: Path, clean_env: dict[str, str]) -> None:
    """A line with ``!`` in the file that was named."""
    with (folder / ".kubefuncignore").open("a") as file:
        file.write("!.env\n!server.key\n!hosts\n")
    document = json.loads(files(folder, clean_env, "shop.jobs:train", "--json").stdout)
    assert {"shop/.env", "shop/server.key", "shop/hosts"} <= {each["name"] for each in document["files"]}


def test_a_document_for_programs(folder: Path, clean_env: dict[str, str]) -> None:
    """With ``--json``."""
    document: dict[str, Any] = json.loads(files(folder, clean_env, "shop.jobs:train", "--json").stdout)
    assert sorted(document) == ["files", "left_out", "limit", "needed", "size"]
    assert {"name": "shop/prices.csv", "path": str(folder / "shop/prices.csv"), "size": 2048} in document["files"]
    assert document["size"] == sum(each["size"] for each in document["files"])
    assert document["limit"] == MAX_CODE
    assert {each["reason"] for each in document["left_out"]} == {
        *("hidden", "cache", "environment", "link", "ignored", "key")
    }
    assert document["needed"] == [{"module": "hypothesis", "why": "imported by shop/jobs.py, line 2"}]


def test_more_than_may_be_sent_is_listed_all_the_same(folder: Path, clean_env: dict[str, str]) -> None:
    """How else would one find what is too much? The exit code is 1, and the error names the largest files."""
    with (folder / "shop/model.bin").open("wb") as file:
        file.truncate(MAX_CODE + 1)
    result = files(folder, clean_env, "shop.jobs:train")
    assert result.returncode == 1
    assert "shop/model.bin" in result.stdout
    assert "at most 50.0 MiB can be sent with a call" in result.stderr


def test_a_file_by_its_path(folder: Path, clean_env: dict[str, str]) -> None:
    """A single file travels alone, with the packages that it imports."""
    (folder / "main.py").write_text("from kubefunc import remote\n\n@remote\ndef go():\n    pass\n")
    (folder / "data.csv").write_text("1")
    result = files(folder, clean_env, "main.py:go")
    assert result.returncode == 0, result.stderr
    assert [line.split()[-1] for line in result.stdout.splitlines()[1:]] == ["main.py"]

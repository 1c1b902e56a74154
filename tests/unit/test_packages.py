"""The options ``packages=`` and ``package_index=``, what becomes of them, and what is said when installing failed."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from kubefunc.backends.runner_specs import packages_spec
from kubefunc.errors import ConfigurationError, PackageInstallError
from kubefunc.options import Options, environment_layer, parse_changes
from kubefunc.options.parsers.requirements import from_list
from kubefunc.packing.packages.failures import failure
from kubefunc.packing.packages.installed import check_here

# -- the options


def test_packages_are_a_list_or_a_file(tmp_path: Path) -> None:
    """A list is checked where it is written; a file is read when a call is made."""
    assert Options.of(packages=["numpy>=2", "pandas"]).packages == ("numpy>=2", "pandas")
    assert Options.of(packages=[]).packages is None
    file = tmp_path / "requirements.txt"
    options = Options.of(packages=file)
    assert options.packages == str(file)
    file.write_text("numpy>=2\n")
    wanted = options.requirements()
    assert wanted is not None
    assert wanted.lines == ("numpy>=2",)
    assert Options.of(packages=wanted.lines).requirements() == wanted


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (["numpy", "scipy=1"], "packages[1]='scipy=1' is not accepted: the comparisons are ==, >="),
        ("numpy", "For packages write ['numpy']"),
        (["numpy", 3], "packages[1]=3 is not accepted: each one is a text"),
        (7, "packages=7 is not accepted: write a list of texts"),
    ],
)
def test_a_wrong_one_names_itself(value: Any, said: str) -> None:
    """The place in the list, the value and the fix."""
    with pytest.raises(ConfigurationError) as refused:
        parse_changes("@remote", packages=value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("requirements.txt", "requirements.txt"),
        ("numpy>=2,<3 pandas", ("numpy>=2,<3", "pandas")),
        ("[\"numpy; python_version > '3'\"]", ("numpy; python_version > '3'",)),
        ("none", None),
    ],
)
def test_packages_from_the_environment(text: str, expected: object) -> None:
    """A file, names with spaces between, or a JSON list."""
    assert environment_layer({"KUBEFUNC_PACKAGES": text})["packages"] == expected


@pytest.mark.parametrize("url", ["pypi.example/simple", "ftp://pypi.example", "https://pypi example", 3])
def test_an_index_is_a_url(url: Any) -> None:
    """A refused one is not shown: it may hold a password."""
    with pytest.raises(ConfigurationError, match="write the URL of the index") as refused:
        parse_changes("@remote", package_index=url)
    assert "pypi example" not in str(refused.value)


def test_what_the_runner_is_told() -> None:
    """All of it stands in spec.json, which is in a Secret."""
    options = Options.of(packages=["numpy>=2"], package_index="https://a:b@pypi.example/simple", pull_allowance=60)
    assert packages_spec(from_list(["numpy>=2"]), options) == {
        "requirements": ("numpy>=2",),
        "constraints": (),
        "hashes": False,
        "index": "https://a:b@pypi.example/simple",
        "title": "numpy>=2",
        "why": "",
        "seconds": 60.0,
        "cache": False,
        "sent": None,
    }


# -- on this machine


def test_packages_that_are_installed_here_are_fine() -> None:
    """Nothing is installed; a marker that does not hold here asks for nothing."""
    check_here(from_list(["pytest>=1", "nowhere; sys_platform == 'never'"]))


def test_one_that_is_missing_here_is_named() -> None:
    """With the command that installs it; so is one of another version."""
    with pytest.raises(PackageInstallError) as refused:
        check_here(from_list(["no-such-thing>=2", "pytest<1", "packaging"]))
    text = str(refused.value)
    assert "no-such-thing>=2 (not installed)" in text
    assert "pytest<1 (" in text
    assert "pip install 'no-such-thing>=2' 'pytest<1'" in text
    assert "packaging" not in text


# -- what is said of a failure


PIP_RETRIES = """\
WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError(...)': /simple/greeting/
ERROR: Could not find a version that satisfies the requirement greeting (from versions: none)
ERROR: No matching distribution found for greeting
"""
UV_UNKNOWN = """\
  x No solution found when resolving dependencies:
  `-> Because no-such-thing was not found in the package registry and you require no-such-thing, we can conclude that
      your requirements are unsatisfiable.
"""
UV_VERSION = """\
  x No solution found when resolving dependencies:
  `-> Because only greeting<=2.0 is available and you require greeting>=9, we can conclude that your requirements are
      unsatisfiable.
"""


@pytest.mark.parametrize(
    ("output", "reason", "advice"),
    [
        ("ERROR: No matching distribution found for sklean", "NoSuchPackage", "package_index="),
        (
            "ERROR: ... (from versions: 1.0, 2.0)\nERROR: No matching distribution found for a>=9",
            "NoSuchVersion",
            "a>=9",
        ),
        (UV_UNKNOWN, "NoSuchPackage", "'no-such-thing'"),
        (UV_VERSION, "NoSuchVersion", "fits greeting"),
        (PIP_RETRIES, "IndexUnreachable", "no way to the internet"),
        ("error: Failed to fetch: `http://x/simple/` tcp connect error", "IndexUnreachable", "package_index="),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "DiskFull", "5Gi"),
        ("ERROR: 401 Client Error: Unauthorized for url", "IndexRefused", "They travel in a Secret"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE FILE", "HashMismatch", "--generate-hashes"),
        ("ERROR: Failed building wheel for old-thing", "NotBuilt", "with a wheel"),
        ("ERROR: ResolutionImpossible: for help visit", "Conflict", "loosen one"),
        ("ERROR: something new", "InstallFailed", "exit code 1"),
    ],
)
def test_the_installers_words_become_a_reason_and_a_way_out(output: str, reason: str, advice: str) -> None:
    """As pip and uv write them; their last lines are shown below."""
    found = failure({"kind": "failed", "installer": "pip", "exit_code": 1, "output": output}, "3.11")
    assert found.reason == reason
    assert advice in f"{found.message} {found.advice}"
    assert found.output[-1] == output.splitlines()[-1]


@pytest.mark.parametrize(
    ("detail", "reason", "advice"),
    [
        ({"kind": "none"}, "NoInstaller", "python:3.11-slim"),
        ({"kind": "timeout", "seconds": 900.0}, "InstallTimeout", "raise pull_allowance"),
        ({"kind": "killed"}, "InstallKilled", "Raise memory="),
        (
            {"kind": "volume", "path": "/p", "message": "Permission denied", "errno": errno.EACCES},
            "VolumeUnusable",
            "fsGroup",
        ),
        (
            {"kind": "volume", "path": "/p", "message": "No space", "errno": errno.ENOSPC},
            "DiskFull",
            "ephemeral-storage",
        ),
        ({"kind": "died", "status": 256}, "InstallFailed", "output below"),
    ],
)
def test_what_keeps_the_installer_from_working(detail: dict[str, Any], reason: str, advice: str) -> None:
    """Each has a way out."""
    found = failure(detail, "3.11")
    assert found.reason == reason
    assert advice in found.advice

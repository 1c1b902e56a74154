"""What ``packages=`` may hold: requirements, versions, markers and files of requirements."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from kubefunc.errors import ConfigurationError
from kubefunc.options.kind import Refused
from kubefunc.options.parsers import requirements, versions

VERSIONS = (
    "1.0 1.0.0 1.0.dev1 1.0a1 1.0a1.dev3 1.0b2 1.0rc1 1.0.post1 1.0.post1.dev2 1.1 2!0.1 1.10 1.9 v1.2 1.0-1 2.0"
).split()


# -- versions and markers: as the library `packaging` reads them


def test_versions_are_ordered_as_packaging_orders_them() -> None:
    """Epochs, pre-, post- and development releases."""
    for one, other in itertools.product(VERSIONS, VERSIONS):
        expected = (Version(one) < Version(other), Version(one) == Version(other))
        assert (versions.key(one) < versions.key(other), versions.key(one) == versions.key(other)) == expected


@pytest.mark.parametrize("specifier", [">=1.1", "==1.*", "!=1.0.*", "~=1.0", "~=1.0.0", "<2,>1.0", "==1.0", "===1.0"])
def test_specifiers_hold_as_packaging_says(specifier: str) -> None:
    """For released versions: what is installed here is compared, whatever it is."""
    for version in ("1.0", "1.0.0", "1.0.3", "1.1", "1.10", "2.0", "0.9"):
        expected = SpecifierSet(specifier).contains(version, prereleases=True)
        assert versions.matches(version, specifier) == expected, version


@pytest.mark.parametrize(
    "marker",
    [
        "python_version >= '3.8'",
        "python_version<'3.8' or os_name == 'posix'",
        "extra == 'test' and python_version > '3'",
        "(sys_platform == 'win32' or platform_system != 'Windows') and python_full_version ~= '3.0'",
        "'linux' in sys_platform",
        "platform_machine not in 'x86_64 aarch64'",
    ],
)
def test_markers_hold_as_packaging_says(marker: str) -> None:
    """On this machine."""
    assert versions.applies(marker, versions.environment()) == Marker(marker).evaluate({"extra": ""})


# -- one requirement


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("numpy", ("numpy", (), "")),
        ("Scikit_Learn >= 1.3, <2", ("scikit-learn", (), ">= 1.3, <2")),
        ("dask[array, dataframe]>=2024.1; python_version >= '3.9'", ("dask", ("array", "dataframe"), ">=2024.1")),
        ("numpy==2.*", ("numpy", (), "==2.*")),
    ],
)
def test_requirements_are_read_as_pip_writes_them(text: str, expected: tuple[str, tuple[str, ...], str]) -> None:
    """Name, extras, versions."""
    found = requirements.parse(text)
    assert (found.name, found.extras, found.specifier) == expected


def test_a_requirement_may_say_where_it_is() -> None:
    """An archive or a repository that the Pod can reach."""
    found = requirements.parse("mine @ git+https://code.example/mine.git@v1 ; sys_platform == 'linux'")
    assert (found.name, found.url, found.marker) == (
        "mine",
        "git+https://code.example/mine.git@v1",
        "sys_platform == 'linux'",
    )


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("numpy=2.0", "write 'numpy==2.0'"),
        ("numpy=>2.0", "write 'numpy>=2.0'"),
        ("numpy 2.0", "write 'numpy==2.0' or 'numpy>=2.0'"),
        ("numpy>two", "'two' is not a comparison"),
        ("numpy; python == 3", "is not a marker such as"),
        ("==2", "write a name and versions"),
        ("", "write a name and versions"),
        ("-e .", "editable install"),
        ("./mine", "on this machine"),
        ("dist/mine-1.0-py3-none-any.whl", "on this machine"),
        ("mine @ file:///srv/mine.whl", "on this machine"),
        ("https://code.example/mine.whl", "'name @ https://...'"),
        ("git+https://code.example/mine", "'name @ git+https://...'"),
        ("requirements.txt", "packages='requirements.txt'"),
        ("pyproject.toml", "in pip's format"),
        ("-r base.txt", "name the file itself"),
    ],
)
def test_what_is_no_requirement_is_refused_with_the_fix(text: str, fix: str) -> None:
    """Each slip says how to write it."""
    with pytest.raises(Refused) as refused:
        requirements.parse(text)
    assert fix in str(refused.value)


# -- files


def test_files_are_read_as_pip_reads_them(tmp_path: Path) -> None:
    """Comments, continued lines, hashes, options, other files, constraints and variables."""
    (tmp_path / "requirements.txt").write_text(
        "# what we need\n"
        "--extra-index-url https://${TOKEN}@pypi.example/simple\n"
        "-r more/base.txt  # and what all need\n"
        "greeting==1.0 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n"
        "\n-c pinned.txt\n"
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("numpy>=2 ; python_version >= '3.8'\n")
    (tmp_path / "pinned.txt").write_text("scipy==1.11\n")
    found = requirements.from_file(str(tmp_path / "requirements.txt"), {"TOKEN": "s3cret"})
    assert found.lines == (
        "--extra-index-url https://s3cret@pypi.example/simple",
        "numpy>=2 ; python_version >= '3.8'",
        "greeting==1.0     --hash=sha256:00     --hash=sha256:11",
    )
    assert found.constraints == ("scipy==1.11",)
    assert [each.name for each in found.parsed] == ["numpy", "greeting"]
    assert found.has_hashes
    assert found.title == "numpy>=2, greeting==1.0"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("numpy\nscipy=1\n", "requirements.txt, line 2: 'scipy=1' is not accepted: the comparisons are"),
        ("-e .\n", "line 1: '-e .' is not accepted: it is on this machine"),
        ("--find-links ./wheels\n", "line 1: '--find-links ./wheels' is not accepted: it is on this machine"),
        ("--frobnicate\n", "kubefunc does not know the option --frobnicate"),
        ("-r requirements.txt\n", "includes itself"),
        ("-r other.txt\n", "requirements.txt, line 1: there is no file"),
        ("# nothing\n", "names no package"),
        ("https://ada:s3cret@x.example/a.whl\n", "'https://****@x.example/a.whl'"),
    ],
)
def test_a_wrong_line_names_file_and_line(tmp_path: Path, content: str, said: str) -> None:
    """Before anything is sent; a password is not shown."""
    (tmp_path / "requirements.txt").write_text(content)
    with pytest.raises(ConfigurationError) as refused:
        requirements.from_file(str(tmp_path / "requirements.txt"), {})
    assert said in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it was looked for, and how to write packages without a file."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigurationError, match=r"there is no file .requirements.txt.*packages=\[.numpy.\]"
    ) as refused:
        requirements.from_file("requirements.txt")
    assert str(tmp_path) in str(refused.value)

"""``.kubefuncignore``: gitignore's syntax, held against git itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kubefunc.packing.ignored import Rules, read_rules

TREE = (
    "pkg/__init__.py",
    "pkg/data/a.csv",
    "pkg/data/b.txt",
    "pkg/data/deep/er/c.csv",
    "pkg/build/out.bin",
    "pkg/sub/build/out.bin",
    "pkg/a[1].txt",
    "pkg/#note",
    "pkg/!bang",
    "pkg/ab.txt",
    "pkg/x y.txt",
)


@pytest.mark.parametrize(
    "lines",
    [
        "*.csv",
        "data/",
        "data",
        "/pkg/data",
        "pkg/data/*.csv",
        "pkg/**/c.csv",
        "**/build/out.bin",
        "pkg/sub/**",
        "/data",
        "*.csv\n!a.csv",
        "!a.csv\n*.csv",
        "a\\[1\\].txt",
        "a[[]1].txt",
        "[a-c]?.txt",
        "[!a]*.txt",
        "[^a]*.txt",
        "[]b]*",
        "a[\\[]1].txt",
        "[[:alpha:]]b.txt",
        "[![:alpha:]_]*",
        "[[:nonsense:]]*",
        "[c-a]b.txt",
        "[ab",
        "a**.txt",
        "pkg/**/**/c.csv",
        "/**",
        "**",
        "!**/*.csv",
        "*\n!*/\n!*.csv",
        "data/**\n!data/a.csv",
        "pkg/data/**\n!pkg/data/a.csv",
        "!",
        "/",
        "\\",
        "x\\ y.txt",
        "ab.txt\\ ",
        "\\#note\n# comment\n\n",
        "\\!bang",
        "build/\n!pkg/sub/build/",
        "x y.txt   ",
        "*",
        "pkg/*\n!pkg/__init__.py",
    ],
)
def test_patterns_mean_what_they_mean_to_git(tmp_path: Path, lines: str) -> None:
    """Each file of a small tree is judged as ``git check-ignore`` judges it."""
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text(lines)
    (tmp_path / ".kubefuncignore").write_text(lines)
    ignored = subprocess.run(
        ["git", "-C", str(tmp_path), "check-ignore", "-z", "--stdin", "--no-index"],
        input="\0".join(TREE),
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split("\0")
    rules = read_rules(str(tmp_path / "pkg"))
    assert {name for name in TREE if stays(name, rules)} == {name for name in ignored if name}


def stays(name: str, rules: Rules) -> bool:
    """Whether the file, or a directory that it is in, is to stay here."""
    parts = name.split("/")[1:]
    directories = ("/".join(parts[:end]) for end in range(1, len(parts)))
    if any(rules.says(each, is_directory=True) is False for each in directories):
        return True
    return rules.says("/".join(parts), is_directory=False) is False


def test_files_nearer_to_the_package_have_the_last_word(tmp_path: Path) -> None:
    """The project is the repository; what lies above it says nothing."""
    package = tmp_path / "repo/src/pkg"
    package.mkdir(parents=True)
    (tmp_path / "repo/.git").mkdir()
    (tmp_path / "repo/src/pyproject.toml").write_text("")
    (tmp_path / ".kubefuncignore").write_text("outside.txt")
    (tmp_path / "repo/.kubefuncignore").write_text("a.txt\nb.txt\n/src/pkg/c.txt")
    (package / ".kubefuncignore").write_text("!b.txt")
    rules = read_rules(str(package))
    found = {name: rules.says(name, is_directory=False) for name in ("outside.txt", "a.txt", "b.txt", "c.txt", "d.txt")}
    assert found == {"outside.txt": None, "a.txt": False, "b.txt": True, "c.txt": False, "d.txt": None}


def test_the_project_is_never_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a package that lies in it, nothing outside of the package counts as the project's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pkg").mkdir()
    (tmp_path / ".git").mkdir()
    assert read_rules(str(tmp_path / "pkg")).project == str(tmp_path / "pkg")

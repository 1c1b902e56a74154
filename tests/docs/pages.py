"""Pages of the documentation as programs.

All executable blocks of a page run in their order, in one process: the page becomes a script with the same line
numbers, so a traceback points into the page. A block says how it runs by its language and by an HTML comment above it:

```python                   runs in the page's one namespace
```bash                     runs in a shell, each line must succeed
```console                  each line that begins with ``$ `` runs; the lines below it are its output, where given
<!-- output -->             above a ```text: what the block before it prints
<!-- cluster -->            runs only when the page is run on the test cluster, which is then done with all of the page
<!-- fresh checkout -->     a bash block that runs alone, in a new copy of this repository
<!-- fresh environment -->  a bash block that runs alone, in a new virtual environment, with this kubefunc as a wheel
<!-- run by .ci/run -->     a bash block that .ci/run contains word for word
<!-- same as PATH -->       a block that holds this file of the repository; it does not run with the page
<!-- printed by PATH -->    above a ```text: what this example prints, compared by tests/examples

``...`` in an expected output stands for anything, and spaces count as one, as in doctest.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXECUTED = ("python", "bash", "console")
SHOWN = ("text", "yaml", "toml", "json")
OUTPUT, CLUSTER, CHECKOUT, CI = "output", "cluster", "fresh checkout", "run by .ci/run"
ENVIRONMENT = "fresh environment"
SAME_AS = "same as "
PRINTED_BY = "printed by "

_FENCE = re.compile(r"(?P<indent> *)```(?P<language>.*)")
_COMMENT = re.compile(r"\s*<!--\s*(?P<mark>.*?)\s*-->\s*")
_HELPER = "_page"


class PageError(AssertionError):
    """The page itself is wrong; the message names the line."""


@dataclass(frozen=True)
class Block:
    """A fenced block. ``line`` is that of its opening fence, from 1; ``end`` that of its closing one."""

    language: str
    mark: str
    text: str
    line: int
    end: int

    @property
    def in_page(self) -> bool:
        """Whether it runs with the rest of its page, as against alone or not at all."""
        return self.language in EXECUTED and self.mark in ("", CLUSTER)


@dataclass(frozen=True)
class Outcome:
    """What a page's script did: what each block printed, by the line of its closing fence."""

    exit_code: int
    printed: Mapping[int, str]
    errors: str


def read_blocks(text: str) -> list[Block]:
    """All fenced blocks of a page.

    Raises:
        PageError: a language or a mark that nobody runs, so that the block would be skipped in silence.
    """
    blocks: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.fullmatch(lines[number])
        if fence is None:
            number += 1
            continue
        end = number + 1
        while end < len(lines) and lines[end].strip() != "```":
            end += 1
        if end == len(lines):
            raise PageError(f"line {number + 1}: the block is never closed")
        content = textwrap.dedent("\n".join(lines[number + 1 : end]))
        block = Block(fence["language"].strip(), _mark_above(lines, number), content, number + 1, end + 1)
        _check_block(block)
        blocks.append(block)
        number = end + 1
    return blocks


def _mark_above(lines: list[str], number: int) -> str:
    above = _COMMENT.fullmatch(lines[number - 1]) if number else None
    return above["mark"] if above else ""


def _check_block(block: Block) -> None:
    where = f"line {block.line}"
    if block.language not in EXECUTED + SHOWN:
        raise PageError(f"{where}: no test runs a block of {block.language!r}: use {', '.join(EXECUTED + SHOWN)}")
    allowed = {
        "": EXECUTED + SHOWN,
        CLUSTER: EXECUTED,
        CHECKOUT: ("bash",),
        ENVIRONMENT: ("bash",),
        CI: ("bash",),
        OUTPUT: ("text",),
    }
    languages = allowed.get(block.mark, ())
    if block.mark.startswith(SAME_AS):
        languages = ("python", *SHOWN)
    elif block.mark.startswith(PRINTED_BY):
        languages = ("text",)
    if block.language not in languages:
        raise PageError(f"{where}: <!-- {block.mark} --> above a {block.language} block means nothing")


def wants_cluster(text: str) -> bool:
    """Whether the page has blocks that only a cluster can run."""
    return any(block.mark == CLUSTER for block in read_blocks(text))


def script(text: str, *, on_cluster: bool) -> str:
    """The page as a Python program of the same line numbers; closing fences become marks in the output."""
    lines = [""] * len(text.splitlines())
    for block in read_blocks(text):
        if not block.in_page or (block.mark == CLUSTER and not on_cluster):
            continue
        if block.language == "python":
            lines[block.line : block.end - 1] = block.text.split("\n")
            lines[block.end - 1] = f"{_HELPER}.end({block.end})"
        else:
            lines[block.end - 1] = f"{_HELPER}.shell({block.end}, {_commands(block)!r})"
    # A page begins with its title: its line is free.
    if lines and lines[0]:
        raise PageError("line 1: a page begins with its title, not with a block")
    return "\n".join([f"import {_HELPER}", *lines[1:], ""])


def _commands(block: Block) -> list[tuple[str, str]]:
    """The shell commands of a block, each with its expected output ("" where none is given)."""
    if block.language == "bash":
        return [(block.text, "")]
    commands: list[tuple[str, str]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), ""))
        elif not commands:
            raise PageError(f"line {block.line}: a console block begins with a command: '$ ...'")
        else:
            command, expected = commands[-1]
            commands[-1] = (command, f"{expected}{line}\n")
    return commands


def run_page(name: str, text: str, directory: Path, env: Mapping[str, str], *, on_cluster: bool) -> Outcome:
    """Run the page in a process of its own, in this empty directory."""
    program = directory / name
    program.write_text(script(text, on_cluster=on_cluster), encoding="utf-8")
    (directory / f"{_HELPER}.py").write_text(HELPER, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, name],
        cwd=directory,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    *finished, rest = re.split(r"\x1e(\d+)\n", result.stdout)
    printed = {int(line): output for output, line in zip(finished[::2], finished[1::2], strict=True)}
    return Outcome(result.returncode, printed, f"{result.stderr}{rest}")


def check_page(text: str, outcome: Outcome, *, on_cluster: bool) -> None:
    """Raise PageError unless all blocks ran and printed what the page says that they print."""
    if outcome.exit_code != 0:
        raise PageError(f"the page ended with exit code {outcome.exit_code}\n{outcome.errors}")
    before: Block | None = None
    for block in read_blocks(text):
        if block.in_page and (on_cluster or block.mark != CLUSTER):
            if block.end not in outcome.printed:
                raise PageError(f"line {block.line}: the block did not run\n{outcome.errors}")
            before = block
        elif block.in_page:
            before = None
        elif block.mark == OUTPUT and before is not None:
            _check_output(block.line, block.text, outcome.printed[before.end])


def _check_output(line: int, expected: str, printed: str) -> None:
    if not same_output(expected, printed):
        raise PageError(f"line {line}: expected\n{textwrap.indent(expected, '  ')}\nbut it printed\n{printed}")


def same_output(expected: str, printed: str) -> bool:
    """Whether the output is as expected, by doctest's rules."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected.strip() + "\n", printed.strip() + "\n", flags)


def fresh_checkout(directory: Path) -> Path:
    """A copy of what git holds of this repository, with the changes of the work tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in os.fsdecode(listed.stdout).split("\0"):
        source = ROOT / name
        if name and source.is_file():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return directory


# Runs beside the page, in its process; on the page's own terms: it must not need anything but the standard library.
HELPER = r"""
import doctest, subprocess, sys

_SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def end(line):
    print(f"\x1e{line}", flush=True)


def shell(line, commands):
    for command, expected in commands:
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        print(result.stdout, end="")
        if result.returncode != 0:
            sys.exit(f"line {line}: {command!r} ended with exit code {result.returncode}\n{result.stdout}")
        printed = result.stdout.strip() + "\n"
        if expected and not doctest.OutputChecker().check_output(expected.strip() + "\n", printed, _SAME):
            sys.exit(f"line {line}: {command!r}: expected\n{expected}\nbut it printed\n{printed}")
    end(line)
"""

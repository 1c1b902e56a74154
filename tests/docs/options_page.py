"""docs/options.md is made of the texts beside the options: ``python -m tests.docs.options_page`` writes it anew."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from kubefunc.options.fields import KINDS
from tests.conftest import ROOT

PAGE = ROOT / "docs/options.md"
_GROUPS = {
    "running": "How it runs",
    "pod": "What the function finds in its Pod",
    "packages": "Packages",
    "network": "Services and gangs",
    "placement": "Where the Pod runs, and with what",
    "results": "Results, output and what stays",
    "advanced": "What most functions need not set",
}
_HEAD = """# Options

<!-- made of the docstrings in kubefunc/options by `python -m tests.docs.options_page` -->

Give options to `@remote(...)`, `.options(...)`, `.map(...)`'s function, `Executor(...)` or
`kubefunc.configure(...)`. Most can be set in the environment as well: `KUBEFUNC_CPU=2`. The later
one in this list wins: built-in, `configure()`, environment, `@remote`, `.options`. The same text is
in `help(kubefunc.Options)`.
"""


def documented(path: Path) -> Iterator[tuple[str, str]]:
    """Each option of a group's module, and the text below it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        for field, below in zip(node.body, node.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                yield field.target.id, str(below.value.value)


def page() -> str:
    """The page."""
    parts = [_HEAD]
    for module, title in _GROUPS.items():
        parts.append(f"\n## {title}\n")
        for name, text in documented(ROOT / f"kubefunc/options/{module}.py"):
            parts.append(f"\n### {name}\n\n*Accepts* {_markdown(KINDS[name].accepts)}.\n\n{_body(text)}\n")
    return "".join(parts)


def _body(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines()]
    marked = re.sub(r"^(Unit|Default|Local): ", r"*\1:* ", "\n".join(lines), flags=re.MULTILINE)
    # A line of its own each, as in the docstring.
    return _markdown(re.sub(r"\n+(\*(?:Default|Local):\*)", r"\n\n\1", marked))


def _markdown(text: str) -> str:
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""Versions and markers as packages write them (PEP 440, PEP 508), as far as a client has to understand them."""

from __future__ import annotations

import ast
import os
import platform
import re
import sys
from collections.abc import Mapping

_VERSION = re.compile(
    r"v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[-_.]?(?P<pre>alpha|beta|preview|pre|a|b|c|rc)[-_.]?(?P<pre_number>\d*))?"
    r"(?P<post>-\d+|[-_.]?(?:post|rev|r)[-_.]?\d*)?"
    r"(?P<dev>[-_.]?dev[-_.]?\d*)?"
    r"(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"\s*(===|~=|==|!=|<=|>=|<|>)\s*([^\s,]+)\s*")
_STAGES = {"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc"}
_FINAL = "z"  # after every stage
# What ``~=`` and ``===`` become, so that Python can parse a marker.
_COMPATIBLE = re.compile(r"(~=|===)")

Key = tuple[int, tuple[int, ...], tuple[str, int], int, float]


class NotAVersion(ValueError):
    """A text that PEP 440 does not accept."""


def key(version: str) -> Key:
    """Something to compare versions by: epoch, release, stage, post-release, development release.

    >>> key("1.10") > key("1.9"), key("2.0rc1") < key("2.0"), key("1.0") == key("1.0.0")
    (True, True, True)

    Raises:
        NotAVersion: it is not one.
    """
    match = _VERSION.fullmatch(version.strip())
    if match is None:
        raise NotAVersion(version)
    release = [int(part) for part in match["release"].split(".")]
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    dev = float(_number(match["dev"])) if match["dev"] else float("inf")
    post = _number(match["post"]) if match["post"] else -1
    if match["pre"]:
        stage = match["pre"].lower()
        pre = (_STAGES.get(stage, stage), int(match["pre_number"] or 0))
    else:  # 1.0.dev1 comes before 1.0a1
        pre = ("", 0) if match["dev"] and not match["post"] else (_FINAL, 0)
    return int(match["epoch"] or 0), tuple(release), pre, post, dev


def _number(text: str) -> int:
    digits = re.sub(r"\D", "", text)
    return int(digits) if digits else 0


def clauses(specifier: str) -> list[tuple[str, str]]:
    """The comparisons of a specifier, operator and version.

    >>> clauses(">=2, <3")
    [('>=', '2'), ('<', '3')]

    Raises:
        NotAVersion: a part of it is wrong; the exception's text is that part.
    """
    found: list[tuple[str, str]] = []
    for part in filter(str.strip, specifier.split(",")):
        match = _CLAUSE.fullmatch(part)
        if match is None:
            raise NotAVersion(part.strip())
        operator, version = match.groups()
        plain = version.removesuffix(".*") if operator in ("==", "!=") else version
        if operator != "===":
            key(plain)
        found.append((operator, version))
    return found


def matches(version: str, specifier: str) -> bool:
    """Whether a version meets a specifier. Pre-releases count as any other: what is installed was chosen.

    >>> matches("2.1.3", ">=2,<3"), matches("2.1.3", "==2.0.*"), matches("2.1.3", "~=2.0")
    (True, False, True)

    Raises:
        NotAVersion: one of them is wrong.
    """
    return all(_holds(version, operator, wanted) for operator, wanted in clauses(specifier))


def _holds(version: str, operator: str, wanted: str) -> bool:
    if operator == "===":
        return version.lower() == wanted.lower()
    if wanted.endswith(".*"):
        is_of_series = _is_of_series(version, wanted.removesuffix(".*"))
        return is_of_series if operator == "==" else not is_of_series
    mine, other = key(version), key(wanted)
    if operator in ("==", "!="):
        same = mine == other and ("+" not in wanted or version.lower() == wanted.lower())
        return same if operator == "==" else not same
    if operator == "~=":
        return mine >= other and _is_of_series(version, wanted.rpartition(".")[0])
    return {"<": mine < other, ">": mine > other, "<=": mine <= other, ">=": mine >= other}[operator]


def _is_of_series(version: str, series: str) -> bool:
    wanted = [int(part) for part in re.findall(r"\d+", series.partition("!")[2] or series)]
    match = _VERSION.fullmatch(version.strip())
    release = [int(part) for part in match["release"].split(".")] if match else []
    return (release + [0] * len(wanted))[: len(wanted)] == wanted


# --- markers


def environment() -> dict[str, str]:
    """The variables of a marker, of this Python on this machine."""
    return {
        "os_name": os.name,
        "sys_platform": sys.platform,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_version": "{}.{}".format(*sys.version_info),
        "python_full_version": platform.python_version(),
        "implementation_name": sys.implementation.name,
        "implementation_version": platform.python_version(),
    }


def applies(marker: str, variables: Mapping[str, str]) -> bool:
    """Whether a marker is true. Its grammar is that of a Python expression, but for ``~=`` and ``===``.

    >>> applies("python_version >= '3.8' and extra == 'test'", {"python_version": "3.11", "extra": ""})
    False

    Raises:
        NotAVersion: it is not a marker.
    """
    operators = _COMPATIBLE.findall(marker)
    try:
        tree = ast.parse(_COMPATIBLE.sub(" is ", marker.strip()), mode="eval").body
        return _truth(tree, variables, operators)
    except (SyntaxError, ValueError, KeyError, TypeError) as error:
        raise NotAVersion(marker) from error


def _truth(node: ast.expr, variables: Mapping[str, str], special: list[str]) -> bool:
    if isinstance(node, ast.BoolOp):
        values = [_truth(each, variables, special) for each in node.values]
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        raise ValueError("neither a comparison nor a combination of some")
    left, right = _text(node.left, variables), _text(node.comparators[0], variables)
    operator = node.ops[0]
    if isinstance(operator, (ast.In, ast.NotIn)):
        return (left in right) == isinstance(operator, ast.In)
    sign = special.pop(0) if isinstance(operator, ast.Is) else _SIGNS[type(operator)]
    try:
        return matches(left, f"{sign}{right}")
    except NotAVersion:
        return _compared(left, sign, right)


_SIGNS: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}


def _compared(left: str, sign: str, right: str) -> bool:
    """As text, which is how platforms and extras are compared."""
    ways = {"==": left == right, "!=": left != right, "<": left < right, "<=": left <= right, ">": left > right}
    return {**ways, ">=": left >= right, "===": left == right}[sign]


def _text(node: ast.expr, variables: Mapping[str, str]) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        return variables[node.id] if node.id != "extra" else variables.get("extra", "")
    raise ValueError("neither a text nor a variable")

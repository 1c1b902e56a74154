"""Which files of a project stay on this machine: names that look like keys, and what ``.kubefuncignore`` says.

Pure but for :func:`read_rules`, which reads the ``.kubefuncignore`` files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

IGNORE_FILE: Final = ".kubefuncignore"

_PROJECT_FILES: Final = ("pyproject.toml", "setup.py", "setup.cfg")
# Compiled when a name is first compared: most projects have code alone, and it takes 2 ms.
_KEY_LIKE: Final = r"""
      id_(rsa|dsa|ecdsa|ed25519).*                            # ssh
    | .*\.(pem|key|ppk|p8|p12|pfx|jks|keystore|kdbx|ovpn)     # private keys and stores of them
    | (.*[-_.])?kubeconfig([-_.].*)? | admin\.conf
    | .*\.(tfstate|tfvars)(\..*)?                             # Terraform writes passwords into both
    | .*\.env | env\.(local|dev|development|prod|production|staging|test)
    | (.*[-_.])?credentials?(\.(json|ya?ml|toml|ini|csv|txt|xml))?
    | (.*[-_.])?secrets?\.(json|ya?ml|toml|ini|csv|txt|env)
    | (.*[-_.])?client[-_]secrets?.*\.json | (.*[-_.])?service[-_]?account([-_].*)?\.json
    | (.*[-_.])?passwords?(\.(json|ya?ml|toml|ini|csv|txt))? | (.*[-_.])?token\.(json|txt)
    | _netrc | htpasswd | secring\..* | master\.key
    """
# Alternatives of gitignore's syntax, longest first.
_TOKEN: Final = re.compile(
    r"(?P<deep>\A\*\*/|/\*\*/)|(?P<below>/\*\*\Z)|(?P<all>\A\*\*\Z)|\*+|\?|"
    r"\[(?P<negated>[!^]?)(?P<members>\]?(?:\\.|\[:[a-z]*:\]|[^]\\])*)\]|\\.|.",
    re.DOTALL,
)
_MEMBER: Final = re.compile(r"\[:(?P<named>[a-z]*):\]|(?P<first>\\.|.)(?:-(?P<last>\\.|[^]]))?", re.DOTALL)
_NOTHING: Final = "(?!)"
# POSIX' names for characters, as far as they are of ASCII.
_NAMED: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": " \\t",
    "cntrl": "\\x00-\\x1f\\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \\t\\n\\r\\f\\v",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


def is_key_like(name: str) -> bool:
    """Whether a file of this name probably holds a key or a password.

    >>> [is_key_like(name) for name in ("id_rsa", "server.pem", "prod.env", "tokenizer.json", "keys.txt")]
    [True, True, True, False, False]
    """
    return re.fullmatch(_KEY_LIKE, name, re.VERBOSE | re.IGNORECASE) is not None


@dataclass(frozen=True)
class Pattern:
    """One line of an ignore file.

    Attributes:
        regex: for paths below the file.
        prefix: leads from the file to the package.
        negated: what matches travels; else it stays here.
        directories_only: it speaks of directories alone.
        where: the file, the line's number, and the line.
    """

    regex: re.Pattern[str]
    prefix: str
    negated: bool
    directories_only: bool
    where: str = ""

    def matches(self, path: str, *, is_directory: bool) -> bool:
        """Whether it speaks of this path."""
        if self.directories_only and not is_directory:
            return False
        return self.regex.fullmatch(self.prefix + path) is not None


@dataclass(frozen=True)
class Rules:
    """The ``.kubefuncignore`` files that apply to one package.

    Attributes:
        project: the real path of the project's directory; links that lead out of it are not followed.
    """

    project: str
    _patterns: tuple[Pattern, ...] = ()

    def says(self, path: str, *, is_directory: bool) -> bool | None:
        """True: travels. False: stays here. None: no line speaks of it. As in git the last matching line decides.

        Args:
            path: below the package's directory, with ``/``.
            is_directory: whether it is one.
        """
        decided = self.decides(path, is_directory=is_directory)
        return None if decided is None else decided.negated

    def decides(self, path: str, *, is_directory: bool) -> Pattern | None:
        """The line that speaks of it."""
        matching = (each for each in reversed(self._patterns) if each.matches(path, is_directory=is_directory))
        return next(matching, None)

    def contains(self, path: str) -> bool:
        """Whether a real path lies in the project, and neither hidden nor under a name like a key's."""
        if not path.startswith(self.project + os.sep):
            return False
        parts = path[len(self.project) + 1 :].split(os.sep)
        return not any(part.startswith(".") or is_key_like(part) for part in parts)


def read_rules(directory: str) -> Rules:
    """The rules for the package in this directory, from its project's directory downwards.

    Raises:
        OSError: an ignore file is there and cannot be read.
    """
    real = os.path.realpath(directory)
    project = _project(real)
    patterns: list[Pattern] = []
    for place in _between(project, real):
        prefix = "" if place == real else os.path.relpath(real, place).replace(os.sep, "/") + "/"
        patterns += _patterns(place, prefix)
    return Rules(project, tuple(patterns))


def _project(package: str) -> str:
    """The repository around the package; without one the project by its packaging; else the directory it lies in."""
    home = os.path.realpath(os.path.expanduser("~"))
    packaged = ""
    place = os.path.dirname(package)
    while place not in (home, os.path.dirname(place)):
        if os.path.exists(os.path.join(place, ".git")):
            return place
        if not packaged and any(os.path.exists(os.path.join(place, name)) for name in _PROJECT_FILES):
            packaged = place
        place = os.path.dirname(place)
    if packaged:
        return packaged
    parent = os.path.dirname(package)
    return package if parent in (home, os.path.dirname(parent)) else parent


def _between(top: str, bottom: str) -> list[str]:
    places = [bottom]
    while places[-1] not in (top, os.path.dirname(places[-1])):
        places.append(os.path.dirname(places[-1]))
    return places[::-1]


def _patterns(place: str, prefix: str) -> Iterator[Pattern]:
    file = os.path.join(place, IGNORE_FILE)
    try:
        with open(file, encoding="utf-8") as content:
            lines = content.read().splitlines()
    except FileNotFoundError:
        return
    for number, line in enumerate(lines, 1):
        pattern = _pattern(line, prefix, f"{file}, line {number}: {line.strip()}")
        if pattern is not None:
            yield pattern


def _pattern(line: str, prefix: str, where: str = "") -> Pattern | None:
    """A line of gitignore's syntax; None for a comment.

    >>> found = _pattern("!data/*.pem", "src/shop/")
    >>> found.negated, found.matches("data/ca.pem", is_directory=False)
    (True, False)
    >>> _pattern("src/shop/data/*.pem", "src/shop/").matches("data/ca.pem", is_directory=False)
    True
    """
    text = line.rstrip() if not line.rstrip().endswith("\\") else line.rstrip() + " "
    if not text or text.startswith("#"):
        return None
    negated = text.startswith("!")
    text = text[negated:]
    directories_only = text.endswith("/")
    text = text.rstrip("/")
    is_anchored = "/" in text
    body = "".join(map(_translated, _TOKEN.finditer(text.removeprefix("/"))))
    regex = re.compile(body if is_anchored else f"(?:.*/)?{body}", re.DOTALL)
    return Pattern(regex, prefix, negated, directories_only, where)


def _translated(token: re.Match[str]) -> str:
    text = token.group()
    if token["deep"]:
        return "(?:.*/)?" if text.startswith("*") else "/(?:.*/)?"
    if token["below"]:
        return "/.*"
    if token["all"]:
        return ".*"
    if text.startswith("*"):
        return "[^/]*"
    if text == "?":
        return "[^/]"
    if token["members"] is not None:
        return _any_of(token["members"], token["negated"])
    if text == "[":  # it is not closed
        return _NOTHING
    return re.escape(text[1:] if len(text) == 2 else text)


def _any_of(members: str, negated: str) -> str:
    """A regular expression for one character of these, or for one that is not among them. It is never a slash."""
    parts: list[str] = []
    for member in _MEMBER.finditer(members):
        if member["named"] is not None:
            if member["named"] not in _NAMED:
                return _NOTHING
            parts.append(_NAMED[member["named"]])
            continue
        first = member["first"][-1]
        last = (member["last"] or first)[-1]
        # As in git, a range that is written backwards stands for its first character.
        parts.append(f"{re.escape(first)}-{re.escape(last)}" if first <= last else re.escape(first))
    if not parts:
        return "[^/]" if negated else _NOTHING
    return f"(?!/)[{'^' if negated else ''}{''.join(parts)}]"

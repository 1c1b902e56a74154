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
_KEY_LIKE: Final = re.compile(
    r"""
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
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Alternatives of gitignore's syntax, longest first.
_TOKEN: Final = re.compile(r"(?P<deep>\A\*\*/|/\*\*/)|(?P<below>/\*\*\Z)|\*+|\?|\[[^\]/]+\]|\\.|.", re.DOTALL)


def is_key_like(name: str) -> bool:
    """Whether a file of this name probably holds a key or a password.

    >>> [is_key_like(name) for name in ("id_rsa", "server.pem", "prod.env", "tokenizer.json", "keys.txt")]
    [True, True, True, False, False]
    """
    return _KEY_LIKE.fullmatch(name) is not None


@dataclass(frozen=True)
class _Pattern:
    """One line of an ignore file: for paths below the package, ``prefix`` leads from the file to the package."""

    regex: re.Pattern[str]
    prefix: str
    negated: bool
    directories_only: bool

    def matches(self, path: str, *, is_directory: bool) -> bool:
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
    _patterns: tuple[_Pattern, ...] = ()

    def says(self, path: str, *, is_directory: bool) -> bool | None:
        """True: travels. False: stays here. None: no line speaks of it. As in git the last matching line decides.

        Args:
            path: below the package's directory, with ``/``.
            is_directory: whether it is one.
        """
        for pattern in reversed(self._patterns):
            if pattern.matches(path, is_directory=is_directory):
                return pattern.negated
        return None

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
    patterns: list[_Pattern] = []
    for place in _between(project, real):
        prefix = "" if place == real else os.path.relpath(real, place).replace(os.sep, "/") + "/"
        patterns += (pattern for line in _lines(place) if (pattern := _pattern(line, prefix)) is not None)
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


def _lines(place: str) -> Iterator[str]:
    try:
        with open(os.path.join(place, IGNORE_FILE), encoding="utf-8") as file:
            yield from file.read().splitlines()
    except FileNotFoundError:
        return


def _pattern(line: str, prefix: str) -> _Pattern | None:
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
    return _Pattern(regex, prefix, negated, directories_only)


def _translated(token: re.Match[str]) -> str:
    text = token.group()
    if token["deep"]:
        return "(?:.*/)?" if text.startswith("*") else "/(?:.*/)?"
    if token["below"]:
        return "/.*"
    if text.startswith("*"):
        return "[^/]*"
    if text == "?":
        return "[^/]"
    if len(text) > 2 and text.startswith("["):
        inner = text[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        return f"[^{inner[1:]}]" if inner.startswith("!") else f"[{inner}]"
    return re.escape(text[1:] if len(text) == 2 else text)

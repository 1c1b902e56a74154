"""What ``packages=`` may hold: requirements as pip writes them (PEP 508), and files of them. Checked here, so that a
wrong one names itself before anything is sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kubefunc.errors import ConfigurationError
from kubefunc.options.kind import Refused
from kubefunc.options.parsers.versions import NotAVersion, applies, clauses, environment

T = TypeVar("T")

_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9._]*[A-Za-z0-9])?"
_REQUIREMENT = re.compile(rf"(?P<name>{_NAME})\s*(?:\[(?P<extras>[^\]]*)\])?\s*(?P<rest>.*)", re.DOTALL)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_ONE_EQUALS = re.compile(r"(?<![=!<>~])=(?![=])\s*\d|=[<>~]")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_COMMENT = re.compile(r"(^|\s+)#.*$")
_OPTION_OF_REQUIREMENT = re.compile(r"\s--(?:hash|config-settings?|global-option)\b.*$")
_OPTION = re.compile(r"(-[a-zA-Z]|--[a-z-]+)(?:\s*=\s*|\s+)?(.*)")
# Options of requirement files that mean the same in the Pod.
_PASSED_ON = frozenset(
    "-i --index-url --extra-index-url --no-index -f --find-links --no-binary --only-binary --pre --prefer-binary "
    "--require-hashes --trusted-host".split()
)
_HERE_ONLY = (
    "it is on this machine, and the Pod cannot read it. Your own code is sent automatically and needs no entry here; "
    "for a wheel, give the URL of an index or of the wheel: 'name @ https://...'"
)


@dataclass(frozen=True)
class Requirement:
    """One requirement.

    Attributes:
        text: as it was written.
        name: in its canonical form, ``scikit-learn``.
        extras: the optional parts that are asked for.
        specifier: which versions, such as ``>=2,<3``; empty: any.
        url: where it is, instead of on an index.
        marker: when it is needed; empty: always.
    """

    text: str
    name: str
    extras: tuple[str, ...] = ()
    specifier: str = ""
    url: str = ""
    marker: str = ""

    def is_needed_here(self) -> bool:
        """Whether its marker holds on this machine."""
        return not self.marker or applies(self.marker, environment())


@dataclass(frozen=True)
class Sent:
    """Packages that are sent from this machine, as an archive.

    Attributes:
        path: of the archive here.
        size: bytes of it.
        names: names and versions in it, for people.
        pinned: what to install instead where it does not fit, and all else that belongs to it.
        machine: the processor that it fits, such as ``x86_64``; empty: any.
        glibc: the oldest C library that it fits; None: any.
    """

    path: str
    size: int
    names: tuple[str, ...]
    pinned: tuple[str, ...]
    machine: str = ""
    glibc: tuple[int, int] | None = None


@dataclass(frozen=True)
class Requirements:
    """All that an installer is given.

    Attributes:
        lines: of a requirements file: requirements and options.
        parsed: the requirements among them.
        constraints: lines of a constraints file.
        sent: what comes from this machine instead.
        why: why they are installed where packages could be sent, for people; empty where nobody asks.
    """

    lines: tuple[str, ...]
    parsed: tuple[Requirement, ...]
    constraints: tuple[str, ...] = ()
    sent: Sent | None = None
    why: str = ""

    @property
    def has_hashes(self) -> bool:
        """Whether the installer must insist on a hash for each package."""
        return any("--hash" in line or "--require-hashes" in line for line in self.lines)

    @property
    def title(self) -> str:
        """Some of the names, for people. URLs may hold a password."""
        shown = [f"{each.name}{each.specifier.replace(' ', '')}" for each in self.parsed]
        return ", ".join(shown) if len(shown) <= 8 else f"{', '.join(shown[:7])} and {len(shown) - 7} more"


def canonical(name: str) -> str:
    """The one spelling of a distribution's name.

    >>> canonical("Scikit_Learn")
    'scikit-learn'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str) -> Requirement:
    """One requirement, checked.

    >>> parse("numpy[dev] >= 2, <3; python_version >= '3.9'").specifier
    '>= 2, <3'

    Raises:
        Refused: it is not one; the message says how to write it.
    """
    text = text.strip()
    _refuse_local(text)
    match = _REQUIREMENT.fullmatch(text)
    if match is None:
        raise Refused("write a name and versions as pip does: 'numpy', 'numpy>=2', 'numpy>=2,<3'")
    name, rest = match["name"], match["rest"]
    extras = tuple(extra.strip() for extra in (match["extras"] or "").split(",") if extra.strip())
    if rest.startswith("@"):
        url, marker = _at_url(rest[1:].strip())
        return Requirement(text, canonical(name), extras, url=url, marker=_marker(marker))
    specifier, _, marker = rest.partition(";")
    specifier = specifier.strip().removeprefix("(").removesuffix(")")
    try:
        clauses(specifier)
    except NotAVersion as error:
        raise Refused(_wrong_version(text, name, str(error))) from None
    return Requirement(text, canonical(name), extras, specifier.strip(), marker=_marker(marker))


def _refuse_local(text: str) -> None:
    if text.startswith(("-e ", "-e=", "--editable")):
        raise Refused(f"an editable install cannot be sent: {_HERE_ONLY}")
    if text.startswith(("-r", "--requirement", "-c", "--constraint")):
        raise Refused("name the file itself, without a list: packages='requirements.txt'. It may contain -r and -c")
    if text.startswith((".", "/", "~", "file:")):
        raise Refused(_HERE_ONLY)
    if text.startswith("git+"):
        raise Refused("write the name before the URL: 'name @ git+https://...' (the image needs git)")
    if _URL.match(text):
        raise Refused("write the name before the URL: 'name @ https://...'")
    if text.endswith((".whl", ".tar.gz", ".zip")) and "@" not in text:
        raise Refused(_HERE_ONLY)
    if text.endswith((".txt", ".in")):
        raise Refused(f"it looks like a file: write packages={text!r}, without a list")
    if text.endswith((".toml", ".lock", ".yml", ".yaml")):
        raise Refused("only files in pip's format can be read: packages='requirements.txt'")


def _at_url(text: str) -> tuple[str, str]:
    """The URL behind ``@``, and the marker behind it."""
    url, _, marker = text.partition(" ;")
    url = url.strip()
    if url.startswith(("file:", ".", "/")):
        raise Refused(_HERE_ONLY)
    if not _URL.match(url):
        raise Refused("a URL stands after '@': 'name @ https://...'")
    return url, marker


def _wrong_version(text: str, name: str, part: str) -> str:
    if _ONE_EQUALS.search(text):
        operator = ">=" if "=>" in part else "<=" if "=<" in part else "=="
        return f"the comparisons are ==, >=, <=, >, <, != and ~=: write '{name}{operator}{_digits(part)}'"
    if part[:1].isdigit():
        return f"a comparison is missing: write '{name}=={part}' or '{name}>={part}'"
    return f"{part!r} is not a comparison with a version, such as '>=2.0'"


def _digits(part: str) -> str:
    return re.sub(r"[^0-9.]", "", part) or "2.0"


def _marker(text: str) -> str:
    text = text.strip()
    if text:
        try:
            applies(text, environment())
        except NotAVersion:
            raise Refused(f"{text!r} is not a marker such as python_version >= '3.10'") from None
    return text


# --- files


def from_list(requirements: Sequence[str]) -> Requirements:
    """Of an option that is a list, whose parts were checked."""
    return Requirements(tuple(requirements), tuple(parse(each) for each in requirements))


def from_file(path: str, environ: Mapping[str, str] = os.environ) -> Requirements:
    """Of a requirements file as pip reads it, with the files that it names.

    Raises:
        ConfigurationError: it cannot be read, or a line is wrong; the message has file and line.
    """
    lines: list[str] = []
    parsed: list[Requirement] = []
    constraints: list[str] = []
    for at, text in _lines(Path(path), environ, f"packages={path!r}", frozenset(), "requirement"):
        if at.kind == "constraint":
            constraints.append(text)
            continue
        lines.append(text)
        if not text.startswith("-"):
            parsed.append(_checked(at, text, lambda text: parse(_OPTION_OF_REQUIREMENT.sub("", text))))
    if not parsed:
        raise ConfigurationError(f"packages={path!r}: the file names no package.")
    return Requirements(tuple(lines), tuple(parsed), tuple(constraints))


@dataclass(frozen=True)
class _At:
    """Where a line stands, and whether it only constrains versions."""

    path: Path
    number: int
    kind: str


def _lines(
    path: Path, environ: Mapping[str, str], named_by: str, above: frozenset[Path], kind: str
) -> Iterator[tuple[_At, str]]:
    real = path.resolve()
    if real in above:
        raise ConfigurationError(f"{named_by}: {path} includes itself.")
    for number, line in _logical_lines(_content(path, named_by)):
        at = _At(path, number, kind)
        text = _VARIABLE.sub(lambda match: environ.get(match[1], match[0]), line)
        option = _OPTION.fullmatch(text) if text.startswith("-") else None
        if option is None:
            yield at, text
        elif option[1] in ("-r", "--requirement", "-c", "--constraint"):
            below = "constraint" if option[1] in ("-c", "--constraint") else kind
            other = path.parent / option[2].strip()
            yield from _lines(other, environ, f"{path}, line {number}", above | {real}, below)
        else:
            yield at, _checked(at, text, _known_option)


def _known_option(text: str) -> str:
    option = _OPTION.fullmatch(text)
    name, value = (option[1], option[2]) if option else (text, "")
    if name in ("-e", "--editable") or (name in ("-f", "--find-links") and not _URL.match(value)):
        raise Refused(_HERE_ONLY)
    if name not in _PASSED_ON:
        raise Refused(f"kubefunc does not know the option {name}")
    return text


def _checked(at: _At, text: str, check: Callable[[str], T]) -> T:
    try:
        return check(text)
    except Refused as refused:
        raise ConfigurationError(
            f"{at.path}, line {at.number}: {_without_password(text)!r} is not accepted: {refused.why}."
        ) from None


def _without_password(text: str) -> str:
    return re.sub(r"://[^/\s@]+@", "://****@", text)


def _content(path: Path, named_by: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(
            f"{named_by}: there is no file {str(path)!r} (the current directory is {Path.cwd()}). For packages without "
            "a file, write a list: packages=['numpy']."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{named_by}: {path} cannot be read: {error}.") from None


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, with those that a backslash continues joined; the number of the first one."""
    joined, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        if line.endswith("\\"):
            joined += line[:-1]
            continue
        whole = _COMMENT.sub("", joined + line).strip()
        if whole:
            yield start, whole
        joined, start = "", 0
    if joined.strip():
        yield start, joined.strip()

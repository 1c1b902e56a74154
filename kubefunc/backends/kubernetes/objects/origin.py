"""Who makes a call, and with what: for the labels by which people find their own Jobs."""

from __future__ import annotations

import functools
import getpass
import hashlib
import os
import re
import socket
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Final

_LONGEST: Final = 63
_HASH: Final = 8
_NOT_IN_LABELS: Final = re.compile(r"[^A-Za-z0-9._-]+")
_ENDS: Final = "._-"


@dataclass(frozen=True)
class Origin:
    """A client of the cluster. What is not known is empty.

    Attributes:
        user: the name on the client's machine: not checked by anybody.
        program: the script's or module's name.
        host: the client's machine.
    """

    user: str = ""
    program: str = ""
    host: str = ""


NOBODY: Final = Origin()


@functools.cache  # a process has one
def origin_here() -> Origin:
    """That of this process."""
    return Origin(
        _user(), program_name(sys.argv, sys.modules.get("__main__"), interactive=hasattr(sys, "ps1")), _host()
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user id has no name
        return f"uid-{os.getuid()}" if hasattr(os, "getuid") else ""


def _host() -> str:
    try:
        return socket.gethostname()
    except OSError:
        return ""


def program_name(argv: list[str], main: ModuleType | None, *, interactive: bool) -> str:
    """What a person calls the running program.

    >>> program_name(["/srv/jobs/train.py", "--fast"], None, interactive=False)
    'train.py'
    >>> program_name(["-c"], None, interactive=False), program_name([""], None, interactive=True)
    ('python -c', 'interactive')
    """
    if interactive or "ipykernel" in sys.modules:
        return "notebook" if "ipykernel" in sys.modules else "interactive"
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:  # python -m package
        return str(spec.name).removesuffix(".__main__")
    script = argv[0] if argv else ""
    return "python -c" if script == "-c" else os.path.basename(script)


def label_value(text: str) -> str:
    """A text as the value of a label: 63 letters, digits, ``-``, ``_`` and ``.``; what is cut ends in a hash.

    >>> label_value("Trainer.fit.<locals>.<lambda>"), label_value("DOMAIN\\\\ada")
    ('Trainer.fit._locals_._lambda', 'DOMAIN_ada')
    >>> label_value("x" * 80)[50:], label_value("обучить")
    ('xxxx-d929cdee', '64694afb')
    """
    value = _NOT_IN_LABELS.sub("_", text).strip(_ENDS)
    if text and (not value or len(value) > _LONGEST):
        digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:_HASH]
        begin = value[: _LONGEST - _HASH - 1].rstrip(_ENDS)
        return f"{begin}-{digest}" if begin else digest
    return value

"""Where the Python of a Pod's containers is: the courier uses the one that ``main`` is given. Pure."""

from __future__ import annotations

import copy
import posixpath
import re
from typing import cast

from kubefunc.backends.kubernetes.objects.template import Json, items

PYTHON = "python3"
_PYTHON_NAME = re.compile(r"(?:python|pypy)[\d.]*t?")
_SHELL_SEPARATORS = re.compile(r"[\s\"'`;&|()<>]+")
_USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def share_python(main: Json, courier: Json, archive: str) -> None:
    """Let the courier find its Python, and the programs that exec starts beside it, where ``main`` finds its own.

    Args:
        main: the container; its variable ``PATH`` and the interpreter in its command count.
        courier: the container that is changed, where it does not say otherwise itself.
        archive: the path of the program that both run: the interpreter stands before it.
    """
    _share_interpreter(main, courier, archive)
    variables = items(courier.get("env") or [], "pod_template: env of courier")
    path = next((each for each in _environment(main) if each.get("name") == "PATH"), None)
    if path is not None and all(each.get("name") != "PATH" for each in variables):
        courier["env"] = [*variables, copy.deepcopy(path)]


def _share_interpreter(main: Json, courier: Json, archive: str) -> None:
    interpreter = interpreter_of(main, archive)
    command = cast("list[str]", courier.get("command") or [""])
    if interpreter == PYTHON or command[0] != PYTHON:
        return
    courier["command"] = [interpreter, *command[1:]]
    folder = posixpath.dirname(interpreter)
    if folder:
        variables = items(courier.get("env") or [], "pod_template: env of courier")
        courier["env"] = [*variables, {"name": "PATH", "value": f"{folder}:{_USUAL_PATH}"}]


def interpreter_of(container: Json, archive: str) -> str:
    """The interpreter in a container's command: the last word before the program that names a Python.

    It may stand inside a shell's script; a wrapper of another name counts by its full path.

    >>> command = ["tini", "--", "/opt/conda/bin/python", "-X", "dev", "/in/program.pyz", "main"]
    >>> interpreter_of({"command": command}, "/in/program.pyz")
    '/opt/conda/bin/python'
    >>> interpreter_of({"command": ["sh", "-c", 'pypy3.11 "$0" "$1"; exit $?', "/in/program.pyz"]}, "/in/program.pyz")
    'pypy3.11'
    """
    parts = (container.get("command"), container.get("args"))
    words = [str(word) for part in parts for word in cast("list[object]", part or [])]
    before = words[: words.index(archive)] if archive in words else []
    named = [word for text in before for word in _SHELL_SEPARATORS.split(text) if _names_python(word)]
    if named:
        return named[-1]
    last = before[-1] if before else ""
    return last if last.startswith("/") and _SHELL_SEPARATORS.search(last) is None else PYTHON


def _names_python(word: str) -> bool:
    return "$" not in word and _PYTHON_NAME.fullmatch(posixpath.basename(word)) is not None


def _environment(container: Json) -> list[Json]:
    return items(container.get("env") or [], "pod_template: env of main")

"""What an exception says of the place where it was raised: a module, a variable or a file that is not there."""

from __future__ import annotations

import os

from kubefunc.runner.execution import exceptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

MODULE, VARIABLE, FILE = "module", "variable", "file"
_LONGEST = 500  # characters of an exception's text


def missing_here(error: BaseException) -> dict[str, str]:
    """The first thing in the exception's chain that this place lacks: its kind and its name. Else nothing."""
    for each in exceptions.chain(error):
        kind = type(each)
        if issubclass(kind, ModuleNotFoundError):
            found, name = MODULE, vars(ImportError)["name"].__get__(each)
        elif issubclass(kind, FileNotFoundError):
            found, name = FILE, vars(OSError)["filename"].__get__(each)
        elif kind is KeyError and _is_of_environ(each):
            found, name = VARIABLE, each.args[0]
        else:
            continue
        if type(name) is str:
            return {found: name}
    return {}


def told(error: BaseException) -> str:
    """Type and text of an exception, and the line that raised it: ``KeyError: 'REGION' (shop.py, line 3)``."""
    said = f"{exceptions.type_name(type(error))}: {exceptions.text_of(error)}"
    said = said if len(said) <= _LONGEST else said[:_LONGEST] + "..."
    lines = [
        f" ({os.path.basename(frame.f_code.co_filename)}, line {line})"
        for frame, line in _frames(error)
        if not _is_of_python(frame)
    ]
    return said + (lines[-1] if lines else "")


def _is_of_environ(error: BaseException) -> bool:
    """Whether ``os.environ[...]`` has raised it."""
    last = [frame for frame, _ in _frames(error)][-1:]
    return bool(last) and last[0].f_globals.get("__name__") == "os" and last[0].f_code.co_name == "__getitem__"


def _is_of_python(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__"))
    return module == "os" or module.startswith(("importlib", "kubefunc.runner")) or "<" in frame.f_code.co_filename


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    trace = exceptions.get_field(error, "__traceback__")
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next

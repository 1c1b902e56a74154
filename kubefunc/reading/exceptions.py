"""The exception that a function raised, made again with its chain, its notes and its traceback."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from kubefunc import errors
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.reading.unpickling import loads
from kubefunc.runner.execution.exceptions import get_field, members_of, set_field


def completed(known: Diagnosis, reason: str, message: str, advice: str, **facts: Any) -> Diagnosis:
    """What is known of a call, with what came of it."""
    return dataclasses.replace(known, reason=reason, message=message, advice=advice, phase=Phase.FINISHED, **facts)


def rebuilt(header: Mapping[str, Any], body: memoryview, diagnosis: Diagnosis) -> BaseException:
    """The raised exception with its chain and notes, the remote traceback at the deepest end."""
    nodes = header["nodes"]
    built = [_node_exception(node, body, diagnosis) for node in nodes]
    for node, error in zip(nodes, built, strict=True):
        _link_members(node, error, built)
    for node, error in zip(nodes, built, strict=True):
        if node["cause"] is not None:
            set_field(error, "__cause__", built[node["cause"]])
        if node["context"] is not None:
            set_field(error, "__context__", built[node["context"]])
        set_field(error, "__suppress_context__", bool(node["suppress"]))
        _set_notes(error, node["notes"])
    _hang_traceback(built[0], str(header["traceback"]))
    return built[0]


def _node_exception(node: Mapping[str, Any], body: memoryview, diagnosis: Diagnosis) -> BaseException:
    if node["at"] is not None:
        start, size = node["at"]
        with contextlib.suppress(BaseException):  # whatever it is, the text below says all that is known
            loaded = loads(body[start : start + size])
            if isinstance(loaded, BaseException):
                return loaded
    told = completed(
        diagnosis,
        "ExceptionUnreadable",
        f"The function raised {node['type']}: {node['message']} (the exception itself cannot be pickled).",
        "Give the exception plain attributes, or define it in a module that both sides can import.",
    )
    return errors.SerializationError(str(told), diagnosis=told)


def _link_members(node: Mapping[str, Any], error: BaseException, built: list[BaseException]) -> None:
    """The members of an ExceptionGroup were pickled inside it: put these, which get their chains, into our list."""
    members = members_of(error)
    for number, member in zip(node["members"], members, strict=False):
        built[number] = member


def _set_notes(error: BaseException, notes: list[str]) -> None:
    if notes:
        get_field(error, "__dict__")["__notes__"] = list(notes)


def _hang_traceback(error: BaseException, text: str) -> None:
    if not text:
        return
    deepest = error
    seen = {id(error)}
    while (below := _below(deepest)) is not None and id(below) not in seen:
        seen.add(id(below))
        deepest = below
    set_field(deepest, "__cause__", errors.RemoteTraceback(with_source_lines(text)))


_FRAME = re.compile(r'(?P<indent>[ |+-]*)File "(?P<file>[^"]+)", line (?P<number>\d+), in ')


def with_source_lines(text: str) -> str:
    """A traceback with the lines of source that are known here alone: of a script, a notebook, a REPL's input.

    What a frame's own side could show is left as it is.

    >>> import linecache
    >>> linecache.cache["<a cell>"] = (5, None, ["1 / 0"], "<a cell>")
    >>> print(with_source_lines('  File "<a cell>", line 1, in f'))
      File "<a cell>", line 1, in f
        1 / 0
    """
    import linecache

    lines = text.split("\n")
    whole: list[str] = []
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        whole.append(line)
        frame = _FRAME.match(line)
        if frame is None or below.startswith(frame["indent"] + "  "):
            continue
        source = linecache.getline(frame["file"], int(frame["number"])).strip()
        if source:
            whole.append(f"{frame['indent']}  {source}")
    return "\n".join(whole)


def _below(error: BaseException) -> BaseException | None:
    cause: BaseException | None = get_field(error, "__cause__")
    if cause is not None:
        return cause
    context: BaseException | None = get_field(error, "__context__")
    return None if get_field(error, "__suppress_context__") else context

"""One attempt, in the forked child: unpickle, call, pickle what came of it.

The child writes the body to a file and tells the supervisor the rest through a pipe, in frames of a letter, a length
and bytes: ``S`` the function starts now, ``F`` it has ended (JSON: the envelope's header as far as the child knows it).
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sys
import time
from types import CoroutineType, ModuleType

from kubefunc.runner import (
    CODE_EXIT,
    CODE_LOAD,
    CODE_UNPICKLABLE,
    ENV_ATTEMPT,
    ENV_CALL,
    ENV_NESTED,
    ERROR,
    RAISED,
    VALUE,
    exceptions,
    wire,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FRAME_START = b"S"
FRAME_FINISH = b"F"


class HashingFile:
    """A file for pickle to write to, that knows the size and digest of what went through it."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "wb", buffering=0)
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        self._digest.update(data)
        view = memoryview(data).cast("B")
        while view:
            view = view[self._file.write(view) :]
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes

    def close(self) -> dict[str, object]:
        self._file.close()
        return {"size": self.size, "sha256": self._digest.hexdigest()}


def run(spec: dict[str, Any], attempt: int, payload: bytes, body: str, frames: int) -> None:
    """Run the call and report it: the body at the path ``body``, frames to the descriptor ``frames``."""
    _prepare(spec, attempt)
    try:
        function, args, kwargs, retry_exceptions = _load(spec, payload)
    except BaseException as error:
        header = _raised(error, body)
        _finish(
            frames, {**header, "outcome": ERROR, "code": CODE_LOAD, "detail": _missing_module(error), "retry": False}
        )
        return
    started = time.time()
    _send(frames, FRAME_START, b"")
    try:
        value = function(*args, **kwargs)
        if type(value) is CoroutineType:
            import asyncio

            value = asyncio.run(value)
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        detail = {"type": exceptions.type_name(type(error)), "exit_code": getattr(error, "code", None)}
        if not isinstance(detail["exit_code"], (int, type(None))):
            detail["exit_code"], detail["text"] = 1, str(detail["exit_code"])
        header = {**_raised(error, body), "outcome": ERROR, "code": CODE_EXIT, "detail": detail, "retry": False}
    except BaseException as error:
        _add_ways_out(error)
        header = {**_raised(error, body), "retry": isinstance(error, retry_exceptions)}
    else:
        header = _value(value, body)
    _finish(frames, {**header, "started": started})


def _prepare(spec: dict[str, Any], attempt: int) -> None:
    os.environ[ENV_CALL] = spec["call"]
    os.environ[ENV_ATTEMPT] = str(attempt)
    if spec.get("nested"):
        os.environ[ENV_NESTED] = "1"
    sys.argv = [spec["function"]]
    # What the caller defined in its __main__ arrives by value; this program's own __main__ is not theirs.
    sys.modules["__main__"] = ModuleType("__main__")


def _load(spec: dict[str, Any], payload: bytes) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]:
    code, call = wire.split_payload(payload)
    if code:
        _unpack(code, spec["call"])
    reference, args, kwargs, retry_exceptions = pickle.loads(call)
    return _resolve(reference), args, kwargs, retry_exceptions


def _unpack(code: bytes, call: str) -> None:
    """Put the caller's modules on disk: package data and __file__ work there as at home."""
    import io
    import tempfile
    import zipfile

    where = os.path.join(tempfile.gettempdir(), f"kubefunc-{call}")
    with zipfile.ZipFile(io.BytesIO(code)) as archive:
        archive.extractall(where)
    sys.path.insert(0, where)


def _resolve(reference: tuple[Any, ...]) -> Callable[..., Any]:
    if reference[0] == "value":
        function = reference[1]
    else:
        import importlib

        function = importlib.import_module(reference[1])
        for name in reference[2].split("."):
            function = getattr(function, name)
    return function  # type: ignore[no-any-return]


def _value(value: object, body: str) -> dict[str, Any]:
    try:
        return {"outcome": VALUE, **_dump(value, body)}
    except Exception as error:
        from kubefunc.runner.culprit import find_unpicklable

        path, culprit, cause = find_unpicklable(value, "result", dumps)
        detail = {
            "path": path,
            "type": exceptions.type_name(type(culprit)),
            "message": exceptions.text_of(cause or error),
        }
        return {**_raised(error, body), "outcome": ERROR, "code": CODE_UNPICKLABLE, "detail": detail}


def _dump(value: object, body: str) -> dict[str, object]:
    """Pickle to the file. C's pickle first, it is faster; cloudpickle for what only that can."""
    file = HashingFile(body)
    try:
        pickle.Pickler(file, protocol=5).dump(value)
    except Exception:
        file.close()
        import cloudpickle

        file = HashingFile(body)
        cloudpickle.Pickler(file, protocol=5).dump(value)
    return file.close()


def dumps(value: object) -> bytes:
    import cloudpickle

    return cloudpickle.dumps(value, protocol=5)  # type: ignore[no-any-return]


def _raised(error: BaseException, body: str) -> dict[str, Any]:
    text = exceptions.traceback_text(error)
    nodes, pickles = exceptions.encode(error, dumps)
    file = HashingFile(body)
    file.write(pickles)
    return {"outcome": RAISED, "nodes": nodes, "traceback": text, **file.close()}


def _missing_module(error: BaseException) -> dict[str, Any]:
    return {"module": error.name} if isinstance(error, ModuleNotFoundError) else {}


def _add_ways_out(error: BaseException) -> None:
    if not isinstance(error, ModuleNotFoundError) or error.name is None or sys.version_info < (3, 11):
        return
    error.add_note(
        f"{error.name!r} is not installed where the function ran. Use an image that has it (image=...), or, if it is "
        "code of your own, import it at the top of the module or script so that it travels along."
    )


def _finish(frames: int, header: dict[str, Any]) -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # a function may close or replace them
            pass
    header.update(finished=time.time(), peak_memory=_peak_memory())
    _send(frames, FRAME_FINISH, json.dumps(header).encode())


def _peak_memory() -> int:
    import resource

    kib = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return kib if sys.platform == "darwin" else kib * 1024


def _send(frames: int, letter: bytes, data: bytes) -> None:
    view = memoryview(letter + wire.LENGTH.pack(len(data)) + data)
    while view:
        view = view[os.write(frames, view) :]

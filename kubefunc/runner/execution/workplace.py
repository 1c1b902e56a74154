"""Where an executor's tasks run: one object in each process that works for it."""

from __future__ import annotations

import functools
import pickle
from concurrent.futures import BrokenExecutor

from kubefunc.runner.execution import child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from kubefunc.runner.protocol.file import File


class InitializerFailed(BrokenExecutor):
    """The executor's initializer raised; its exception is the cause."""


class Workplace:
    """Runs the initializer before this process's first task."""

    def __init__(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        self._initializer = initializer
        self._initargs = initargs
        self._ready = initializer is None

    @property
    def initargs(self) -> tuple[Any, ...]:
        return self._initargs

    @property
    def has_initializer(self) -> bool:
        return self._initializer is not None

    def run_payload(self, payload: bytes, code: str, files: Mapping[int, File] | None = None) -> object:
        """The task in a payload; its modules go to the directory ``code``. ``files``: those that it refers to."""
        self._prepare()
        unpickle = pickle.loads if files is None else functools.partial(_loads, files)
        function, args, kwargs, _ = child.load(payload, code, unpickle)
        return function(*args, **kwargs)

    def run(self, function: Callable[..., object], *args: object, **kwargs: object) -> object:
        self._prepare()
        return function(*args, **kwargs)

    def _prepare(self) -> None:
        if self._ready or self._initializer is None:
            return
        try:
            self._initializer(*self._initargs)
        except BaseException as error:
            raise InitializerFailed(f"{type(error).__name__}: {error}") from error
        self._ready = True


def _loads(files: Mapping[int, File], data: bytes) -> Any:
    from kubefunc.runner.protocol.file import Unpickler  # most tasks have no files

    return Unpickler(data, lambda number, name: files[number]).load()

"""A backend that lets some calls of one function fail, and hands all else on."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from kubefunc.backends.base import Backend, OpenWork, Shape, Sink, Submission, Traits, Work
from kubefunc.backends.inline import EndedWork
from kubefunc.errors import ConfigurationError, KubefuncError
from kubefunc.options import Options
from kubefunc.packing.payload import Packer
from kubefunc.runner.execution import child, reports
from kubefunc.runner.protocol.records import Record

SINGLE = 0


class Injection:
    """Which calls are to fail, and how: the next ``times`` of one function."""

    def __init__(self, function: str, error: BaseException, times: int) -> None:
        self._function = function
        self._error = error
        self._left = times
        self._lock = threading.Lock()

    @classmethod
    def checked(cls, function: str, error: object, times: object) -> Injection:
        """The injection, if it makes sense.

        Raises:
            ConfigurationError: it does not.
        """
        if not isinstance(error, BaseException):
            raise ConfigurationError(
                f"testing.fail(): error={error!r} is no exception: give OSError('...'), an instance."
            )
        if not isinstance(times, int) or isinstance(times, bool) or times < 1:
            raise ConfigurationError(f"testing.fail(): times={times!r} is not a number of calls: give 1 or more.")
        return cls(function, error, times)

    def claim(self, submission: Submission, indexes: Sequence[int]) -> list[int]:
        """Those of a submission's items that are to fail."""
        if submission.function != self._function:
            return []
        with self._lock:
            mine = list(indexes[: self._left])
            self._left -= len(mine)
        return mine

    def end(self, indexes: Sequence[int], sink: Sink) -> None:
        """Give these items the error."""
        for index in indexes:
            if isinstance(self._error, KubefuncError):
                sink.fail([index], self._error)
            else:
                sink.take([self._raised(index)])

    def _raised(self, index: int) -> Record:
        """The outcome of a function that raised it."""

        def function() -> NoReturn:
            raise self._error

        now = time.time()
        header, body = child.invoke(function, (), {}, (), lambda: reports.Body(os.devnull), child.PICKLED)
        return Record(index, now, now, 1, header, body.content())


class FailingBackend:
    """Implements :class:`kubefunc.backends.base.Backend` by another one."""

    def __init__(self, backend: Backend, injection: Injection) -> None:
        self._backend = backend
        self._injection = injection

    @property
    def traits(self) -> Traits:
        # No workers: an executor sends each task as a call then, which can fail like any other.
        return dataclasses.replace(self._backend.traits, workers=None)

    @property
    def packer(self) -> Packer:
        return self._backend.packer

    def introduce(self, options: Options) -> str:
        return self._backend.introduce(options)

    def submit(self, submission: Submission, sink: Sink) -> Work:
        single = submission.shape == "single"
        indexes = [SINGLE] if single else list(submission.items)
        failing = self._injection.claim(submission, indexes)
        if len(failing) == len(indexes):
            self._injection.end(failing, sink)
            return EndedWork(submission.call)
        left = {index: data for index, data in submission.items.items() if index not in failing}
        work = self._backend.submit(dataclasses.replace(submission, items=left), sink)
        self._injection.end(failing, sink)
        return work

    def open(self, submission: Submission, sink: Sink, workers: int, claim: Callable[[int], bool]) -> OpenWork:
        return self._backend.open(submission, sink, workers, claim)

    def attach(self, call: str, shape: Shape, sink: Sink) -> Work:
        return self._backend.attach(call, shape, sink)

    def forget(self) -> None:
        self._backend.forget()

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        return self._backend.close(unfinished, timeout)

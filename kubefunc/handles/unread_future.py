"""A Future whose outcome may be set as bytes, before it is unpickled."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from kubefunc.envelope import Raised, Returned, Unread
from kubefunc.errors import KubefuncError

R = TypeVar("R")
if TYPE_CHECKING:
    _Future = concurrent.futures.Future[R]
else:

    class _Future(concurrent.futures.Future, Generic[R]):
        pass


# Stands in a Future whose function raised until somebody asks for the exception: the stdlib's tools see that it failed.
_UNREAD_ERROR = KubefuncError("The exception of this call has not been read yet. Call exception() to get it.")


class UnreadFuture(_Future[R]):
    """A Future whose outcome may be set as bytes, before it is unpickled.

    The thread that first asks for the value unpickles it, not a thread that also serves other calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self._unread: Unread | None = None

    def result(self, timeout: float | None = None) -> R:
        """Return the function's value, or raise its exception."""
        __tracebackhide__ = True
        self._read(timeout)
        return result_of(self, timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception that :meth:`result` would raise, or None."""
        self._read(timeout)
        return super().exception(timeout)

    def _get_snapshot(self) -> Any:  # Python 3.14: asyncio.wrap_future() asks for all at once
        if self.done() and not self.cancelled():
            self._read(None)
        return super()._get_snapshot()  # type: ignore[misc]

    def _read(self, timeout: float | None) -> None:
        """Wait for the end, then store the value or exception where the standard library's Future keeps it."""
        concurrent.futures.Future.exception(self, timeout)
        unread = self._unread
        if unread is None:
            return
        ended = unread.open()
        if isinstance(ended, Returned):
            self._result = ended.value
        else:
            self._exception = ended.error
        self._unread = None

    def _settle(self, ended: Returned | Raised | Unread) -> None:
        """End with this."""
        if isinstance(ended, Unread):
            self._unread = ended
            if ended.is_value:
                self.set_result(cast("R", None))
            else:
                self.set_exception(_UNREAD_ERROR)
        elif isinstance(ended, Returned):
            self.set_result(ended.value)
        else:
            self.set_exception(ended.error)

    def _as_it_came(self) -> Returned | Raised | Unread:
        """The outcome of one that has ended, still unread where nobody has asked for it."""
        unread = self._unread
        if unread is not None:
            return unread
        error = super().exception()
        return Returned(self._result) if error is None else Raised(error)


def result_of(future: concurrent.futures.Future[R], timeout: float | None) -> R:
    """The result of a Future, as its own ``result()`` gives it.

    That one asks an exception whether it is true, and so loses one whose class defines ``__bool__`` or ``__len__``.
    """
    __tracebackhide__ = True
    error = concurrent.futures.Future.exception(future, timeout)
    if error is not None:
        raise error
    return future._result  # type: ignore[return-value]  # it is done

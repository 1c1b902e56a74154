"""The handle of a generator function's call: its values, one after another, while it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from kubefunc.envelope import Raised
from kubefunc.errors import ConfigurationError, OutOfMemoryError, PodLostError, StreamLostError
from kubefunc.handles.call import Call
from kubefunc.outcomes.store import read_outcome
from kubefunc.runner.protocol.records import Record

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from kubefunc.diagnosis import Diagnosis
    from kubefunc.options import Options
    from kubefunc.stream_values import StreamValues  # it does not travel to Pods

T_co = TypeVar("T_co", covariant=True)


class Stream(Iterator[T_co], AsyncIterator[T_co], Generic[T_co]):
    """The values of a generator function, from ``f.remote(...)``: iterate with ``for`` or ``async for``.

    Values come in order, each once, while the function runs. What the function raises is raised after the values
    before it. The function is at most ``stream_ahead`` values ahead of the loop.

    Leave the loop early, and the generator ends where it is: by ``break`` when nothing refers to the stream any more,
    by :meth:`close`, or at the end of ``with f.remote(...) as values:``.

    Attributes:
        call: the call itself: its id, ``logs()``, ``stats``, ``diagnosis``. Its ``result()`` waits for the end, which
            does not come while nobody takes the values: use :meth:`result`.
    """

    __kubefunc_call__ = True  # the packer refuses it as an argument by this mark

    def __init__(self, call: Call[Any], values: StreamValues) -> None:
        self.call = call
        self._values = values
        self._closed = False
        self._over = False
        call.add_done_callback(lambda _: values.end())
        self._abandoned = weakref.finalize(self, _cancel_elsewhere, call)
        self._abandoned.atexit = False  # the session cancels what is unfinished then

    @property
    def id(self) -> str:
        """The id of the call. It is also the name of its Job."""
        return self.call.id

    # -- the values

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T_co:
        """Wait for the next value.

        Raises:
            StopIteration: the generator has ended. Its ``value`` is what the generator returned.
            StreamLostError: the generator's Pod was lost after values had come from it.
            CancelledError: the call was cancelled.
        """
        __tracebackhide__ = True
        record = None
        if not self._closed:
            with self.call._waiting():
                record = self._values.take()
        return self._end() if record is None else self._read(record)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T_co:
        """Wait for the next value, as :meth:`__next__` does."""
        __tracebackhide__ = True
        while not self._closed:
            record = self._values.take(0)
            if record is not None:
                return self._read(record)
            if self._values.is_over:
                break
            await self._news()
        try:
            return self._end()
        except StopIteration:
            raise StopAsyncIteration from None

    async def _news(self) -> None:
        import asyncio  # code that awaits has loaded it already; for others it costs 15 ms

        self.call._check_process()
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(news.set)

        self._values.wake(wake)
        await news.wait()

    def _read(self, record: Record) -> T_co:
        __tracebackhide__ = True
        ended = read_outcome(record, self.call._diagnosis)
        if isinstance(ended, Raised):
            raise ended.error
        return cast("T_co", ended.value)

    def _end(self) -> T_co:
        """There is no further value: say why, once."""
        __tracebackhide__ = True
        self._abandoned.detach()
        if self._closed or self._over:
            raise StopIteration
        self._over = True
        raise StopIteration(self._outcome(None))

    # -- its end

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and return what the generator returned, or raise what went wrong.

        Values that nobody has taken are dropped. (``value = yield from stream`` gives the same.)

        Args:
            timeout: seconds to wait. The call continues after that.

        Raises:
            TimeoutError: the generator has not ended within ``timeout``.
            CancelledError: the call was cancelled, or the stream was closed.
        """
        __tracebackhide__ = True
        until = None if timeout is None else time.monotonic() + timeout
        with self.call._waiting():
            while not self._values.is_over and (until is None or time.monotonic() < until):
                self._values.take(None if until is None else max(0.0, until - time.monotonic()))
        return self._outcome(None if until is None else max(0.0, until - time.monotonic()))

    def _outcome(self, timeout: float | None) -> Any:
        __tracebackhide__ = True
        received = self._values.received
        try:
            value = self.call.result(timeout)
        except PodLostError as error:
            if not received:
                raise
            raise self._lost(self.call.diagnosis) from error
        except OutOfMemoryError:
            if not received:
                raise
            raise _without_retries(self.call.diagnosis) from None
        record = self.call._outcomes.record(0)
        streamed = (record.header or {}).get("streamed") if record is not None else None
        if streamed != received:
            raise self._lost(self.call.diagnosis)
        return value

    def _lost(self, known: Diagnosis) -> StreamLostError:
        received = self._values.received
        told = dataclasses.replace(
            known,
            reason="StreamLost",
            message=f"The stream was lost after {received} value{'s' if received != 1 else ''}. {known.message} "
            "The function is not run again, as its values would come twice.",
            advice="Call the function again, and have it begin where this stream ended.",
        )
        return StreamLostError(str(told), values=received, diagnosis=told)

    def close(self) -> None:
        """End the generator where it is; its ``finally:`` blocks run. Return at once. The loop ends.

        A generator that waits at its ``yield`` gets ``GeneratorExit`` there, as from its own ``close()``. One that
        runs gets ``SystemExit``, as a call does that is cancelled.
        """
        self._closed = True
        self._abandoned.detach()
        self.call.cancel()

    async def aclose(self) -> None:
        """Do as :meth:`close`: what ``contextlib.aclosing`` calls."""
        self.close()

    def cancel(self) -> bool:
        """Stop the call, as :meth:`Call.cancel` does. The loop gets CancelledError."""
        self._abandoned.detach()
        return self.call.cancel()

    def done(self) -> bool:
        """Whether the generator has ended. Values may still be there to be taken."""
        return self.call.done()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = repr(self.call).removeprefix("<Call ").removesuffix(">")
        return f"<Stream {state}, {self._values.received} values received>"


def _without_retries(known: Diagnosis) -> OutOfMemoryError:
    """Other calls are advised to let retries raise their memory."""
    advice = "Raise memory=. Retries do not help here: a generator function that has yielded is not run again."
    told = dataclasses.replace(known, advice=advice)
    return OutOfMemoryError(str(told), diagnosis=told)


def refuse_misfits(name: str, options: Options) -> None:
    """Refuse options that a stream cannot have.

    Raises:
        ConfigurationError: there is such an option.
    """
    why = {
        "detach": "a stream needs the program that takes its values",
        "publish": "a stream has no single result to be written",
        "gang": "the ranks of a gang return one result each",
    }
    for option, reason in why.items():
        if getattr(options, option):
            value = getattr(options, option)
            raise ConfigurationError(f"{name} is a generator function, and has {option}={value!r}: {reason}.")


def _cancel_elsewhere(call: Call[Any]) -> None:
    """Cancel the call of a stream that nobody has any more. The garbage collector may call this anywhere."""
    if call.done():
        return
    cancel: Callable[[], object] = call.cancel
    with contextlib.suppress(RuntimeError):  # the program ends: then what is unfinished is cancelled anyway
        threading.Thread(target=cancel, name="kubefunc-leave-stream", daemon=True).start()

"""The handle of one call: a ``concurrent.futures.Future`` that can also be awaited."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from kubefunc.backends.base import Whereabouts, Work
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.envelope import Raised, Returned, Unread, is_value
from kubefunc.handles.call_output import CallOutput
from kubefunc.handles.handle import Reachable, Waiting, check_process, parse_id
from kubefunc.handles.unread_future import UnreadFuture
from kubefunc.outcomes.store import CANCELLED, Outcomes, Owner, read_outcome
from kubefunc.runner import RAISED, VALUE
from kubefunc.runner.execution.exceptions import add_note
from kubefunc.runner.protocol.records import Record
from kubefunc.session import Session, session

if TYPE_CHECKING:
    from kubefunc.handles.publishing import Publication
    from kubefunc.handles.serving import Running
    from kubefunc.volumes import Volume

R = TypeVar("R")


@dataclass(frozen=True)
class CallStats:
    """Times, memory and place of a call. Values that are not known yet are None.

    Attributes:
        queued: seconds since the epoch, this machine's clock: when ``.remote()`` was called.
        started: seconds since the epoch, the Pod's clock: when the function started (its last attempt).
        finished: seconds since the epoch, the Pod's clock: when it ended.
        peak_memory: bytes, the largest resident size of the function's process or one of its children.
        attempts: how often the function was started in its last Pod.
        pod: the Pod's name.
        node: the node's name.
    """

    queued: float
    started: float | None = None
    finished: float | None = None
    peak_memory: int | None = None
    attempts: int | None = None
    pod: str | None = None
    node: str | None = None


class Call(UnreadFuture[R], Reachable):
    """One call of a remote function, from ``f.remote(...)`` or :func:`attach`.

    It is a ``concurrent.futures.Future``: ``result``, ``exception``, ``add_done_callback``,
    ``concurrent.futures.wait`` and ``as_completed`` and ``asyncio.wrap_future`` work on it. So does ``await call``.
    """

    # More methods than other classes have: half of them are those of the standard library's Future and of awaitables.

    __kubefunc_call__ = True  # the packer refuses a Call as an argument by this mark

    def __init__(self, call: str, function: str, of: Session, outcomes: Outcomes | None = None) -> None:
        super().__init__()
        self._id = call
        self._function = function
        self._work: Work | None = None  # from its submission on
        self._session = of
        self._queued = time.time()
        self._cancelling = threading.RLock()
        self._completing = threading.RLock()
        self._notified = False
        self._index = 0
        self._outcomes = Outcomes(_CallOwner(self)) if outcomes is None else outcomes
        self._output = CallOutput(of.console, call)
        self._publication: Publication | None = None
        self._volumes: Mapping[str, Volume] = {}  # of an attached call they are not known
        if outcomes is None:
            self._outcomes.open(1)

    @property
    def id(self) -> str:
        """The id of the call. It is also the name of its Job, and :func:`attach` takes it."""
        return self._id

    @property
    def stats(self) -> CallStats:
        """Times, memory and place of the call, as far as they are known."""
        where, record = self._whereabouts(), self._outcomes.record(self._index)
        if record is None:
            return CallStats(queued=self._queued, pod=where.pod, node=where.node)
        return CallStats(
            queued=self._queued,
            started=record.started or None,
            finished=record.finished or None,
            peak_memory=(record.header or {}).get("peak_memory"),
            attempts=record.attempts,
            pod=where.pod,
            node=where.node,
        )

    @property
    def diagnosis(self) -> Diagnosis:
        """What went wrong, as data. If nothing did, the state of the call."""
        error = self._known_error()
        if error is None:
            return self._diagnosis()
        known = getattr(error, "diagnosis", None)
        if isinstance(known, Diagnosis):
            return known
        message = "".join(traceback.format_exception_only(type(error), error)).strip()
        return dataclasses.replace(
            self._diagnosis(), reason="Raised", message=f"The function raised {message}", log_tail=self._last_lines()
        )

    def result(self, timeout: float | None = None) -> R:
        """Wait for the function's value and return it, or raise what went wrong.

        That is the function's own exception, or a :class:`kubefunc.errors.KubefuncError`.

        Args:
            timeout: seconds to wait. The call continues after that.

        Raises:
            TimeoutError: no result within ``timeout`` (on Python 3.10 ``concurrent.futures.TimeoutError``).
            CancelledError: the call was cancelled.
        """
        __tracebackhide__ = True
        with self._waiting():
            return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and return the exception that :meth:`result` would raise, or None."""
        with self._waiting():
            return super().exception(timeout)

    def running(self) -> bool:
        """Whether the function runs now."""
        return not self.done() and self._whereabouts().phase is Phase.RUNNING

    def cancel(self) -> bool:
        """Stop the call, even if it runs. Return True at once, or False if it is already done.

        The Job is deleted in the background. (The standard library's Future does not cancel a call that runs.)
        """
        with self._cancelling:
            if self.cancelled():
                return True
            if not super().cancel():
                return False
        self._stop()
        self._session.dispatcher.do(lambda: self._end(CANCELLED))
        return True

    def discard(self) -> None:
        """Remove the finished call and its stored result. Otherwise a detached call stays for its ``ttl``."""
        self._known_work().discard()

    @overload
    def logs(self, follow: Literal[False] = ...) -> str: ...
    @overload
    def logs(self, follow: Literal[True]) -> Iterator[str]: ...
    def logs(self, follow: bool = False) -> str | Iterator[str]:  # noqa: FBT001, FBT002 - the name is the contract's
        """Return what the function has printed, or with ``follow=True`` iterate over its lines until it ends."""
        if follow:
            return _lines(self._followed())
        if self.done():
            kept = self._output.text()
            if kept:  # the Job may be gone by now
                return kept
        return b"".join(self._known_work().logs(follow=False)).decode("utf-8", "replace")

    def _followed(self) -> Iterator[bytes]:
        """From the backend, as long as it follows the call; the rest from what was kept."""
        passed = 0
        if not self.done() or not self._output:
            for data in self._known_work().logs(follow=True):
                passed += len(data)
                yield data
        yield self._output.since(passed)

    def __await__(self) -> Generator[Any, None, R]:
        return self._wait().__await__()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is the handle that :func:`attach` gives to the process that unpickles it."""
        return attach, (self._known_work().address(),)

    def __repr__(self) -> str:
        state = self._state.lower() if self.done() else self._whereabouts().phase.value
        return f"<Call {self._id} {state}>"

    def _repr_html_(self) -> str:
        from kubefunc.handles.notebook import ShownCall, call_card  # only notebooks ask for it

        where, record = self._whereabouts(), self._outcomes.record(self._index)
        return call_card(
            ShownCall(self._id, self._queued, where, record, error=self._known_error(), is_cancelled=self.cancelled())
        )

    # -- inside

    async def _wait(self) -> R:
        """Not asyncio.wrap_future: a StopIteration must end as RuntimeError, and it would be stuck there."""
        import asyncio  # code that awaits has loaded it already; for others it costs 15 ms

        self._check_process()
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def wake(_: object) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

        self.add_done_callback(wake)
        try:
            await done.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        return super().result()

    def _stop(self) -> None:
        self._session.finished(self._id)
        if self._work is not None:
            self._work.cancel()
        self._outcomes.cancel([self._index])

    def _known_work(self) -> Work:
        if self._work is None:
            raise RuntimeError(f"{self._id} was not submitted")
        return self._work

    def _running(self) -> Running:
        from kubefunc.handles.serving import OneItem  # here, as it does not travel to Pods

        return OneItem(self._id, self._outcomes, self._index)

    def _whereabouts(self) -> Whereabouts:
        where = self._outcomes.where(self._index)
        return dataclasses.replace(where, phase=Phase.FINISHED, detail="") if self.done() else where

    def _waiting(self) -> Waiting:
        self._check_process()
        if not self.done() and self._session.dispatcher.is_this_thread():
            raise RuntimeError(
                f"result() of the unfinished call {self._id} inside a done-callback would never return: "
                "callbacks run in the thread that completes calls. Wait in another thread."
            )
        return Waiting(self._session, f"{self._id} continues; call.result() waits again, call.cancel() stops it")

    def _check_process(self) -> None:
        if not self.done():
            check_process(f"The call {self._id}", self._session)

    def _may_end(self) -> bool:
        """Whether a result may be set; wakes those who wait if it was cancelled."""
        if self._notified:
            return False
        self._notified = True
        return self.set_running_or_notify_cancel()

    def _diagnosis(self) -> Diagnosis:
        where = self._whereabouts()
        message = f"{self._function} is {where.phase.value}" + (f": {where.detail}" if where.detail else "") + "."
        return Diagnosis("", message, "", where.phase, self._id, where.namespace, where.pod, where.node)

    def _end(self, ended: Returned | Raised | Unread) -> None:
        """In the thread that brings the outcome: it wakes those who wait, and leaves callbacks to the dispatcher's."""
        with self._completing:
            if ended is CANCELLED:
                concurrent.futures.Future.cancel(self)
                self._may_end()
            elif self._may_end():
                self._settle(ended)

    def _invoke_callbacks(self) -> None:
        """What callbacks do may take long, and the thread that brings outcomes must go on."""
        dispatcher, invoke = self._session.dispatcher, super()._invoke_callbacks  # type: ignore[misc]
        if self._done_callbacks and not dispatcher.is_this_thread():  # type: ignore[attr-defined]
            dispatcher.do(invoke)
        else:
            invoke()

    def _load(self) -> Returned | Raised:
        """What came of it, unpickled."""
        return self._outcomes.get(self._index)

    def _last_lines(self) -> tuple[str, ...]:
        record = self._outcomes.record(self._index)
        return self._output.last_lines((record.header or {}) if record is not None else {})

    def _known_error(self) -> BaseException | None:
        """Why it has failed. A value that nobody has asked for is not unpickled for this."""
        if not self.done() or self.cancelled():
            return None
        unread = self._unread
        return None if unread is not None and unread.is_value else super().exception()


class _CallOwner(Owner):
    """What a call does when its outcome comes, or news of it."""

    def __init__(self, call: Call[Any]) -> None:
        self._call = call

    def moved(self, where: Whereabouts) -> None:
        self._call._output.moved(where)

    def printed(self, indexes: Sequence[int], data: bytes) -> None:
        self._call._output.feed(data)

    def read(self, index: int, record: Record) -> Returned | Raised:
        header = record.header or {"outcome": VALUE}

        def known() -> Diagnosis:
            attempts = header.get("attempts")  # a function that signs its own result may give anything
            return dataclasses.replace(
                self._call._diagnosis(),
                phase=Phase.FINISHED,
                log_tail=self._call._last_lines(),
                attempts=attempts if type(attempts) is int else None,
            )

        ended = read_outcome(record, known)
        if isinstance(ended, Raised) and isinstance(ended.error.__cause__, KeyboardInterrupt) and is_value(record):
            raise ended.error.__cause__  # Ctrl-C while the value loaded: it is there for the next who asks
        return _noted(ended, known(), self._call._volumes) if header.get("outcome") == RAISED else ended

    def settled(self, indexes: Sequence[int]) -> None:
        call = self._call
        call._output.end()
        ended = call._outcomes.unread(call._index, call._load)
        if ended is None:
            return
        if call._publication is None:
            call._end(ended)
        else:
            call._publication.finish(ended, call._load, call._end)

    def over(self, *, stop: bool) -> None:
        self._call._session.finished(self._call._id)


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace")
    if rest:
        yield rest.decode("utf-8", "replace")


def _noted(ended: Returned | Raised, known: Diagnosis, volumes: Mapping[str, Volume]) -> Returned | Raised:
    """The same; an exception has a note that says which call it was, and which volume it could not use."""
    if isinstance(ended, Raised) and sys.version_info >= (3, 11):  # before, no traceback shows notes
        with contextlib.suppress(Exception):  # its class may do anything
            if volumes:
                from kubefunc.handles.volume_notes import note_volume  # here, as it does not travel to Pods

                note_volume(ended.error, volumes)
            add_note(ended.error, f"In the call {_described(known)}.")
    return ended


def _described(known: Diagnosis) -> str:
    """Which call it was, and where it ran."""
    where = [f"{name} {value}" for name, value in (("Pod", known.pod), ("node", known.node)) if value]
    if known.attempts is not None and known.attempts > 1:
        where.append(f"attempt {known.attempts}")
    return f"{known.call} ({', '.join(where)})" if where else known.call


def attach(call: str) -> Call[Any]:
    """Return the handle of a call that another process made.

    Args:
        call: ``id`` or ``namespace/id``.

    Raises:
        ConfigurationError: this is not an id, or there is no cluster. Calls on this machine end with their process.
    """
    name = parse_id("attach", call)
    here = session()
    options = here.options()
    backend = here.backend(options)  # first: in a Pod without kubefunc it says that, and the rest is not there
    from kubefunc.handles.publishing import Publication
    from kubefunc.outcomes.attempts import View

    handle: Call[Any] = Call(name, name.rpartition("-")[0], here)
    handle._outcomes.move((0,), Whereabouts(Phase.PENDING))  # another process has sent it; where it is comes next
    if options.verbose:
        handle._output.show()
    handle._publication = publication = Publication(here, lambda work: work.publication())
    handle._work = backend.attach(call, "single", View(handle._outcomes))
    publication.submitted(handle._work)
    return handle

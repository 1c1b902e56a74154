"""What the layers above a backend and the backends themselves share: the two protocols and what passes between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from kubefunc.diagnosis import Phase
from kubefunc.envelope import Envelope
from kubefunc.errors import KubefuncError
from kubefunc.options import Options
from kubefunc.payload import Packer, Payload
from kubefunc.runner.protocol.records import Record


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One attempt of one call, ready to run.

    Attributes:
        call: the call's id.
        function: the function's name, for people.
        attempt: 1, and one more for each new attempt that the client makes.
        used: the attempts before this one that count against ``retries``.
        key: this call's secret, under which its result is signed.
    """

    call: str
    function: str
    options: Options
    payload: Payload
    key: bytes
    attempt: int = 1
    used: int = 0


@dataclass(frozen=True, kw_only=True)
class MapSubmission:
    """A map, ready to run: one function, many tuples of arguments.

    Attributes:
        call: the map's id, which is also its Job's name.
        function: the function's name, for people.
        payload: function, shared keyword arguments and code; positional arguments come with each item.
        items: the pickled arguments to run with (a tuple), by index, and not changed any more. In a later attempt some
            indexes are not there.
        count: how many items the whole map has.
        chunksize: items for one Pod one after another; None: :func:`kubefunc.chunks.chunksize` decides.
        max_parallelism: Pods, or processes of this machine, at once.
        key: the map's secret, under which its outcomes are signed.
        attempt: 1, and one more for each new Job of the same map.
    """

    call: str
    function: str
    options: Options
    payload: Payload
    items: Mapping[int, bytes]
    count: int
    chunksize: int | None
    max_parallelism: int | None
    key: bytes
    attempt: int = 1


@dataclass(frozen=True)
class Whereabouts:
    """Where a call is, as far as it is known: fills ``Call.stats`` and the progress line."""

    phase: Phase
    detail: str = ""
    pod: str | None = None
    node: str | None = None
    namespace: str | None = None


class Sink(Protocol):
    """What a Call is to a backend. Methods may be called from any thread and never block on user code.

    Exactly one of ``deliver`` and ``fail`` has an effect, the first; what comes later is dropped.
    """

    @property
    def settled(self) -> bool:
        """Whether the call has its result, its error, or was cancelled."""
        ...

    def moved(self, where: Whereabouts) -> None: ...

    def output(self, data: bytes) -> None:
        """Some of what the function printed, in order, each byte once."""
        ...

    def deliver(self, envelope: Envelope) -> None:
        """A verified envelope. On return it is safe in this process; it is unpickled when somebody asks for it."""
        ...

    def fail(self, error: KubefuncError) -> None: ...


class MapSink(Protocol):
    """What a MapCall is to a backend. Methods may be called from any thread and never block on user code.

    Of several outcomes of one item the first has an effect.
    """

    @property
    def settled(self) -> bool:
        """Whether every item has its outcome, or the map was cancelled."""
        ...

    def missing(self, indexes: Iterable[int]) -> list[int]:
        """Those of these items that have no outcome yet and were not cancelled."""
        ...

    def opened(self, count: int, function: str) -> None:
        """For a map that was attached to: how many items it has. Comes before all else."""
        ...

    def moved(self, indexes: Sequence[int], where: Whereabouts) -> None:
        """These items are waiting, starting or running now; detail says for what they wait."""
        ...

    def output(self, indexes: Sequence[int], data: bytes) -> None:
        """Some of what was printed while these items ran (those of one chunk), in order, each byte once."""
        ...

    def take(self, outcomes: Sequence[Record]) -> None:
        """Outcomes of items whose signature was checked. On return they are safe in this process, nothing was
        unpickled yet. Their bodies may be views: of bytes that are not changed any more."""
        ...

    def fail(self, indexes: Sequence[int] | None, error: KubefuncError) -> None:
        """These items (None: all) get this error, as far as they have no outcome."""
        ...


class Backend(Protocol):
    """Runs payloads somewhere. Everything but ``submit``'s checks of its input ends up in the Sink."""

    @property
    def name(self) -> str:
        """``kubernetes`` or ``local``."""
        ...

    @property
    def packer(self) -> Packer: ...

    def introduce(self, options: Options) -> str:
        """One line for the first call, which has these options: what will run it, and where."""
        ...

    def submit(self, submission: Submission, sink: Sink) -> None:
        """Start it; returns at once.

        Raises:
            ConfigurationError: an option does not fit this backend.
        """
        ...

    def attach(self, call: str, sink: Sink) -> None:
        """Follow a call that another process has started."""
        ...

    def submit_map(self, submission: MapSubmission, sink: MapSink) -> None:
        """Start a map; returns at once.

        Raises:
            ConfigurationError: an option does not fit this backend.
        """
        ...

    def attach_map(self, call: str, sink: MapSink) -> None:
        """Follow a map that another process has started."""
        ...

    def read_map(self, call: str) -> MapSubmission:
        """A map that another process has started, as it was submitted: so that its failed items can run again.

        Raises:
            ConfigurationError: it is not there any more, or its arguments are not.
        """
        ...

    def address(self, call: str) -> str:
        """What :meth:`attach` and :meth:`attach_map` need to find this call or map from another process.

        Raises:
            SerializationError: no other process can reach it.
        """
        ...

    def cancel(self, call: str) -> None:
        """Stop it and remove what it left; returns at once, works on in the background."""
        ...

    def discard(self, call: str) -> None:
        """Remove a finished call and its kept result; returns when that is done."""
        ...

    def logs(self, call: str, follow: bool) -> Iterator[bytes]:
        """What the function has printed."""
        ...

    def hear_out(self, call: str, seconds: float) -> None:
        """Return once all that the items of a map printed was handed over: it may come later than their outcomes.

        Args:
            call: a map whose items all have their outcomes.
            seconds: wait no longer than this.
        """
        ...

    def forget(self) -> None:
        """In a forked child: let go of what was inherited, and touch nothing of the parent's."""
        ...

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        """At exit, in the main thread, starting none: cancel these calls and finish what is owed.

        Returns the ids of the calls that are still there.
        """
        ...

"""What the layers above a backend and the backends themselves share: the two protocols and what passes between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from kubefunc.diagnosis import Phase
from kubefunc.errors import KubefuncError
from kubefunc.options import Options
from kubefunc.payload import Packer, Payload
from kubefunc.runner.protocol.records import Record

Shape = Literal["single", "map"]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One function and the items to run it on, ready to run: a call has one item, a map any number.

    Attributes:
        call: the id of the call or map, which is also its first Job's name.
        function: the function's name, for people.
        payload: function and code; of a single call also its arguments, of a map those that all items share.
        key: the secret of this call or map, under which its outcomes are signed.
        shape: ``single`` gives one envelope, ``map`` gives records.
        items: of a map, the pickled positional arguments (a tuple) to run with, by index, and not changed any more. In
            a later attempt some indexes are not there.
        count: how many items there are in all attempts together.
        chunksize: items for one Pod one after another; None: :func:`kubefunc.chunks.chunksize` decides.
        max_parallelism: Pods, or processes of this machine, at once.
        attempt: 1, and one more for each new Job that the client makes.
        used: the attempts before this one that count against ``retries``.
    """

    call: str
    function: str
    options: Options
    payload: Payload
    key: bytes
    shape: Shape = "single"
    items: Mapping[int, bytes] = field(default_factory=dict[int, bytes])
    count: int = 1
    chunksize: int | None = None
    max_parallelism: int | None = None
    attempt: int = 1
    used: int = 0


@dataclass(frozen=True)
class Whereabouts:
    """Where a call is, as far as it is known: fills ``Call.stats`` and the progress line."""

    phase: Phase
    detail: str = ""
    pod: str | None = None
    node: str | None = None
    namespace: str | None = None


class Sink(Protocol):
    """Where the outcomes of a submission arrive; a single call is item 0.

    Methods may be called from any thread and never block on user code. Of several outcomes of one item the first has
    an effect.
    """

    @property
    def settled(self) -> bool:
        """Whether every item has its outcome, or was cancelled."""
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

    def attach_map(self, call: str, sink: Sink) -> None:
        """Follow a map that another process has started."""
        ...

    def read_map(self, call: str) -> Submission:
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

"""What the layers above a backend and the backends themselves share: the two protocols and what passes between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from kubefunc.diagnosis import Phase
from kubefunc.errors import KubefuncError
from kubefunc.options import ConfigMapKey, Options, SecretKey
from kubefunc.runner.protocol.records import Record

if TYPE_CHECKING:
    from types import TracebackType

    from kubefunc.packing.payload import Packer, Payload
    from kubefunc.stream_values import StreamValues

Shape = Literal["single", "map"]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One function and the items to run it on, ready to run: a call has one item, a map any number.

    Attributes:
        call: the id of the call or map, which is also its first Job's name.
        function: the function's name, for people.
        module: the module that defines it, for people.
        payload: function and code; of a single call also its arguments, of a map those that all items share.
        key: the secret of this call or map, under which its outcomes are signed.
        shape: ``single`` gives one envelope, ``map`` gives records.
        items: of a map, the pickled positional arguments (a tuple) to run with, by index, and not changed any more. In
            a later attempt some indexes are not there.
        count: how many items there are in all attempts together.
        chunksize: items for one Pod one after another, as the caller wants it; None: :func:`kubefunc.chunks.chunksize`
            decides.
        chunk_hint: the same for one attempt, as the client wants it: its Pods may give items back where the caller has
            said nothing.
        max_parallelism: Pods, or processes of this machine, at once.
        attempt: 1, and one more for each new Job that the client makes.
        used: the attempts before this one that count against ``retries``.
        disruptions: how often the client has replaced a Pod of these items by a new Job before.
        pool: of a warm worker: its kind. Workers of one kind can take each other's place.
        values: of a generator function, where its values arrive; None of any other.
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
    chunk_hint: int | None = None
    max_parallelism: int | None = None
    attempt: int = 1
    used: int = 0
    disruptions: int = 0
    module: str = ""
    pool: str = ""
    values: StreamValues | None = None


@dataclass(frozen=True)
class Whereabouts:
    """Where a call is, as far as it is known: fills ``Call.stats`` and the progress line."""

    phase: Phase
    detail: str = ""
    pod: str | None = None
    node: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class Lost:
    """What became of items that have no outcome, through no fault of their own.

    Attributes:
        error: what they get where nobody runs them again.
        chunksize: how many items their Pod had.
        beside_fault: another item of their Pod was at fault: it has its own error.
    """

    error: KubefuncError
    chunksize: int | None = None
    beside_fault: bool = False


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
        """Those of these items that this attempt still has to bring: without an outcome, not cancelled, and not given
        to a later attempt."""
        ...

    def has_failures(self, indexes: Iterable[int]) -> bool:
        """Whether one of these items has failed, and no later attempt runs it again."""
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
        """These items (None: all) get this error, as far as they have no outcome, or run again elsewhere."""
        ...

    def lost(self, indexes: Sequence[int], how: Lost) -> None:
        """These items have not ended and never will in this attempt: they run again elsewhere, or get the error."""
        ...

    def later(self, indexes: Iterable[int]) -> Sink:
        """For a later attempt that another process has made and that runs these items: this sink hears of them no
        more."""
        ...


class Places(Protocol):
    """Where a call or map runs now: for who connects to it."""

    @property
    def name(self) -> str:
        """What it is, for messages."""
        ...

    def pods(self) -> Sequence[str]:
        """The names of the Pods that run."""
        ...

    def ended(self) -> bool:
        """Whether nothing of it will run any more."""
        ...


class Forward(Protocol):
    """A local port that leads to a port of a call while its context lasts. Entering it raises KubefuncError.

    Attributes:
        trouble: why the last connection that failed did so; empty where none has.
    """

    trouble: str

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, here."""
        ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Access(Protocol):
    """How other programs connect to a call or map."""

    def endpoint(self) -> str:
        """The address, ``host:port``, under which other Pods of the cluster reach it, or other programs here.

        Raises:
            ConfigurationError: it has no Service, or no port.
        """
        ...

    def forward(self, port: str | int | None, places: Places) -> Forward:
        """A local port that leads to this port of it, given by name, by number, or None for its only one.

        Raises:
            ConfigurationError: it has no such port.
        """
        ...


class Work(Protocol):
    """A call or map that a backend was given, or found: what can be done with it besides waiting for its outcomes."""

    def address(self) -> str:
        """What :meth:`Backend.attach` needs to find it from another process.

        Raises:
            SerializationError: no other process can reach it.
        """
        ...

    def outlives_program(self) -> bool:
        """Whether it goes on where it is if this program ends now, without a word."""
        ...

    def cancel(self) -> None:
        """Stop it and remove what it left; returns at once, works on in the background."""
        ...

    def discard(self) -> None:
        """Remove it and its kept results; returns when that is done."""
        ...

    def logs(self, follow: bool) -> Iterator[bytes]:
        """What the function has printed."""
        ...

    def access(self) -> Access:
        """How other programs connect to it."""
        ...

    def drain(self, seconds: float) -> None:
        """Return once all that was printed has been handed over: it may come later than the last outcome.

        Args:
            seconds: wait no longer than this.
        """
        ...

    def publication(self) -> ConfigMapKey | SecretKey | None:
        """Where its result is to be written, as its options said."""
        ...

    def publish(self, to: ConfigMapKey | SecretKey, content: str | bytes) -> bool:
        """Write its result there. False where there is no cluster to write to.

        Raises:
            KubefuncError: it cannot be written.
        """
        ...

    def read(self) -> Submission:
        """It, as it was submitted: so that failed items of another process's map can run again.

        Raises:
            ConfigurationError: it is not there any more, or its arguments are not.
        """
        ...


class OpenWork(Protocol):
    """Work that takes further items while it runs: the tasks of an executor, in processes that stay."""

    @property
    def failure(self) -> KubefuncError | None:
        """Why no item can run any more, where that is so."""
        ...

    def add(self, index: int, payload: Payload) -> None:
        """One more task.

        Raises:
            ConfigurationError: it cannot run here.
        """
        ...

    def recall(self, recalled: Callable[[int], None]) -> None:
        """Take back the items that no worker has begun; tell of each."""
        ...

    def no_more(self) -> None:
        """No item will be added: it ends when all have ended."""
        ...

    def cancel(self) -> None:
        """Stop everything."""
        ...

    def join(self, seconds: float | None) -> None:
        """Wait for its end."""
        ...


@dataclass(frozen=True)
class Traits:
    """What the layers above must know of a backend to choose between ways of working.

    Attributes:
        name: ``kubernetes`` or ``local``.
        outlives_program: a submission may go on after the program that made it: ``detach`` and ``attach`` work.
        workers: how many processes stay to take one item after another; None where each task has a Job.
        has_pools: with ``pool=``, processes stay there too.
    """

    name: str
    outlives_program: bool
    workers: int | None
    has_pools: bool = False


def keeps_processes(traits: Traits, options: Options) -> bool:
    """Whether an executor with these options has processes that stay and take one task after another.

    What needs a Pod of its own for each task has no such process: a function that is not trusted, and more memory for
    a task that ran out of it.
    """
    apart = options.untrusted or options.memory_ceiling is not None
    return traits.workers is not None or (traits.has_pools and options.pool is not None and not apart)


class Backend(Protocol):
    """Runs submissions somewhere. Everything but ``submit``'s checks of its input ends up in the Sink."""

    @property
    def traits(self) -> Traits: ...

    @property
    def packer(self) -> Packer: ...

    def introduce(self, options: Options) -> str:
        """One line for the first call, which has these options: what will run it, and where."""
        ...

    def submit(self, submission: Submission, sink: Sink) -> Work:
        """Start it; returns at once.

        Raises:
            ConfigurationError: an option does not fit this backend.
        """
        ...

    def open(self, submission: Submission, sink: Sink, workers: int, claim: Callable[[int], bool]) -> OpenWork:
        """Start workers that take tasks as they are added. Only where ``keeps_processes()``.

        Args:
            submission: :meth:`kubefunc.runner.execution.workplace.Workplace.run_payload`, without items.
            sink: who is told.
            workers: how many at once, at most; 0 where a pool has its own limit.
            claim: asked before an item is sent, whether it is still to run.

        Raises:
            ConfigurationError: an option does not fit this backend.
        """
        ...

    def attach(self, call: str, shape: Shape, sink: Sink) -> Work:
        """Follow what another process has started, by its id or ``namespace/id``."""
        ...

    def forget(self) -> None:
        """In a forked child: let go of what was inherited, and touch nothing of the parent's."""
        ...

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        """At exit, in the main thread, starting none: cancel these calls and finish what is owed.

        Returns the ids of the calls that are still there.
        """
        ...

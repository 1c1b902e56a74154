"""What a person does with calls, whichever program made them: list, explain, read logs, remove. The protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from kubefunc.backends.base import Shape
from kubefunc.diagnosis import Diagnosis
from kubefunc.options import Options
from kubefunc.role import Rule

State = Literal["queued", "pending", "starting", "running", "succeeded", "failed"]
FINISHED: tuple[State, ...] = ("succeeded", "failed")


@dataclass(frozen=True, kw_only=True)
class StoredPod:
    """One Pod of a call.

    Attributes:
        state: of its container ``main``.
        index: which chunk of a map it runs; None for a call.
        exit_code: of ``main``, once that has ended.
        started, finished: when ``main`` did, by the node's clock (RFC 3339), or empty.
    """

    name: str
    state: State
    node: str | None = None
    index: int | None = None
    exit_code: int | None = None
    started: str = ""
    finished: str = ""


@dataclass(frozen=True, kw_only=True)
class StoredCall:
    """A call or map as the cluster knows it.

    Attributes:
        shape: ``single`` or ``map``.
        created, started, finished: by the cluster's clocks (RFC 3339), or empty where that is not known.
        attempt: 1, or the number of the Job that took over from earlier ones.
        items: of a map, how many it has; 1 for a call.
        chunks: into how many Pods' shares the items are split; ``succeeded`` and ``failed`` of them have ended.
        user, program, host, module: who made it, with what, and where the function is defined; empty where the Job
            does not say so.
        version: of the kubefunc that made it.
        is_untrusted: its caller does not trust its function (``untrusted=True``).
        is_gang: its items are ranks that start together and wait for each other.
        pool: of a warm worker: its kind; workers of one kind can take each other's place. Empty for other calls.
        worker: what a warm worker does (``busy``, ``idle``, ``free``: no program has it), where it was asked and said.
        jobs: the names of its Jobs, the newest last.
    """

    id: str
    namespace: str
    function: str
    shape: Shape
    state: State
    created: str = ""
    started: str = ""
    finished: str = ""
    attempt: int = 1
    items: int = 1
    chunks: int = 1
    succeeded: int = 0
    failed: int = 0
    user: str = ""
    program: str = ""
    host: str = ""
    module: str = ""
    version: str = ""
    is_untrusted: bool = False
    is_gang: bool = False
    pool: str = ""
    worker: str = ""
    jobs: tuple[str, ...] = ()
    pods: tuple[StoredPod, ...] = ()

    @property
    def is_finished(self) -> bool:
        """Whether nothing of it runs or waits to run."""
        return self.state in FINISHED

    @property
    def address(self) -> str:
        """What ``attach`` takes in any namespace."""
        return f"{self.namespace}/{self.id}"


@dataclass(frozen=True, kw_only=True)
class LogWish:
    """Which part of the logs is wanted.

    Attributes:
        follow: go on until the call has ended.
        since: seconds; None: all that the nodes have.
        timestamps: each line begins with its time.
        tail: only so many last lines of each Pod.
    """

    follow: bool = False
    since: float | None = None
    timestamps: bool = False
    tail: int | None = None


@dataclass(frozen=True)
class LogPiece:
    """Some of what one Pod has printed; of a map always whole lines. ``index``: which chunk, None for a call."""

    data: bytes
    index: int | None = None


CheckStatus = Literal["ok", "warning", "problem", "unknown"]


@dataclass(frozen=True)
class Check:
    """One answer to the question whether calls can run.

    Attributes:
        name: what was asked about: ``server``, ``permissions``.
        status: only a ``problem`` stops calls; ``unknown`` where the question may not be asked.
        words: the cluster's own.
        missing: rules that the user's Role lacks.
    """

    name: str
    status: CheckStatus
    message: str
    advice: str = ""
    words: tuple[str, ...] = ()
    missing: tuple[Rule, ...] = ()


class Operations(Protocol):
    """The calls of one cluster. Keeps no state between two requests.

    Every method raises :class:`kubefunc.errors.KubefuncError` where the cluster refuses or does not answer.
    """

    @property
    def namespace(self) -> str:
        """The namespace of calls for which none is given."""
        ...

    @property
    def user(self) -> str:
        """What ``StoredCall.user`` is for calls that are made from here."""
        ...

    def list_calls(self, namespace: str | None) -> Sequence[StoredCall]:
        """The calls of a namespace, or of all (None), the oldest first."""
        ...

    def find(self, namespace: str, call: str) -> StoredCall | None:
        """The call of this id; None where there is none."""
        ...

    def ask_workers(self, calls: Sequence[StoredCall]) -> list[StoredCall]:
        """These calls; the warm workers among them that run with what they do, if they say so."""
        ...

    def explain(self, call: StoredCall) -> Diagnosis:
        """What it waits for, does, or how it ended, in the words that its own program would show."""
        ...

    def logs(self, call: StoredCall, wish: LogWish, tell: Callable[[str], None]) -> Iterator[LogPiece]:
        """What its function has printed. ``tell`` gets a line that says what it waits for."""
        ...

    def check(self, namespace: str, options: Options) -> Iterator[Check]:
        """Whether calls with these options can run there. Raises nothing: what goes wrong is an answer."""
        ...

    def remove(self, call: StoredCall) -> None:
        """Stop it if it runs, and delete its Jobs, Pods, Secrets and stored result."""
        ...

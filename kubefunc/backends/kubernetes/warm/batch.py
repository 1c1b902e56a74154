"""What a worker is given at once: a call, or some items of a map."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence

from kubefunc.backends.base import Whereabouts
from kubefunc.backends.kubernetes.warm.known_code import KnownCode, to_keep
from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.returned import Fetch, Returned
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.values import WorkerValues
from kubefunc.diagnosis import Phase
from kubefunc.envelope import corrupted, record_of, verify
from kubefunc.errors import KubefuncError, ResultCorruptedError
from kubefunc.runner.execution.request import CALL, OUTPUT, RESULT
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.warm.frames import DATA, KEEP, PLACE, STREAMED
from kubefunc.runner.warm.kept import Kept
from kubefunc.runner.warm.lease import sign
from kubefunc.runner.warm.stream import BODY

PIECE = 1 << 18  # bytes in one frame
ID_SIZE = 8
FILES = b'"files"'  # in the header of an outcome that has some
OVERDUE_AFTER = 0.5  # seconds: a batch is made to last a fifth of that


class Batch:
    """What a worker is given at once, and what has come of it.

    Attributes:
        id: of this batch; if its items run again, that is another one.
        runs: its calls or items.
        values: of a generator function, what brings its values.
        began: when a worker was given it (monotonic clock); None before.
        arguments: the files among its arguments.
        returned: the outcomes that wait for their files.
    """

    def __init__(self, parcel: Parcel, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.call = parcel.submission.call
        self.id = f"{self.call}.{os.urandom(ID_SIZE).hex()}"
        self.began: float | None = None
        self.arguments = parcel.arguments
        self.returned = Returned()
        self._asked_back = self._has_failed = False
        self._parcel = parcel
        self._left = {run.index: run for run in runs}
        self._printed = 0
        self._answer: bytes | None = None
        self._body = Body()
        self._blocks = self._new_blocks()
        values = parcel.submission.values
        self.values = None if values is None else WorkerValues(values, self.call, self.id, self.fail)

    def _new_blocks(self) -> records.Blocks:
        return records.Blocks(self._parcel.submission.key, self.call, 0)

    @property
    def left(self) -> Sequence[Run]:
        """Those whose outcome has not come."""
        return list(self._left.values())

    @property
    def indexes(self) -> Sequence[int]:
        """Of all its items."""
        return [run.index for run in self.runs]

    def reported_as(self, index: int) -> int | None:
        """The index under which the worker keeps what an item has returned; None of a call in a process of its own."""
        return None if self._parcel.stay is None else index

    @property
    def over(self) -> bool:
        """Whether nobody waits for any of it."""
        return all(run.over for run in self.runs)

    @property
    def is_unwanted(self) -> bool:
        """Whether its worker is to end it: some of it has no outcome, and nobody waits for that any more.

        Where all outcomes have come, the worker ends it by itself, and its process may stay for the next one.
        """
        return self._has_failed or any(run.over for run in self._left.values())

    def is_overdue(self, now: float) -> bool:
        """Whether it takes longer than was thought. Says so once."""
        overdue = self.began is not None and now - self.began > OVERDUE_AFTER
        first, self._asked_back = overdue and not self._asked_back, self._asked_back or overdue
        return first

    # -- what the worker is told

    def frames(self, kept: Kept, key: bytes, known: KnownCode) -> Iterator[bytes]:
        """It, as a worker takes it that keeps this, on a stream with this key."""
        for name, data in to_keep(self._parcel, kept, known):
            yield from _pieces(data)
            yield wire.frame(KEEP, name.encode())
        digest = hashlib.sha256()
        for part in self._parcel.request(self.id, [run.index for run in self.left]):
            digest.update(part)
            yield from _pieces(part)
        yield wire.frame(CALL, sign(key, digest.digest()))

    def begin(self, pod: str, node: str | None, namespace: str) -> None:
        """A worker has it, and nothing else before it."""
        self.began = time.monotonic()
        self.runs[0].moved(Whereabouts(Phase.RUNNING, pod=pod, node=node, namespace=namespace), list(self._left))

    # -- what the worker says

    @property
    def printed(self) -> int:
        """Bytes of output that have come."""
        return self._printed

    def hear(self, letter: bytes, content: bytes) -> None:
        """Take what the worker says of it."""
        if letter == OUTPUT:
            self.hear_output(content)
        elif letter == BODY:
            self.hear_body(content)
        elif letter == RESULT:
            self.hear_answer(content)
        elif letter == STREAMED and self.values is not None:
            self.values.hear(content)

    def hear_output(self, content: bytes) -> None:
        """Some of what it printed; what came before the stream broke may come again."""
        start, index = PLACE.unpack_from(content)
        new = content[PLACE.size + max(0, self._printed - start) :]
        self._printed = max(self._printed, start + len(content) - PLACE.size)
        for run in self.runs:
            if run.index == index and new:
                run.print(new)

    def forget_answer(self) -> None:
        """The stream is another one: what comes now begins anew."""
        self.returned.stream_broke()
        self._asked_back = False
        if self.values is not None:
            self.values.forget()
        self._body = Body()
        self._answer = None
        self._blocks = self._new_blocks()

    def hear_body(self, content: bytes) -> None:
        """A piece of a large outcome, or of a large value of a generator function."""
        if self.values is not None and self.values.hear_piece(content):
            return
        if self._parcel.stay is None:
            self._body.add(content)
        else:
            self._hear_blocks(content)

    def hear_answer(self, content: bytes) -> None:
        """The rest of a large outcome, or a small one."""
        if self._parcel.stay is None:
            self._answer = self._body.with_end(content)
            if FILES in content:
                self.returned.expect()
        else:
            self._hear_blocks(content)

    def _hear_blocks(self, content: bytes) -> None:
        try:
            for block in self._blocks.feed(content):
                self._take(list(records.split_records(block)))
        except wire.WireError as error:
            self.fail(corrupted(self.call, str(error)))

    def hear_given_back(self, content: bytes) -> list[Run]:
        """Those that have not begun, and never will there."""
        back = [self._left.pop(index, None) for index in records.unpack_indexes(content)]
        return [run for run in back if run is not None]

    @property
    def is_answered(self) -> bool:
        """Whether all of its outcomes have come."""
        return self._answer is not None or all(index in self.returned for index in self._left)

    # -- what those who wait for it are told

    def settle(self) -> None:
        """All has come, or all but files."""
        answer, self._answer = self._answer, None
        if answer is None:
            return
        try:
            envelope = verify(answer, self._parcel.submission.key, self.call, self._body.sha256)
        except ResultCorruptedError as error:
            self.fail(error)
            return
        self._take([record_of(envelope, self.runs[0].index)])

    def fetch_returned(self, fetch: Fetch) -> None:
        """Fetch the files of those outcomes that have some. Raises what ``fetch`` raises."""
        self._hand_on(self.returned.fetch(fetch))

    def _take(self, outcomes: Sequence[records.Record]) -> None:
        self._hand_on([each for each in outcomes if not self.returned.hold(each)])

    def _hand_on(self, outcomes: Sequence[records.Record]) -> None:
        known = [(self._left.pop(each.index, None), each) for each in outcomes]
        mine = [(run, each) for run, each in known if run is not None]
        if mine:
            mine[0][0].take([each for _, each in mine])
        for run, _ in mine:
            run.end()

    def fail(self, error: KubefuncError) -> None:
        """There will be no outcomes more."""
        self._has_failed = True
        for run in self.left:
            run.fail(error)
        self._left.clear()

    def lost(self, error: KubefuncError) -> None:
        """Its worker has gone: what has no outcome runs again, or gets this error."""
        left = [run for run in self.left if not run.over]
        if left:
            left[0].lost(error, [run.index for run in left])
        for run in left:
            run.end()


class Body:
    """A large outcome, hashed while it comes: verifying it at the end is then only a comparison."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._digest = hashlib.sha256()

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        self._digest.update(piece)

    def with_end(self, end: bytes) -> bytes:
        """All of it, and what follows. The pieces go."""
        if not self._pieces:
            return end
        pieces, self._pieces = self._pieces, []
        return b"".join((*pieces, end))

    @property
    def sha256(self) -> Callable[[int], str] | None:
        """The digest of so many bytes, which is all of it; None of an outcome that did not come in pieces."""
        return self._digest_of if self._size else None

    def _digest_of(self, size: int) -> str:
        return self._digest.hexdigest() if size == self._size else ""


def _pieces(data: bytes) -> Iterator[bytes]:
    view = memoryview(data)
    for start in range(0, len(view), PIECE):
        yield wire.frame(DATA, view[start : start + PIECE])

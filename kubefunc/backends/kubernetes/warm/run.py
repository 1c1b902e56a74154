"""One call, or one item of a map, on its way through a pool."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from kubefunc.backends.base import Lost, Sink, Submission, Whereabouts
from kubefunc.backends.runner_specs import runner_spec
from kubefunc.diagnosis import Phase
from kubefunc.envelope import record_of, verify
from kubefunc.errors import KubefuncError, ResultCorruptedError
from kubefunc.runner import ENV_INDEX, OUT_DIR
from kubefunc.runner.execution.request import CALL, join_request
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.attach import FOLDER
from kubefunc.runner.warm.frames import DATA, OFFSET

DIRECTORY = f"{OUT_DIR}/{FOLDER}"
PIECE = 1 << 18  # bytes of a request in one frame
OUTPUT_KEPT = 1 << 20  # bytes, for logs()


class Run:
    """What is known of it.

    Attributes:
        id: of this run; another run of the same item has another one.
        call: the id of the call or map.
        index: of the item; 0 of a call.
        began: when a worker was given it (monotonic clock); None before.
        over: nobody waits for it any more.
    """

    __slots__ = (
        "_answer",
        "_body",
        "_changed",
        "_output",
        "_printed",
        "_sink",
        "_submission",
        "began",
        "call",
        "id",
        "index",
        "over",
    )

    def __init__(self, submission: Submission, index: int, sink: Sink, changed: threading.Condition) -> None:
        """``changed`` is for all runs of a map: there may be very many."""
        self.call = submission.call
        self.index = index
        self.id = f"{submission.call}.{index}.{submission.attempt}"
        self.began: float | None = None
        self.over = False
        self._submission = submission
        self._sink = sink
        self._body: bytes | bytearray = b""
        self._answer: bytes | None = None
        self._printed = 0
        self._output = b""
        self._changed = changed

    @property
    def settled(self) -> bool:
        """Whether it has its outcome by now, or was cancelled."""
        return not self._sink.missing([self.index])

    # -- what the worker is told

    def frames(self) -> Iterator[bytes]:
        """It, as the worker takes it."""
        sent = self._submission
        data = join_request(self._header(), sent.payload.data, sent.items[self.index] if sent.shape == "map" else None)
        for start in range(0, len(data), PIECE):
            yield wire.frame(DATA, data[start : start + PIECE])
        yield wire.frame(CALL)

    def _header(self) -> dict[str, object]:
        return {
            "run": self.id,
            "spec": runner_spec(self._submission).replace(disruptions=self._submission.disruptions).as_json(),
            "key": self._submission.key.hex(),
            "payload": None,
            "directory": DIRECTORY,
            "cwd": None,
            "path": None,
            "set": {ENV_INDEX: str(self.index)} if self._submission.shape == "map" else {},
            "unset": [],
        }

    # -- what the worker says

    @property
    def printed(self) -> int:
        """Bytes of output that have come."""
        return self._printed

    def hear_output(self, content: bytes) -> None:
        """Some of what it printed; what came before the stream broke may come again."""
        (start,) = OFFSET.unpack_from(content)
        new = content[OFFSET.size + max(0, self._printed - start) :]
        if not new:
            return
        self._printed = start + len(content) - OFFSET.size
        with self._changed:
            self._output = (self._output + new)[-OUTPUT_KEPT:]
            self._changed.notify_all()
        self._sink.output([self.index], new)

    def forget_answer(self) -> None:
        """The stream is another one: what comes now begins anew."""
        self._body = b""
        self._answer = None

    def hear_body(self, content: bytes) -> None:
        """A piece of a large outcome."""
        if not isinstance(self._body, bytearray):
            self._body = bytearray(self._body)
        self._body += content

    def hear_answer(self, content: bytes) -> None:
        """The rest of the outcome."""
        self._answer = bytes(self._body) + content

    @property
    def is_answered(self) -> bool:
        """Whether its outcome has come."""
        return self._answer is not None

    # -- what those who wait for it are told

    def moved(self, where: Whereabouts) -> None:
        """It waits, or runs."""
        self._sink.moved([self.index], where)

    def settle(self) -> None:
        """Its outcome is there."""
        try:
            envelope = verify(self._answer or b"", self._submission.key, self.call)
        except ResultCorruptedError as error:
            self.fail(error)
            return
        self._sink.take([record_of(envelope, self.index)])
        self._end()

    def fail(self, error: KubefuncError) -> None:
        """There will be no outcome."""
        self._sink.fail([self.index], error)
        self._end()

    def lost(self, error: KubefuncError) -> None:
        """Its worker has gone: it runs again, or gets this error."""
        self._sink.lost([self.index], Lost(error))
        self._end()

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._end()

    def _end(self) -> None:
        with self._changed:
            self.over = True
            self._body, self._answer = b"", None
            self._changed.notify_all()

    def begin(self, pod: str, node: str | None, namespace: str) -> None:
        """A worker has it."""
        self.began = time.monotonic()
        self.moved(Whereabouts(Phase.RUNNING, pod=pod, node=node, namespace=namespace))

    def logs(self, follow: bool) -> Iterator[bytes]:
        """What it has printed, of a lot the end."""
        given = 0
        while True:
            with self._changed:
                first = self._printed - len(self._output)
                piece = bytes(self._output[max(0, given - first) :])
                given = self._printed
                if not piece and (self.over or not follow):
                    return
                if not piece:
                    self._changed.wait(1.0)
            if piece:
                yield piece

"""The items of one map on this machine: what is to run next, and what came of each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.backends.local.map_files import MapFiles
from kubefunc.backends.local.run import no_room
from kubefunc.backends.queue import LEAST_AHEAD, WorkQueue, items_ahead
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.errors import KubefuncError, WorkerDiedError
from kubefunc.runner import BACKOFF, CODE_OOM
from kubefunc.runner.execution import attempts, items
from kubefunc.runner.protocol.records import INDEX, Record, unpack_record
from kubefunc.runner.protocol.wire import LENGTH


class Ledger:
    """Of the map's thread alone. Knows no process: :class:`kubefunc.backends.local.crew.Crew` tells what happens.

    Attributes:
        queue: which item goes to the workers next.
        files: of the map.
        failure: why no item can run any more, where that is so.
    """

    def __init__(
        self, submission: Submission, sink: Sink, files: MapFiles, claim: Callable[[int], bool] | None = None
    ) -> None:
        """``claim``: asked before an item is sent, whether it is still to run. Given where items may be added."""
        self.failure: KubefuncError | None = None
        self.files = files
        self.queue = WorkQueue(submission.items)
        self._submission = submission
        self._sink = sink
        self._claim = claim or (lambda index: bool(sink.missing((index,))))
        self._may_grow = claim is not None
        self._items = dict(submission.items)
        self._records: list[Record] = []
        self._told: dict[int, int] = {}

    # -- to the workers

    def add(self, added: Mapping[int, bytes]) -> None:
        """More items."""
        self._items.update(added)
        self.queue.add(added)

    def next_item(self, workers: int) -> int | None:
        """The item to send now, where there is one, to so many workers."""
        # Nobody knows whether an executor's next task is like the last, and what is sent cannot be cancelled.
        ahead = LEAST_AHEAD if self._may_grow else items_ahead(self.queue.seconds)
        while (index := self.queue.next_item(workers, ahead)) is not None:
            if self._claim(index):
                return index
            self.queue.drop(index)  # it was cancelled
            del self._items[index]
        return None

    def arguments(self, index: int) -> bytes:
        """An item's, pickled."""
        return self._items[index]

    def attempt(self, index: int) -> int:
        """How often it was started when it starts the next time, with the attempts that had less memory."""
        return self._submission.used + self.queue.attempt(index)

    def give_up(self, index: int, recalled: Callable[[int], None]) -> None:
        """An item that was sent, and taken back before a worker had it."""
        self.queue.finish(index)
        self.files.remove_arguments(index, self._items[index])
        del self._items[index]
        recalled(index)

    # -- from the workers

    def take(self, letter: bytes, content: bytes, body: memoryview | None) -> int | None:
        """A worker says this; the item that it was at, unless it speaks for all.

        Args:
            letter: what it is about.
            content: the frame.
            body: of an outcome that came in memory.
        """
        if letter == items.BROKEN:
            self._broken(content)
            return None
        (index,) = INDEX.unpack_from(content)
        if letter == items.LARGE_RECORD:
            body = self.files.take_outcome(index)
        if self.queue.finish(index):
            self.files.remove_arguments(index, self._items[index])
            if letter == items.AGAIN:
                self._try_again(index)
            else:
                self._finish(unpack_record(content, body))
        return int(index)

    def _finish(self, record: Record) -> None:
        self.queue.measure(max(0.0, record.finished - record.started))
        try:
            record.files = self.files.take_files(record.index, record.header)
        except OSError as error:
            self._sink.fail((record.index,), no_room(self._submission.call, error))
        else:
            self._records.append(record)
        if self._may_grow:
            del self._items[record.index]

    def _try_again(self, index: int) -> None:
        self.queue.retry(index, time.monotonic() + attempts.back_off(BACKOFF, self.queue.attempt(index)))

    def _broken(self, content: bytes) -> None:
        """The function does not load: no item can run."""
        (size,) = LENGTH.unpack_from(content)
        start = LENGTH.size
        self.fail_left(json.loads(content[start : start + size]), content[start + size :])

    def printed(self, index: int, data: bytes) -> None:
        """This came while an item ran."""
        self._sink.output((index,), data)

    @property
    def arrived(self) -> int:
        """How many outcomes wait to be delivered."""
        return len(self._records)

    def deliver(self) -> None:
        """Tell what came."""
        if self._records:
            done, self._records = self._records, []
            self._sink.take(done)

    # -- failures

    def died(self, index: int, header: dict[str, Any]) -> None:
        """The worker that was at this item has died."""
        if not self.queue.finish(index):
            return
        self.files.remove_arguments(index, self._items[index])
        attempt, retries = self.attempt(index), self._submission.options.retries
        if attempt <= retries and header["code"] != CODE_OOM:
            line = attempts.announcement(self._submission.call, retries, attempt, header, index)
            self.printed(index, f"kubefunc: {line}\n".encode())
            self._try_again(index)
            return
        self._records.append(Record(index, 0.0, time.time(), attempt, header, b""))

    def fail_left(self, header: dict[str, Any], body: bytes = b"") -> None:
        """No item that has not ended can run."""
        now = time.time()
        left = self.queue.clear()
        self._records += [Record(index, 0.0, now, self.attempt(index), header, body) for index in left]

    def no_workers(self, why: str, advice: str) -> None:
        """None could be had for those that are left."""
        self._sink.fail(self.queue.clear(), _died(self._submission.call, why, advice))

    def end(self, why: str) -> None:
        """Nothing goes on."""
        self.failure = _died(self._submission.call, why, "Call again.")
        self._sink.fail(list(self._items), self.failure)

    # -- for those who watch

    def tell_where(self, at: dict[int, int]) -> None:
        """Which item each worker is at, by its number."""
        news: Sequence[int] = [index for number, index in at.items() if self._told.get(number) != index]
        self._told = at
        if news:
            self._sink.moved(news, Whereabouts(Phase.RUNNING))


def _died(call: str, why: str, advice: str) -> WorkerDiedError:
    told = Diagnosis("WorkerDied", f"The map was lost: {why}.", advice, Phase.FINISHED, call)
    return WorkerDiedError(str(told), diagnosis=told)

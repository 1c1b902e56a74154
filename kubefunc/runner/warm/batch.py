"""The supervisor of a batch: items that one request brought, in a process that stays."""

from __future__ import annotations

import hashlib
import time

from kubefunc.runner import EXIT_TERMINATED, EXIT_VALUE
from kubefunc.runner.execution import items
from kubefunc.runner.execution.attempts import FOREVER
from kubefunc.runner.execution.process import is_readable
from kubefunc.runner.pod.blocks import pieces_of
from kubefunc.runner.pod.chunk import ChildRun, Chunk
from kubefunc.runner.protocol import records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    from kubefunc.runner.execution.items import Item
    from kubefunc.runner.execution.process import Signals
    from kubefunc.runner.warm.request import WarmRequest
    from kubefunc.runner.warm.staying import Staying

    class BatchPort(Protocol):
        """What a batch needs of its worker, beside what a supervisor does."""

        @property
        def request(self) -> WarmRequest: ...
        def hand_over(self, due: Sequence[Item]) -> Staying: ...  # to the process that stays
        def drop_staying(self) -> None: ...  # it has ended
        def print_for(self, index: int) -> None: ...  # what comes now, this item has printed
        def answer(self, part: bytes | str) -> None: ...  # some of the outcome: bytes, or the path of a file
        def is_asked_back(self) -> bool: ...  # whether the client wants back what has not begun; once
        def give_back(self, indexes: Sequence[int]) -> None: ...


BLOCK_EVERY = 0.01  # seconds between blocks, for results that come faster
BLOCK_AT = 1 << 18  # bytes


class BlockSender:
    """Signs records in blocks and gives them to the worker, which sends and keeps them."""

    def __init__(self, port: BatchPort, key: bytes, call: str) -> None:
        self._port = port
        self._key = key
        self._call = call
        self._records: list[bytes] = []
        self._size = 0
        self._closed_at = -FOREVER
        self.count = 0

    def add(self, record: bytes) -> None:
        self._records.append(record)
        self._size += len(record)
        if self._size >= BLOCK_AT:
            self.flush()

    def left(self) -> float:
        """Seconds until what is there should be sent."""
        return max(0.0, self._closed_at + BLOCK_EVERY - time.monotonic()) if self._records else FOREVER

    def add_large(self, head: bytes, path: str) -> None:
        """A record whose body stands in a file: a block of its own."""
        self.flush()
        digest, size = hashlib.sha256(), 0
        for piece in pieces_of(head, path):
            digest.update(piece)
            size += len(piece)
        mac = records.block_mac(self._key, self._call, 0, self.count, digest.digest())
        self._port.answer(records.BLOCK.pack(records.BLOCK_MAGIC, self.count, size) + head)
        self._port.answer(path)
        self._port.answer(mac)
        self.count += 1

    def flush(self) -> None:
        """Send what is there."""
        if not self._records:
            return
        self._port.answer(records.seal_block(self._key, self._call, 0, self.count, b"".join(self._records)))
        self._records, self._size = [], 0
        self._closed_at = time.monotonic()
        self.count += 1


class Batch(Chunk):
    """Runs the items of one request."""

    port: BatchPort  # type: ignore[assignment]
    blocks: BlockSender  # type: ignore[assignment]

    def __init__(self, port: BatchPort, signals: Signals) -> None:
        super().__init__(port, signals)  # type: ignore[arg-type]
        self._child: ChildRun | None = None

    def new_blocks(self) -> Any:
        return BlockSender(self.port, self.port.request.key, self.spec.call)

    def run(self) -> int:
        """All items, each until it has an outcome or is given back; the exit code."""
        attempt = int(self.spec.used) + 1
        self.todo = {index: items.Item(index, data, attempt) for index, data in self.port.request.items()}
        while self.todo and self.broken is None and not self.is_ending():
            self.run_those_due()
        if self.broken is not None and not self.ending:
            self.give_reason(*self.broken)
        self.blocks.flush()
        return EXIT_TERMINATED if self.ending else EXIT_VALUE

    def run_items(self, due: Sequence[Item]) -> None:
        staying = self.port.hand_over(due)
        self._child = run = ChildRun(staying.child, due, staying.tickets)
        self.port.print_for(due[0].index)
        try:
            status = self.watch(run)
        except BaseException:
            staying.kill()
            raise
        if not run.ended:
            self.port.drop_staying()
        self.settle(run, status)

    def clear_up(self, run: ChildRun) -> None:
        """The process stays, with all that it has started, unless it has ended itself."""
        if not run.ended:
            super().clear_up(run)

    def share(self, run: ChildRun) -> None:
        """Give back what has not begun, if the client asks for it. Of items tried before, only this process knows."""
        if self.ending or any(item.attempt > 1 for item in run.due) or not self.port.is_asked_back():
            return
        taken = run.tickets.take_back(run.tickets.end - run.pace.begun)
        for position in taken:
            del self.todo[run.due[position].index]
        self.port.give_back([run.due[position].index for position in taken])

    def pump(self, output: int) -> bool:
        """An item's output comes after its beginning was reported, so that is read first."""
        run = self._child
        if run is not None:
            while run.process.frames in run.pipes and is_readable(run.process.frames) and self.read(run):
                pass
            if run.at is not None:
                self.port.print_for(run.at)
        return super().pump(output)

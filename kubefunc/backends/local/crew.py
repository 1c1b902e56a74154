"""The workers of one map on this machine: as many as there is work for, what they say, and how they die."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from kubefunc.backends.local.ears import Ears
from kubefunc.backends.local.ledger import Ledger
from kubefunc.backends.local.run import INLINE, LIMIT
from kubefunc.backends.local.workers import Pool, Seat
from kubefunc.runner import CODE_DIED
from kubefunc.runner.execution import attempts
from kubefunc.runner.execution.request import RECEIVE, REFUSED
from kubefunc.runner.local import worker
from kubefunc.runner.local.pool import DIED, MESSAGES

LOST_EVERY = 1.0
HIRE_AGAIN = 0.2  # seconds after which workers are asked for again where none could be had
MOST_REFUSALS = 10  # of workers, while none is there and nothing is done in between
_PUMP = 1 << 16


class Crew:
    """Of the map's thread alone. What comes of items goes into the ledger.

    Attributes:
        ears: the sockets and pipes of the workers; the map's thread listens there.
    """

    def __init__(self, ledger: Ledger, new_pool: Callable[[int], Pool], size: int) -> None:
        """No worker yet.

        Args:
            ledger: of the map's items.
            new_pool: gives a pool with room for so many workers.
            size: how many workers at once, at most.
        """
        self._ledger = ledger
        self._new_pool = new_pool
        self._size = size
        self._pool: Pool | None = None
        self.ears = Ears()
        self._queue_watched = False
        self._buffer = memoryview(bytearray(RECEIVE))  # receiving into new bytes would cost ten times as much
        self._lost_at = attempts.FOREVER
        self._losses = 0  # of pools, with nothing done in between
        self._refusals = 0  # of workers: the system gives no more processes
        self._hire_at = 0.0

    @property
    def next_look(self) -> float:
        """When :meth:`find_lost` is due."""
        return self._lost_at

    @property
    def is_missing(self) -> bool:
        """Whether there is no worker."""
        return self._pool is None or not self._pool.seats

    # -- to the workers

    def staff(self) -> None:
        """As many workers as there is work for."""
        if time.monotonic() < self._hire_at:
            return
        wanted = self._ledger.queue.workers_wanted(self._size)
        while wanted > (0 if self._pool is None else len(self._pool.seats)):
            try:
                self._hire()
            except OSError as error:
                if self.is_missing:
                    self._pool_died(error)
                return  # those that are there will do; the next round asks for more

    def _hire(self) -> None:
        pool = self._pool
        if pool is None:
            pool = self._pool = self._new_pool(self._size)
            pool.begin(self._ledger.files.request)
            self.ears.hear(pool.control, self._hear_pool)
        seat = pool.new_worker()
        self.ears.hear(seat.answers, lambda: self._hear(seat))
        self.ears.hear(seat.output, lambda: self._pump(seat))

    def feed(self) -> None:
        """Send items ahead, as long as there is room."""
        pool = self._pool
        if pool is None or not pool.seats:
            return
        while (index := self._ledger.next_item(len(pool.seats))) is not None:
            if not self._send(pool, index):
                self._watch_queue(pool)
                return
            self._ledger.queue.mark_sent(index)
        self._unwatch_queue(pool)

    def _send(self, pool: Pool, index: int) -> bool:
        """False where the queue is full."""
        data, attempt = self._ledger.arguments(index), self._ledger.attempt(index)
        try:
            if len(data) > INLINE:
                pool.send_large(index, attempt, data, self._ledger.files.arguments(index))
            else:
                pool.queue.send(worker.MESSAGE.pack(index, attempt, worker.INLINE) + data)
        except OSError as error:  # where the pool has died, we hear of that next
            if not isinstance(error, (BlockingIOError, ConnectionError)) and error.errno != errno.ENOBUFS:
                raise
            return False
        return True

    def take_back(self, recalled: Callable[[int], None]) -> None:
        """The items that no worker has begun; not those for which a worker is free: those have begun."""
        pool = self._pool
        if pool is None:
            return
        taken = pool.take_back()
        free = max(0, self._size - sum(pool.item_of(seat) is not None for seat in pool.seats.values()))
        for index in taken[:free]:
            self._send(pool, index)  # there is room: all of it was just taken out
        for index in taken[free:]:
            self._ledger.give_up(index, recalled)

    def _watch_queue(self, pool: Pool) -> None:
        if MESSAGES == socket.SOCK_DGRAM:
            return  # a socket for datagrams is always ready to be written to; the next outcome makes room
        if not self._queue_watched:
            self.ears.wait_for_room(pool.queue)
            self._queue_watched = True

    def _unwatch_queue(self, pool: Pool) -> None:
        if self._queue_watched:
            self.ears.drop(pool.queue)
            self._queue_watched = False

    # -- from the workers

    def _hear(self, seat: Seat) -> None:
        """What came of items; what they printed goes first."""
        self._pump(seat)
        try:
            size, ancillary, _, _ = seat.answers.recvmsg_into([self._buffer], worker.DESCRIPTOR_SPACE)
        except BlockingIOError:
            return
        except ConnectionError:
            size, ancillary = 0, []
        if not size:
            self.ears.drop(seat.answers)
            return
        if ancillary:
            seat.large.append(worker.take_descriptor(ancillary))
        for letter, content in seat.frames.feed(self._buffer[:size]):
            in_memory = letter == worker.MEMORY_RECORD
            body = memoryview(worker.read_memory(seat.large.popleft())) if in_memory else None
            index = self._ledger.take(letter, content, body)
            if index is not None:
                seat.last = index
                self._losses = self._refusals = 0

    def _pump(self, seat: Seat) -> None:
        """Pass on what it has printed: a worker waits at its item until that was taken."""
        while True:
            index = None if self._pool is None else self._pool.item_of(seat)
            try:
                data = os.read(seat.output, _PUMP)
            except BlockingIOError:
                return
            if not data:
                self.ears.drop(seat.output)
                return
            self._ledger.printed(seat.last if index is None else index, data)
            if len(data) < _PUMP:
                return

    def where(self) -> dict[int, int]:
        """The item that each worker is at, by its number."""
        seats = () if self._pool is None else self._pool.seats.values()
        return {seat.number: index for seat in seats if self._pool and (index := self._pool.item_of(seat)) is not None}

    # -- deaths

    def _hear_pool(self) -> None:
        pool = self._pool
        if pool is None:
            return
        message = _next_message(pool.control)
        if not message:
            self._pool_died(None)
        elif message[:1] == DIED:
            report = json.loads(message[1:])
            seat = pool.seats.get(report["seat"])
            if seat is None:
                pool.drop_blank(report["seat"])
            else:
                self._worker_died(pool, seat, report["header"])
        elif message[:1] == REFUSED:
            self._worker_refused(pool, **json.loads(message[1:]))

    def _worker_refused(self, pool: Pool, seat: int | None, why: str) -> None:
        """The system gives no more processes: those that are there do the work, as long as there is one."""
        if seat is None:
            self._pool_died(OSError(why))
            return
        mine = pool.seats.get(seat)
        if mine is None:
            pool.drop_blank(seat)
            return
        self._let_go(pool, mine)
        self._hire_later(why)

    def _hire_later(self, why: str) -> None:
        self._hire_at = time.monotonic() + HIRE_AGAIN
        if not self.is_missing:
            return
        self._refusals += 1
        if self._refusals > MOST_REFUSALS:
            self._ledger.no_workers(f"no worker process could be started for it ({why})", LIMIT)

    def _worker_died(self, pool: Pool, seat: Seat, header: dict[str, Any]) -> None:
        """It costs the item that it was at. What it had to say before is taken in first."""
        loading, index = pool.is_loading(seat), pool.item_of(seat)
        self._drain(seat)
        self._let_go(pool, seat)
        if loading:  # so would the next
            self._ledger.fail_left(header)
        elif index is not None:
            self._ledger.died(index, header)
        self._lost_at = min(self._lost_at, time.monotonic() + LOST_EVERY)

    def _drain(self, seat: Seat) -> None:
        self._pump(seat)
        while self.ears.hears(seat.answers):
            before = self._ledger.arrived
            self._hear(seat)
            if self._ledger.arrived == before and not _readable(seat.answers):
                return

    def _let_go(self, pool: Pool, seat: Seat) -> None:
        self.ears.drop(seat.answers)
        self.ears.drop(seat.output)
        del pool.seats[seat.number]
        seat.close()

    def _pool_died(self, error: OSError | None) -> None:
        """Its workers have died with it: another begins, unless that one dies too before anything is done.

        Args:
            error: why it could not be started, where that is so.
        """
        pool, self._pool = self._pool, None
        self._losses += error is None
        header = attempts.error_header(CODE_DIED, {"signal": 9})
        if pool is not None:
            self._unwatch_queue(pool)
            self.ears.drop(pool.control)
            for seat in list(pool.seats.values()):
                index = pool.item_of(seat)
                self._drain(seat)
                self._let_go(pool, seat)
                if index is not None:
                    self._ledger.died(index, header)
            pool.end()
            pool.remove_file()
        self._ledger.queue.put_back_sent()
        if error is not None:
            self._hire_later(str(error))
        elif self._losses > 2:
            self._ledger.fail_left(header)

    def find_lost(self) -> None:
        """An item whose worker was killed after it had taken it and before it could note so: it never began."""
        pool = self._pool
        self._lost_at = time.monotonic() + LOST_EVERY
        if pool is None or pool.unread() is not False:
            return
        self._ledger.queue.put_back_lost(set(self.where().values()))

    # -- the end

    def say_goodbye(self, until: float, is_cancelled: Callable[[], bool]) -> None:
        """Workers end by themselves at the end of the queue: their exit handlers run."""
        pool = self._pool
        if pool is None:
            return
        self._unwatch_queue(pool)
        pool.end_queue()
        while self._pool is pool and pool.seats and not is_cancelled() and (left := until - time.monotonic()) > 0:
            self.ears.listen(left)

    def end(self) -> None:
        """All that is left."""
        if self._pool is not None:
            self._pool.end()
            self._pool.remove_file()
        self.ears.close()

    def forget(self) -> None:
        """In a forked child: close what was inherited."""
        if self._pool is not None:
            self._pool.close()
        self.ears.close()


def _readable(connection: socket.socket) -> bool:
    """Not by select(): a program with more than 1,024 open files has descriptors that it does not take."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except ConnectionError:
        pass  # there is news: its end
    return True


def _next_message(control: socket.socket) -> bytes:
    """Empty where the other side has gone. What it said last comes after the reset, where it left something unread."""
    for _ in range(2):
        try:
            return control.recv(RECEIVE)
        except OSError:
            continue
    return b""

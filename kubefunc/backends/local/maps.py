"""Maps on this machine: items go to a queue, workers take them, one thread here hears what came of each."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.backends.local.run import INLINE, LIMIT, request_header, write_file
from kubefunc.backends.local.workers import Pool, Seat, close_all
from kubefunc.backends.queue import LEAST_AHEAD, MOST_AHEAD, WorkQueue, items_ahead
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.errors import KubefuncError, WorkerDiedError
from kubefunc.runner import BACKOFF, CODE_DIED, CODE_OOM
from kubefunc.runner.execution import attempts, items
from kubefunc.runner.local import worker
from kubefunc.runner.local.pool import DIED, MESSAGES
from kubefunc.runner.local.request import RECEIVE, REFUSED, join_request
from kubefunc.runner.protocol.records import INDEX, Record, unpack_record
from kubefunc.runner.protocol.wire import LENGTH

BRISK = 0.0002  # seconds: where items are shorter, their outcomes are heard together
TOGETHER = 0.0005
LOOK_EVERY = 0.25  # seconds: at who is at which item, for those who watch
LOST_EVERY = 1.0
HIRE_AGAIN = 0.2  # seconds after which workers are asked for again where none could be had
MOST_REFUSALS = 10  # of workers, while none is there and nothing is done in between
_PUMP = 1 << 16


class LocalMap:
    """One map from submission to its end; everything happens in its thread, but for what the methods below say."""

    def __init__(
        self,
        submission: Submission,
        sink: Sink,
        directory: Path,
        environ: Mapping[str, str],
        new_pool: Callable[[int], Pool],
        ended: Callable[[LocalMap], None],
        *,
        workers: int,
        claim: Callable[[int], bool] | None = None,
    ) -> None:
        """Ready to start.

        Args:
            submission: what to run.
            sink: who is told.
            directory: for its files.
            environ: the environment that workers begin with.
            new_pool: gives a pool with room for so many workers.
            ended: told when nothing is left of it.
            workers: how many at once, at most.
            claim: asked before an item is sent, whether it still is to run. Given for a map that stays open: items may
                be added until ``no_more()``.
        """
        self.submission = submission
        self._sink = sink
        self._directory = directory / f"{submission.call}.{submission.attempt}"
        self._new_pool = new_pool
        self._ended = ended
        self._workers = workers
        self._open = claim is not None
        self._claim = claim or (lambda index: bool(sink.missing((index,))))
        self._items = dict(submission.items)
        self._queue = WorkQueue(self._items)
        self._records: list[Record] = []
        self._buffer = memoryview(bytearray(RECEIVE))  # receiving into new bytes would cost ten times as much
        self._told: dict[int, int] = {}
        self._look_at = 0.0
        self._lost_at = attempts.FOREVER
        self._losses = 0  # of pools, with nothing done in between
        self._refusals = 0  # of workers: the system gives no more processes
        self._hire_at = 0.0
        self._recalled: Callable[[int], None] | None = None  # who is told of items that are taken back
        self.failure: KubefuncError | None = None
        self._cancelled = False
        self._ending = False
        self._lock = threading.RLock()  # reentrant: an executor that is collected says so wherever that happens
        self._added: list[int] = []
        self._wake, self._wake_end = self._pipe = list(os.pipe())
        os.set_blocking(self._wake, False)
        os.set_blocking(self._wake_end, False)
        self._selector = selectors.DefaultSelector()
        self._queue_watched = False
        self._pool: Pool | None = None
        self._request = self._write_request(environ)
        self._thread = threading.Thread(target=self._run, name=f"kubefunc-{submission.call}", daemon=True)

    # -- from any thread

    def start(self) -> None:
        self._thread.start()

    def add(self, index: int, data: bytes) -> None:
        """One more item, while it stays open."""
        with self._lock:
            self._items[index] = data
            self._added.append(index)
        self._nudge()

    def no_more(self) -> None:
        """No item will be added: it ends when all have ended."""
        self._open = False
        self._nudge()

    def recall(self, recalled: Callable[[int], None]) -> None:
        """Take back the items that no worker has begun, and tell of each."""
        self._recalled = recalled
        self._nudge()

    def cancel(self) -> None:
        """Stop everything."""
        self._cancelled = True
        self._nudge()

    @property
    def is_ending(self) -> bool:
        """Whether all items have ended, and workers run their exit handlers."""
        return self._ending

    def code_directory(self, index: int) -> Path:
        """Where modules go that travel with this item alone."""
        return self._file(f"code.of.{index}")

    def join(self, seconds: float | None) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def forget(self) -> None:
        """In a forked child: close what was inherited. The files are the parent's."""
        if self._pool is not None:
            self._pool.close()
        self._selector.close()
        close_all(self._pipe)

    def _nudge(self) -> None:
        if not self._pipe:  # it has ended; in a forked child, where the lock may never be released, it was never there
            return
        with self._lock:  # once the pipe is closed, its number may be another file's
            if self._pipe:
                with contextlib.suppress(BlockingIOError):  # full: it will wake up
                    os.write(self._wake_end, b".")

    # -- the thread

    def _run(self) -> None:
        try:
            self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
            while not self._is_over():
                self._step()
            self._say_goodbye()
            if self._cancelled:
                self._fail("it was ended")
        except Exception as error:  # noqa: BLE001 - our own fault must not leave anybody waiting
            traceback.print_exc()
            self._fail(f"the thread that watched it has failed ({error})")
        finally:
            self._clean_up()
            self._ended(self)

    def _fail(self, why: str) -> None:
        """All that has not ended."""
        self.failure = _died(self.submission.call, why)
        self._sink.fail(list(self._items), self.failure)

    def _is_over(self) -> bool:
        if self._cancelled:
            return True
        with self._lock:
            return not (self._open or self._added) and self._queue.is_empty

    def _step(self) -> None:
        self._queue.release_due(time.monotonic())
        self._take_back()
        self._staff()
        self._feed()
        seconds = self._queue.seconds
        if seconds is not None and seconds < BRISK and len(self._queue.sent) > MOST_AHEAD // 2:
            time.sleep(TOGETHER)  # to wake up for each would cost more than they take
        self._listen(self._patience())
        self._deliver()
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._look()
        if now >= self._lost_at:
            self._find_lost()

    def _listen(self, seconds: float | None) -> None:
        watched = self._selector.get_map()
        for key, _ in self._selector.select(seconds):
            if key.fd in watched:  # else it was let go since select() said so
                key.data()

    def _patience(self) -> float | None:
        due = self._queue.next_due
        times = [] if due is None else [due]
        if self._queue.sent:
            times += [self._look_at, self._lost_at]
        if self._queue.waiting and (self._pool is None or not self._pool.seats):
            times.append(time.monotonic() + HIRE_AGAIN)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, 512)
        with self._lock:
            added, self._added = self._added, []
            self._queue.add(added)

    # -- to the workers

    def _staff(self) -> None:
        """As many workers as there is work for."""
        if time.monotonic() < self._hire_at:
            return
        wanted = self._queue.workers_wanted(self._workers)
        while wanted > (0 if self._pool is None else len(self._pool.seats)):
            try:
                self._hire()
            except OSError as error:
                if self._pool is None or not self._pool.seats:
                    self._pool_died(error)
                return  # those that are there will do; the next round asks for more

    def _hire(self) -> None:
        pool = self._pool
        if pool is None:
            pool = self._pool = self._new_pool(self._workers)
            pool.begin(self._request)
            self._selector.register(pool.control, selectors.EVENT_READ, self._hear_pool)
        seat = pool.new_worker()
        self._selector.register(seat.answers, selectors.EVENT_READ, lambda: self._hear(seat))
        self._selector.register(seat.output, selectors.EVENT_READ, lambda: self._pump(seat))

    def _feed(self) -> None:
        pool = self._pool
        if pool is None or not pool.seats:
            return
        # Nobody knows whether an executor's next task is like the last, and what is sent cannot be cancelled.
        ahead = LEAST_AHEAD if self._open else items_ahead(self._queue.seconds)
        while (index := self._queue.next_item(len(pool.seats), ahead)) is not None:
            if not self._claim(index):  # it was cancelled
                self._queue.drop(index)
                del self._items[index]
            elif self._send(pool, index):
                self._queue.mark_sent(index)
            else:
                self._watch_queue(pool)
                return
        self._unwatch_queue(pool)

    def _send(self, pool: Pool, index: int) -> bool:
        """False where the queue is full."""
        data, attempt = self._items[index], self._queue.attempt(index)
        try:
            if len(data) > INLINE:
                pool.send_large(index, attempt, data, self._file(f"args.{index}"))
            else:
                pool.queue.send(worker.MESSAGE.pack(index, attempt, worker.INLINE) + data)
        except OSError as error:  # where the pool has died, we hear of that next
            if not isinstance(error, (BlockingIOError, ConnectionError)) and error.errno != errno.ENOBUFS:
                raise
            return False
        return True

    def _take_back(self) -> None:
        """Not the items for which a worker is free: those have begun."""
        recalled, self._recalled = self._recalled, None
        pool = self._pool
        if recalled is None or pool is None:
            return
        taken = pool.take_back()
        free = max(0, self._workers - sum(pool.item_of(seat) is not None for seat in pool.seats.values()))
        for index in taken[:free]:
            self._send(pool, index)  # there is room: all of it was just taken out
        for index in taken[free:]:
            self._queue.finish(index)
            self._remove_arguments(index)
            self._items.pop(index, None)
            recalled(index)

    def _watch_queue(self, pool: Pool) -> None:
        if MESSAGES == socket.SOCK_DGRAM:
            return  # a socket for datagrams is always ready to be written to; the next outcome makes room
        if not self._queue_watched:
            self._selector.register(pool.queue, selectors.EVENT_WRITE, lambda: None)
            self._queue_watched = True

    def _unwatch_queue(self, pool: Pool) -> None:
        if self._queue_watched:
            self._selector.unregister(pool.queue)
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
            self._unwatch(seat.answers)
            return
        if ancillary:
            seat.large.append(worker.take_descriptor(ancillary))
        for letter, content in seat.frames.feed(self._buffer[:size]):
            self._take(seat, letter, content)

    def _take(self, seat: Seat, letter: bytes, content: bytes) -> None:
        if letter == items.BROKEN:
            self._broken(content)
            return
        (index,) = INDEX.unpack_from(content)
        body = self._large_body(seat, letter, index)
        seat.last = index
        self._losses = self._refusals = 0
        if not self._queue.finish(index):
            return
        self._remove_arguments(index)
        if letter == items.AGAIN:
            self._try_again(index)
            return
        self._finish(unpack_record(content, body))

    def _large_body(self, seat: Seat, letter: bytes, index: int) -> memoryview | None:
        if letter == worker.MEMORY_RECORD:
            return memoryview(worker.read_memory(seat.large.popleft()))
        if letter == items.LARGE_RECORD:
            path = self._file(f"item.{index}")
            body = path.read_bytes()
            path.unlink()
            return memoryview(body)
        return None

    def _finish(self, record: Record) -> None:
        self._queue.measure(max(0.0, record.finished - record.started))
        self._records.append(record)
        if self._open:
            self._items.pop(record.index, None)

    def _deliver(self) -> None:
        if self._records:
            done, self._records = self._records, []
            self._sink.take(done)

    def _pump(self, seat: Seat) -> None:
        """Pass on what it has printed: a worker waits at its item until that was taken."""
        while True:
            index = None if self._pool is None else self._pool.item_of(seat)
            try:
                data = os.read(seat.output, _PUMP)
            except BlockingIOError:
                return
            if not data:
                self._unwatch(seat.output)
                return
            self._sink.output((seat.last if index is None else index,), data)
            if len(data) < _PUMP:
                return

    def _try_again(self, index: int) -> None:
        self._queue.retry(index, time.monotonic() + attempts.back_off(BACKOFF, self._queue.attempt(index)))

    def _broken(self, content: bytes) -> None:
        """The function does not load: no item can run."""
        (size,) = LENGTH.unpack_from(content)
        start = LENGTH.size
        self._fail_all(json.loads(content[start : start + size]), content[start + size :])

    def _fail_all(self, header: dict[str, Any], body: bytes = b"") -> None:
        now = time.time()
        left = self._queue.clear()
        self._records += [Record(index, 0.0, now, self._queue.attempt(index), header, body) for index in left]

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
        if self._pool is not None and self._pool.seats:
            return
        self._refusals += 1
        if self._refusals > MOST_REFUSALS:
            left = self._queue.clear()
            self._sink.fail(
                left, _died(self.submission.call, f"no worker process could be started for it ({why})", LIMIT)
            )

    def _worker_died(self, pool: Pool, seat: Seat, header: dict[str, Any]) -> None:
        """It costs the item that it was at. What it had to say before is taken in first."""
        loading, index = pool.is_loading(seat), pool.item_of(seat)
        self._drain(seat)
        self._let_go(pool, seat)
        if loading:  # so would the next
            self._fail_all(header)
        elif index is not None and self._queue.finish(index):
            self._item_died(index, header)
        self._lost_at = min(self._lost_at, time.monotonic() + LOST_EVERY)

    def _drain(self, seat: Seat) -> None:
        self._pump(seat)
        while seat.answers in self._selector.get_map():
            before = len(self._records)
            self._hear(seat)
            if len(self._records) == before and not _readable(seat.answers):
                return

    def _let_go(self, pool: Pool, seat: Seat) -> None:
        self._unwatch(seat.answers)
        self._unwatch(seat.output)
        del pool.seats[seat.number]
        seat.close()

    def _unwatch(self, each: socket.socket | int) -> None:
        with contextlib.suppress(KeyError):  # its end was seen before
            self._selector.unregister(each)

    def _item_died(self, index: int, header: dict[str, Any]) -> None:
        self._remove_arguments(index)
        attempt = self._queue.attempt(index)
        if attempt <= self.submission.options.retries and header["code"] != CODE_OOM:
            line = attempts.announcement(self.submission.call, self.submission.options.retries, attempt, header, index)
            self._sink.output((index,), f"kubefunc: {line}\n".encode())
            self._try_again(index)
            return
        now = time.time()
        self._records.append(Record(index, 0.0, now, attempt, header, b""))

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
            self._unwatch(pool.control)
            for seat in list(pool.seats.values()):
                index = pool.item_of(seat)
                self._drain(seat)
                self._let_go(pool, seat)
                if index is not None and self._queue.finish(index):
                    self._item_died(index, header)
            pool.end()
            pool.remove_file()
        self._queue.put_back_sent()
        if error is not None:
            self._hire_later(str(error))
        elif self._losses > 2:
            self._fail_all(header)

    def _find_lost(self) -> None:
        """An item whose worker was killed after it had taken it and before it could note so: it never began."""
        pool = self._pool
        self._lost_at = time.monotonic() + LOST_EVERY
        if pool is None or pool.unread() is not False:
            return
        held = {item for seat in pool.seats.values() if (item := pool.item_of(seat)) is not None}
        self._queue.put_back_lost(held)

    # -- for those who watch

    def _look(self) -> None:
        pool = self._pool
        if pool is None:
            return
        at = {seat.number: index for seat in pool.seats.values() if (index := pool.item_of(seat)) is not None}
        news = [index for number, index in at.items() if self._told.get(number) != index]
        self._told = at
        if news:
            self._sink.moved(news, Whereabouts(Phase.RUNNING))

    # -- the end

    def _say_goodbye(self) -> None:
        """Workers end by themselves at the end of the queue: their exit handlers run."""
        self._ending = True
        self._deliver()
        pool = self._pool
        if pool is None or self._cancelled:
            return
        self._unwatch_queue(pool)
        pool.end_queue()
        until = time.monotonic() + attempts.EXIT_GRACE
        while self._pool is pool and pool.seats and not self._cancelled and (left := until - time.monotonic()) > 0:
            self._listen(left)

    def _clean_up(self) -> None:
        if self._pool is not None:
            self._pool.end()
            self._pool.remove_file()
        self._selector.close()
        with self._lock:
            close_all(self._pipe)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _remove_arguments(self, index: int) -> None:
        if len(self._items[index]) > INLINE:
            self._file(f"args.{index}").unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._directory / f"{self.submission.call}.{name}"

    def _write_request(self, environ: Mapping[str, str]) -> Path:
        """What workers are told; their surroundings are the caller's at this moment."""
        self._directory.mkdir()
        header = request_header(self.submission, self._directory, environ)
        header["payload"] = str(self._file("payload"))
        write_file(self._file("payload"), self.submission.payload.data)
        path = self._file("request")
        write_file(path, join_request(header, b""))
        return path


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


def _died(call: str, why: str, advice: str = "Call again.") -> WorkerDiedError:
    told = Diagnosis("WorkerDied", f"The map was lost: {why}.", advice, Phase.FINISHED, call)
    return WorkerDiedError(str(told), diagnosis=told)

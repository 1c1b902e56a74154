"""A pool: it forks the workers of one map (:mod:`kubefunc.runner.local.worker`), tells how they died, and ends them.

Items and outcomes do not pass through here. Messages on its socket, each with the descriptors that belong to it:

``Q``  from the client, first: the path of the file with the workers' seats. With it: the workers' end of the queue.
``W``  from the client: a seat (JSON): fork a worker for it. With it: the worker's socket, and the pipe for its output.
``S``  from the client: the path of a file with the map's request (:class:`kubefunc.runner.execution.request.Request`).
       Workers get it by themselves: they may be forked before there is a map.
``D``  to the client: a worker has died (JSON: ``seat``, ``header``: what became of the item that it was at).
``F``  to the client: a worker cannot be forked (JSON: ``seat``, ``why``), or the pool itself (``seat`` is null).

The end of the socket ends the pool: its workers get SIGTERM, and after a grace SIGKILL.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import sys
import time

from kubefunc.runner import CODE_DIED, CODE_OOM, CODE_TIMEOUT, EXIT_BROKEN
from kubefunc.runner.execution import attempts, memory
from kubefunc.runner.execution.orphans import become_subreaper, kill_orphans
from kubefunc.runner.execution.process import Signals, become_child, kill_group, lead_group, print_fault, take_over
from kubefunc.runner.execution.request import END_GRACE, REFUSED, Request, read_request
from kubefunc.runner.local import worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

QUEUE = b"Q"
START = b"S"
NEW_WORKER = b"W"
DIED = b"D"
# Whole messages, and the end of the other side is seen. macOS has no such sockets for one machine, only datagrams.
MESSAGES: socket.SocketKind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
_LARGEST = 1 << 16
_LOOK_EVERY = 0.05  # seconds: at the workers' notes, where items have a timeout


class Pool:
    """Forks workers until its client or the server is gone."""

    def __init__(self, client: socket.socket, life: int, signals: Signals) -> None:
        self.client = client
        self.life = life
        self.signals = signals
        self.workers: dict[int, int] = {}  # seats by process
        self.timed_out: set[int] = set()
        self.oom_kills = memory.oom_kills()
        self.request: Request | None = None
        self.queue: socket.socket | None = None
        self.notes: mmap.mmap

    def serve(self) -> None:
        """Until the client closes its end, or dies."""
        try:
            self._serve()
        finally:
            if self.queue is not None:
                self.queue.close()

    def _serve(self) -> None:
        watched = [self.client.fileno(), self.life, self.signals.pipe]
        pause: float | None = None
        while True:
            ready, _, _ = select.select(watched, [], [], pause)
            if self.life in ready:
                break
            if self.signals.pipe in ready:
                if self.signals.drain():
                    break
                self._reap()
            if self.client.fileno() in ready and not self._hear():
                self._terminate()
                break
            timeout = None if self.request is None else self.request.spec.timeout
            if timeout is not None:
                self._kill_overdue(timeout + attempts.STACKS_GRACE)
            pause = _LOOK_EVERY if self.workers and timeout is not None else None
        for pid in self.workers:  # by their own ids: not every system tells of a process's children
            kill_group(pid, signal.SIGKILL)
        kill_orphans(keep=set())

    def _hear(self) -> bool:
        try:
            message, descriptors, _, _ = socket.recv_fds(self.client, _LARGEST, 4)
        except ConnectionError:  # the client died with something of ours unread
            return False
        for descriptor in descriptors:
            take_over(descriptor)
        letter, content = message[:1], message[1:]
        if letter == QUEUE:
            self.queue = socket.socket(fileno=descriptors[0])
            try:
                self.notes = _mapped(content)
            except FileNotFoundError as error:  # its folder was removed: by the client, which is ending, or by someone
                self._tell(REFUSED, {"seat": None, "why": str(error)})
                return False
        elif letter == START:
            self.request = read_request(os.fsdecode(content))
        elif letter == NEW_WORKER:
            self._fork(json.loads(content), *descriptors)
        return bool(message)

    def _fork(self, seat: int, answers: int, output: int) -> None:
        worker.NOTE.pack_into(self.notes, seat * worker.NOTE.size, time.monotonic(), worker.LOADING)
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, too little memory: those that run go on
            self._tell(REFUSED, {"seat": seat, "why": str(error)})
        else:
            if pid == 0:
                self._become_worker(seat, answers, output)
            lead_group(pid)
            self.workers[pid] = seat
        os.close(answers)
        os.close(output)

    def _become_worker(self, seat: int, answers: int, output: int) -> None:
        try:
            self.signals.forget()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.client.close()
            os.close(self.life)
            become_child(output)
            become_subreaper()
            with socket.socket(fileno=answers) as connection, self._queue() as queue:
                worker.serve(seat, queue, connection, self.notes)
            os._exit(0)
        except BaseException:
            print_fault()
        finally:
            os._exit(EXIT_BROKEN)

    def _queue(self) -> socket.socket:
        if self.queue is None:
            raise RuntimeError("a worker before the queue")
        return self.queue

    def _reap(self) -> None:
        """Tell of workers that have ended. Whatever they left goes: it is no other worker's."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            seat = self.workers.pop(pid, None)
            if seat is None:
                continue
            kill_group(pid, signal.SIGKILL)
            kill_orphans(keep=set(self.workers))
            self._tell(DIED, {"seat": seat, "header": self._verdict(seat, status)})

    def _tell(self, letter: bytes, report: dict[str, Any]) -> None:
        try:
            self.client.send(letter + json.dumps(report).encode())
        except OSError:  # it has closed its end, which is why workers die
            pass

    def _verdict(self, seat: int, status: int) -> dict[str, Any]:
        """What the header says of the item that the worker was at: the clock, the kernel, or how it ended."""
        code, detail = CODE_DIED, {}
        before, self.oom_kills = self.oom_kills, memory.oom_kills()
        if self.request is not None and (seat in self.timed_out or self._timeout_has_come(seat, self.request)):
            self.timed_out.discard(seat)
            stacks = attempts.read_stacks(self.request.path(f"stacks.{seat}"))
            code, detail = CODE_TIMEOUT, {"timeout": self.request.spec.timeout, "stacks": stacks}
        elif not os.WIFSIGNALED(status):
            detail = {"exit_code": os.WEXITSTATUS(status)}
        elif os.WTERMSIG(status) == signal.SIGKILL and self.oom_kills > before:
            code, detail = CODE_OOM, {"limit": memory.memory_limit()}
        else:
            detail = {"signal": os.WTERMSIG(status)}
        return attempts.error_header(code, detail)

    def _timeout_has_come(self, seat: int, request: Request) -> bool:
        """Whether a worker that died did so at its item's timeout: of faulthandler, perhaps."""
        return request.spec.timeout is not None and self._is_overdue(seat, request.spec.timeout)

    def _kill_overdue(self, allowed: float) -> None:
        """The worker's own faulthandler has written the stacks by now."""
        for pid, seat in self.workers.items():
            if self._is_overdue(seat, allowed) and self._is_overdue(
                seat, allowed
            ):  # the note may have changed while it was read
                self.timed_out.add(seat)
                kill_group(pid, signal.SIGKILL)

    def _is_overdue(self, seat: int, allowed: float) -> bool:
        since, what = worker.NOTE.unpack_from(self.notes, seat * worker.NOTE.size)
        return bool(what >= worker.FIRST and time.monotonic() - since > allowed)

    def _terminate(self) -> None:
        """Politely first."""
        for pid in self.workers:
            kill_group(pid, signal.SIGTERM)
        until = time.monotonic() + END_GRACE
        while self.workers and (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([self.life, self.signals.pipe], [], [], left)
            if self.life in ready:
                return
            self.signals.drain()
            self._reap()


def _mapped(path: bytes) -> mmap.mmap:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 0)

"""Processes by fork: one server (:mod:`kubefunc.runner.local.server`) forks slots, each runs one call after another,
every call in a fresh process. One thread here reads what all slots say.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
import traceback
from pathlib import Path

from kubefunc.backends.local.launch import ServerProcess
from kubefunc.backends.local.run import INLINE, Ended, Run, not_started
from kubefunc.backends.local.workers import close_all
from kubefunc.runner.execution.request import CALL, ENDED, RECEIVE, REFUSED, TERMINATE
from kubefunc.runner.local.pool import MESSAGES
from kubefunc.runner.local.server import NEW_POOL, NEW_SLOT
from kubefunc.runner.protocol import wire

KEPT_IDLE = max(2, os.cpu_count() or 1)  # slots that wait for the next call
SOCKET_BUFFER = 4 * INLINE
SERVER_END = 3.0  # seconds that the server gets to kill what it has started
# Seconds between the end of a slot and that of its server, when both are one: a kernel closes the files of a process
# that is killed in an order of its own.
SERVER_GONE = 0.1


class _Slot:
    """One end of a slot's socket, and the call that runs there."""

    def __init__(self, ours: socket.socket, server: ServerProcess) -> None:
        self.socket = ours
        self.server = server
        self.frames = wire.Frames()
        self.run: Run | None = None
        self.refused = ""  # why no process could be started for it

    def send(self, letter: bytes, data: bytes = b"") -> bool:
        """False if nobody is there."""
        try:
            self.socket.sendall(wire.frame(letter, data))
        except OSError:
            return False
        return True

    def is_refused(self) -> bool:
        """Whether it is there no more because no process could be started for it."""
        if not self.refused:
            with contextlib.suppress(OSError):
                self.take(self.socket.recv(RECEIVE, socket.MSG_DONTWAIT))
        return bool(self.refused)

    def take(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """What these bytes say."""
        said = self.frames.feed(data)
        self.refused = next((content.decode() for letter, content in said if letter == REFUSED), self.refused)
        return said


def _open_slot_of(server: ServerProcess) -> _Slot:
    ours = server.open(NEW_SLOT, socket.SOCK_STREAM)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    return _Slot(ours, server)


class Forked:
    """Implements :class:`kubefunc.backends.local.run.Processes`."""

    def __init__(self, directory: Path, ended: Ended, server: ServerProcess | None, environ: dict[str, str]) -> None:
        """With a server that is starting, if there is one; and the environment that it, or another one, gets."""
        self.environ = environ
        self._directory = directory
        self._ended = ended
        self._lock = threading.RLock()
        self._server = server
        self._slots: set[_Slot] = set()
        self._idle: list[_Slot] = []
        self._ended_once = False
        self._selector = selectors.DefaultSelector()
        self._wake, self._wake_end = self._pipe = list(os.pipe())
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._new: list[tuple[socket.socket, _Slot | ServerProcess]] = []  # sockets that the reader does not watch yet
        self._reader = threading.Thread(target=self._read, name="kubefunc-local", daemon=True)
        self._reads = False
        self._closed = False
        if server is not None:
            self._watch(server.control, server)

    def warm(self) -> None:
        with self._lock:
            self._running_server()

    def start(self, run: Run) -> None:
        with self._lock:
            while True:
                slot = self._free_slot()
                slot.run = run  # before the send: the answer may be quicker than this thread
                if slot.send(CALL, run.request):
                    run.request = b""
                    self._keep_one_ready()
                    return
                slot.run = None  # it has died idle: the reader hears of that and lets it go
                if slot.is_refused():  # and so would all others be, quicker than they can be given the call
                    raise OSError(slot.refused)

    def end(self, run: Run) -> None:
        with self._lock:
            for slot in list(self._slots):
                if slot.run is run:
                    slot.send(TERMINATE)

    def close(self, until: float) -> None:
        with self._lock:
            self._closed = True
            server = self._server
        os.write(self._wake_end, b".")
        if self._reader.is_alive() and self._reader is not threading.current_thread():
            self._reader.join(max(0.1, until - time.monotonic()))
        if server is not None:
            server.end(max(0.5, until - time.monotonic()))
        self._close_descriptors()

    def forget(self) -> None:
        if self._server is not None:
            self._server.forget()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for slot in list(self._slots):  # the reader may be at work yet
            slot.socket.close()
        self._selector.close()
        close_all(self._pipe)

    # -- to the slots; the lock is held

    def _running_server(self) -> ServerProcess:
        if self._closed:
            raise OSError("this program is ending")
        if self._server is None:
            started = ServerProcess(str(self._directory), self.environ)
            if self._server is None:
                self._server = started
                self._watch(started.control, started)
            else:  # a signal handler has made a call meanwhile, in this same thread
                started.end(SERVER_END)
        if not self._reads:
            self._reads = True  # first: the start waits, and a signal handler may make a call meanwhile
            try:
                self._reader.start()
            except RuntimeError:  # no thread is to be had
                self._reads = False
                raise
        return self._server

    def _watch(self, connection: socket.socket, what: _Slot | ServerProcess) -> None:
        self._new.append((connection, what))
        os.write(self._wake_end, b".")

    def _free_slot(self) -> _Slot:
        """The one that has been free for longest: the others may still fork the child of their next call."""
        try:
            return self._idle.pop(0)
        except IndexError:
            return self._open_slot()

    def _keep_one_ready(self) -> None:
        """From the second call on another slot is free, so that one call after another does not wait for a fork."""
        if self._ended_once and not self._idle and len(self._slots) < KEPT_IDLE:
            with contextlib.suppress(OSError):  # it can be done without
                self._idle.append(self._open_slot())

    def _open_slot(self) -> _Slot:
        slot = self._new_slot()
        self._slots.add(slot)
        self._watch(slot.socket, slot)
        return slot

    def new_pool(self) -> socket.socket:
        """Our end of a new pool's socket (:mod:`kubefunc.runner.local.pool`).

        Raises:
            OSError: none can be started.
        """
        with self._lock:
            try:
                return self._running_server().open(NEW_POOL, MESSAGES)
            except ConnectionError:  # as for a slot
                self._server = None
            return self._running_server().open(NEW_POOL, MESSAGES)

    def _new_slot(self) -> _Slot:
        try:
            return _open_slot_of(self._running_server())
        except ConnectionError:  # the server has just died; the reader, who hears of that too, sees to what is left
            self._server = None
        return _open_slot_of(self._running_server())

    # -- from the slots; in the reader's thread

    def _read(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select():
                try:
                    self._handle(key)
                except Exception:  # noqa: BLE001 - one call's fault must not end all others' news
                    traceback.print_exc()

    def _handle(self, key: selectors.SelectorKey) -> None:
        if key.fileobj == self._wake:
            os.read(self._wake, 512)
            self._watch_new()
        elif isinstance(key.data, ServerProcess):
            if key.data.control.fileno() >= 0:  # else a slot of its own has told it
                self._server_died(key.data)
        elif key.data in self._slots:  # else it was let go since select() said so
            self._hear(key.data)

    def _watch_new(self) -> None:
        with self._lock:
            new, self._new = self._new, []
        for connection, what in new:
            if connection.fileno() >= 0:  # else it was closed at once
                self._selector.register(connection, selectors.EVENT_READ, what)

    def _hear(self, slot: _Slot) -> None:
        try:
            data = slot.socket.recv(RECEIVE)
        except ConnectionError:
            data = b""
        if not data and slot.run is not None and not slot.refused and slot.server.has_gone(SERVER_GONE):
            self._server_died(slot.server)
            return
        if not data:
            self._slot_died(slot)
            return
        for letter, content in slot.take(data):
            run = slot.run
            if run is None:
                continue
            if letter == ENDED:
                self._run_ended(slot, run)
                continue
            try:
                run.heard(letter, content)
            except Exception:  # noqa: BLE001 - what cannot be taken in must not hide what comes after it
                traceback.print_exc()

    def _run_ended(self, slot: _Slot, run: Run) -> None:
        """The slot is free first, so that a caller who wakes up finds it."""
        with self._lock:
            slot.run = None
            self._ended_once = True
            self._idle.append(slot)
        self._ended(run, "the process that supervised it was told to end")
        with self._lock:
            spent = self._idle[KEPT_IDLE:]
            for each in spent:
                self._let_go(each)

    def _let_go(self, slot: _Slot) -> None:
        """Closing its socket ends the slot, and whatever it runs. The lock is held."""
        with contextlib.suppress(KeyError):  # not watched yet
            self._selector.unregister(slot.socket)
        self._slots.discard(slot)
        if slot in self._idle:
            self._idle.remove(slot)
        slot.socket.close()

    def _slot_died(self, slot: _Slot) -> None:
        with self._lock:
            run, slot.run = slot.run, None
            self._let_go(slot)
        if run is None:
            return
        self._ended(run, not_started(slot.refused) if slot.refused else "the process that supervised it has died")

    def _server_died(self, server: ServerProcess) -> None:
        """All its slots end with it, and the next call starts another."""
        with self._lock:
            if self._server is server:
                self._server = None
            self._selector.unregister(server.control)
            slots = [slot for slot in self._slots if slot.server is server]
            lost = [slot.run for slot in slots if slot.run is not None]
            for slot in slots:
                self._let_go(slot)
        server.end(SERVER_END)
        for run in lost:
            self._ended(run, f"the server of the local backend (process {server.process.pid}) {server.how_it_ended()}")

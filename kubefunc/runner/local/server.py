"""The local backend's fork server: a fresh process for each call within a millisecond or two.

::

    client ── server          has cloudpickle loaded, forks slots; ``serve CONTROL DIRECTORY``
                ├── slot      runs one call after another: the same supervisor that runs in a Pod
                │     ├── child     the call's process, with a group of its own
                │     └── spare     the next call's child, forked ahead of time, waiting
                ├── slot ...
                └── pool      the workers of a map, which take item after item (:mod:`kubefunc.runner.local.pool`)

The client opens a slot or a pool by sending a letter and one end of a socket pair over the socket CONTROL. On that of a
slot pass frames (:func:`kubefunc.runner.protocol.wire.frame`):

``C``  to the slot: a call (:class:`kubefunc.runner.execution.request.Request`).
``T``  to the slot: end the call, by SIGTERM and after a grace by SIGKILL.
``O``  from the slot: some of what the function printed.
``R``  from the slot: the envelope. ``L``: it stands in the call's file ``body``.
``E``  from the slot: the call has ended, the slot is free (text: the supervisor's exit code).
``F``  from the slot, or from the server in place of one: no process can be started (text: why); then it ends.

Nothing outlives the client: its end closes CONTROL, the server's end closes the pipe ``life``, and then each slot kills
the group of its child. On Linux server and slots are subreapers too: what a function started comes to them as an
orphan, even out of another session, and is killed when its call ends. (On macOS such a process escapes.)
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import time

from kubefunc.runner import EXIT_TERMINATED
from kubefunc.runner.execution import child, reports
from kubefunc.runner.execution.orphans import CLOSE_GRACE, become_subreaper, kill_orphans, reap_all
from kubefunc.runner.execution.process import Child, Signals, print_fault, take_over
from kubefunc.runner.execution.rehearsal import rehearsal
from kubefunc.runner.execution.request import (
    CALL,
    END_GRACE,
    ENDED,
    LARGE_RESULT,
    OUTPUT,
    RECEIVE,
    REFUSED,
    RESULT,
    TERMINATE,
    Request,
)
from kubefunc.runner.execution.spare import Spare
from kubefunc.runner.local import pool
from kubefunc.runner.pod.supervisor import Supervisor
from kubefunc.runner.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from kubefunc.runner.execution.process import Overseer
    from kubefunc.runner.protocol.spec import RunnerSpec

NEW_SLOT = b"n"
NEW_POOL = b"p"


class ClientGone(Exception):
    """Nobody waits for this call any more."""


class Slot:
    """The port of a supervisor on this machine: jobs come from the client's socket, all else goes there."""

    end_grace = END_GRACE
    outgoing = ()  # what is sent is sent at once

    def __init__(self, client: socket.socket, life: int, signals: Signals) -> None:
        self.client = client
        self.life = life
        self.signals = signals
        self.wakeups = (client.fileno(), life)
        self.frames = wire.Frames()
        self.request: Request | None = None
        self.spare: Spare | None = None
        self.latest: int | None = None  # the process of the latest call
        self.answer = b""
        self.rehearsal = b""  # the first call of a script does not wait for one

    def prepare(self, overseer: Overseer) -> None:
        """Nothing is installed on a user's machine: the client has checked that all is there."""

    def serve(self) -> None:
        """Run calls until the client or the server is gone."""
        try:
            while True:
                self._serve_one()
        except (ClientGone, BrokenPipeError, ConnectionResetError):
            if self.spare is not None:
                self.spare.kill()
            kill_orphans(keep=set())
        except OSError as error:  # no process is to be had for this call
            _refuse(self.client.fileno(), NEW_SLOT, error)

    def _serve_one(self) -> None:
        if self.spare is None:
            with contextlib.suppress(OSError):  # it may be possible when the call is there
                self.spare = Spare(self._forget, rehearsal=self.rehearsal)
        self._receive_call()
        status = Supervisor(self, self.signals).run()
        kill_orphans(keep=self._spares(), ended=self.latest)
        self._end(status)

    def _end(self, status: int) -> None:
        self.client.sendall(self.answer + wire.frame(ENDED, str(status).encode()))
        self.request, self.latest, self.answer, self.rehearsal = None, None, b"", rehearsal()

    def _spares(self) -> set[int]:
        return set() if self.spare is None else {self.spare.child.pid}

    def _receive_call(self) -> None:
        while self.request is None:
            ready, _, _ = select.select([*self.wakeups, self.signals.pipe], [], [])
            if self.signals.pipe in ready:
                if self.signals.drain():
                    raise ClientGone
                reap_all()
            for letter, content in self._news(ready):
                if letter == CALL:
                    self.request = Request(content)
                elif letter == TERMINATE and self.request is not None:  # else it is late, and meant the call before
                    self._end(EXIT_TERMINATED)

    def _news(self, ready: list[int]) -> list[tuple[bytes, bytes]]:
        if self.life in ready:
            raise ClientGone
        if self.client.fileno() not in ready:
            return []
        data = self.client.recv(RECEIVE)
        if not data:
            raise ClientGone
        return self.frames.feed(data)

    def _forget(self) -> None:
        """In a child: what it must not keep."""
        self.signals.forget()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.client.close()
        os.close(self.life)

    # -- for the supervisor

    @property
    def _call(self) -> Request:
        if self.request is None:
            raise RuntimeError("no call is being run")
        return self.request

    @property
    def spec(self) -> RunnerSpec:
        return self._call.spec

    def path(self, name: str) -> str:
        return self._call.path(name)

    def asked_to_end(self) -> bool:
        ready, _, _ = select.select(self.wakeups, [], [], 0)
        return any(letter == TERMINATE for letter, _ in self._news(ready))

    def tick(self) -> None:
        pass

    def start(self, attempt: int) -> Child:
        """Hand the call to the spare. The next one is forked when this one has ended: a fork takes the processor from
        what runs, and a short call would wait for it."""
        spare, self.spare = self.spare, None
        if spare is None or not spare.hand_over(attempt, self._call.data):
            spare = Spare(self._forget)
            spare.hand_over(attempt, self._call.data)
        self.latest = spare.child.pid
        return spare.child

    def output(self, data: bytes) -> None:
        self.client.sendall(wire.frame(OUTPUT, data))

    def publish(self, header: dict[str, Any], body: bytes | None, output: bytes) -> None:
        tail = wire.tail(header, self._call.key)
        if body is not None:
            self.answer = wire.frame(RESULT, body + tail)
            return
        try:
            with open(self.path("body"), "ab") as file:
                file.write(tail)
        except OSError as error:
            failed = reports.storage_error(self.path("body"), error)
            self.answer = wire.frame(RESULT, wire.tail({**header, **failed}, self._call.key))
            return
        self.answer = wire.frame(LARGE_RESULT)

    def give_up(self) -> None:
        pass


class Server:
    """Forks slots until its client is gone."""

    def __init__(self, control: socket.socket, directory: str) -> None:
        self.control = control
        self.directory = directory
        self.signals = Signals()
        self.life, self.life_end = os.pipe()
        self.client = _watch_parent()
        self.slots: set[int] = set()

    def run(self) -> None:
        watched = [self.control.fileno(), self.signals.pipe, *self.client]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if self.signals.pipe in ready and self.signals.drain():
                break
            self._reap()
            if any(client in ready for client in self.client):
                break
            if self.control.fileno() in ready and not self._open_slots():
                break
        self._end()

    def _open_slots(self) -> bool:
        """One slot for each socket that came; False when the client has gone."""
        received = array.array("i")
        data, ancillary, _, _ = self.control.recvmsg(64, socket.CMSG_SPACE(64 * received.itemsize))
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
        for kind, descriptor in zip(data, received, strict=False):
            take_over(descriptor)
            try:
                self._fork(bytes([kind]), descriptor)
            except OSError as error:  # what runs goes on
                _refuse(descriptor, bytes([kind]), error)
            os.close(descriptor)
        return bool(data)

    def _fork(self, kind: bytes, descriptor: int) -> None:
        pid = os.fork()
        if pid:
            self.slots.add(pid)
            return
        try:
            self.signals.forget()
            self.control.close()
            os.close(self.life_end)
            for client in self.client:
                os.close(client)
            become_subreaper()
            make = pool.Pool if kind == NEW_POOL else Slot
            with socket.socket(fileno=descriptor) as connection:
                make(connection, self.life, Signals()).serve()
            os._exit(0)
        except BaseException:
            print_fault()
        finally:
            os._exit(1)

    def _reap(self) -> None:
        """A slot that died has left its children to us."""
        ended = reap_all()
        if self.slots.intersection(ended):
            self.slots.difference_update(ended)
            kill_orphans(keep=self.slots)

    def _end(self) -> None:
        os.close(self.life_end)  # the slots' sign to end
        until = time.monotonic() + CLOSE_GRACE
        while self.slots and time.monotonic() < until:
            select.select([self.signals.pipe], [], [], 0.05)
            self.signals.drain()
            self.slots.difference_update(reap_all())
        kill_orphans(keep=set())
        import shutil  # at the end: the first call waits for what is imported at the start

        shutil.rmtree(self.directory, ignore_errors=True)


def _refuse(descriptor: int, kind: bytes, error: OSError) -> None:
    """Tell the client, on the socket of what it has asked for, that there is no process for that."""
    if kind == NEW_POOL:
        data = REFUSED + json.dumps({"seat": None, "why": str(error)}).encode()
    else:
        data = wire.frame(REFUSED, str(error).encode())
    try:
        os.write(descriptor, data)
    except OSError:  # it has gone
        pass


def _watch_parent() -> list[int]:
    """A descriptor that tells of the client's end, where there is such a thing.

    CONTROL tells it too, unless a process that the client forked still holds a copy.
    """
    if not hasattr(os, "pidfd_open"):
        return []
    try:
        return [os.pidfd_open(os.getppid())]
    except OSError:  # an old kernel, or a sandbox that forbids it
        return []


def _lowered(descriptor: int) -> int:
    """The same under the lowest number that is free: select() takes none from 1,024 on, and the client may have had so
    many files open."""
    try:
        return os.dup(descriptor)
    finally:
        os.close(descriptor)


def serve(arguments: list[str]) -> NoReturn:
    """The program ``server``: the descriptor of CONTROL, and the directory that goes when the client goes."""
    importlib.import_module("cloudpickle")  # once, here: forks have it
    control, directory = _lowered(int(arguments[0])), arguments[1]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    become_subreaper()
    child.renew_streams()  # once, here, too
    gc.freeze()  # what is loaded now stays: no collection in a child touches (and so copies) its pages
    with socket.socket(fileno=control) as connection:
        Server(connection, directory).run()
    os._exit(0)  # its client waits for this end; there is nothing that an interpreter would tidy up

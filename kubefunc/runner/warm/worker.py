"""A warm worker: the function of an ordinary call, which takes other calls, one after another.

So its Pod is started, watched and explained like any other. It forks a process for each call and supervises it as
``main`` does. Its client speaks to it through the program ``attach`` (:mod:`kubefunc.runner.warm.attach`), in frames
(:mod:`kubefunc.runner.warm.frames`).
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import time

from kubefunc.runner import EXIT_TERMINATED, OUT_DIR
from kubefunc.runner.execution.orphans import become_subreaper, reap_all
from kubefunc.runner.execution.process import Signals
from kubefunc.runner.execution.request import CALL, END_GRACE, TERMINATE
from kubefunc.runner.pod.supervisor import Supervisor
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.attach import FOLDER
from kubefunc.runner.warm.batch import Batch
from kubefunc.runner.warm.door import Door
from kubefunc.runner.warm.frames import ACKNOWLEDGE, DATA, GIVEN_BACK, GOODBYE, KEEP, NOT_BEGUN, PING, STREAMED
from kubefunc.runner.warm.lease import Lease
from kubefunc.runner.warm.processes import Processes
from kubefunc.runner.warm.requests import Requests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from kubefunc.runner.execution.items import Item
    from kubefunc.runner.execution.process import Child, Overseer
    from kubefunc.runner.protocol.spec import RunnerSpec
    from kubefunc.runner.warm.request import WarmRequest
    from kubefunc.runner.warm.sent import Sent
    from kubefunc.runner.warm.staying import Staying
    from kubefunc.runner.warm.stream import Stream

LETTERS = (DATA, KEEP, CALL, GIVEN_BACK, TERMINATE, GOODBYE, ACKNOWLEDGE, PING, STREAMED)  # of a client that is known


def directory() -> str:
    """Where a worker's socket and its calls' files are."""
    return os.path.join(os.environ.get("KUBEFUNC_OUT", OUT_DIR), FOLDER)


def serve(token: str, idle_timeout: float, reconnect: float, alone: float, preload: Sequence[str]) -> str:
    """The function of a worker's own call.

    Args:
        token: what its clients must know.
        idle_timeout: seconds without a call after which it ends.
        reconnect: seconds without its client after which the client's call is ended, and another may come.
        alone: seconds without a client after which it ends.
        preload: modules to import before the first call.

    Returns:
        Why it ended.
    """
    for name in ("cloudpickle", *preload):
        os.write(2, f"kubefunc: importing {name}\n".encode())  # the calls that wait are told
        importlib.import_module(name)
    where = directory()
    os.makedirs(where, mode=0o700, exist_ok=True)
    worker = Worker(where, token, idle_timeout, alone, Lease(reconnect, time.monotonic()))
    become_subreaper()
    gc.freeze()  # what is loaded now stays: no collection in a child touches (and so copies) its pages
    return worker.run()


class _Leave(Exception):
    """The worker is to end; the text says why."""


class Worker:
    """Takes calls from one client after another, one at a time; the port of their supervisor."""

    end_grace = END_GRACE

    def __init__(self, where: str, token: str, idle_timeout: float, alone: float, lease: Lease) -> None:
        self._where = where
        self._idle_timeout = idle_timeout
        self._alone = alone
        self._lease = lease
        self._signals = Signals()
        self._door = Door(where, token, lease, self)
        self._processes = Processes(where, self._forget)
        self._requests = Requests(where, lease)
        self._printing = 0  # the item that prints
        self._busy = time.monotonic()
        self._pretends = False  # the last SIGTERM is its own, to end a call

    # -- between calls

    def run(self) -> str:
        """Take calls until there is a reason to end: which one."""
        try:
            while True:
                self._run_call(self._wait())
        except _Leave as why:
            self._processes.kill()
            self._door.close(str(why))
            return str(why)

    def _wait(self) -> Sent:
        """The next call, once one is there."""
        while (call := self._requests.next) is None:
            self._processes.prepare()
            ready, _, _ = select.select([*self.wakeups, self._signals.pipe], self.outgoing, [], self._patience())
            if self._signals.pipe in ready and self._signals.drain():
                raise _Leave("it was told to end (SIGTERM)")
            reap_all()
            self._door.hear(ready)
            self.tick()
            self._leave_if_unneeded()
        return call

    def _patience(self) -> float:
        until = min(self._busy + self._idle_timeout, self._lease.seen + self._alone)
        ping = self._door.next_ping
        return max(0.05, (until if ping is None else min(until, ping)) - time.monotonic())

    def _leave_if_unneeded(self) -> None:
        now = time.monotonic()
        if self._requests.next is not None:
            return
        if now - self._busy >= self._idle_timeout and not self._requests.has_files:
            raise _Leave(f"no call came for {self._idle_timeout:g} s")
        if now - self._lease.seen >= self._alone:
            raise _Leave(f"no client was there for {self._alone:g} s")

    def _run_call(self, call: Sent) -> None:
        call.begin()
        self._printing = 0
        if call.asked_to_end:  # before it began
            self._end_call(call, EXIT_TERMINATED)
            return
        supervisor = Supervisor(self, self._signals) if call.request.stay is None else Batch(self, self._signals)
        status = supervisor.run()
        leaves = self._is_told_to_end()
        if leaves:
            self._door.announce_end()
        self._end_call(call, status)
        self._processes.kill_others()
        if leaves:
            raise _Leave("it was told to end (SIGTERM)")
        self._leave_if_unneeded()

    def _is_told_to_end(self) -> bool:
        """Whether SIGTERM came while the call ran; also of a call whose client wanted its end at that moment."""
        told = self._signals.terminated and not self._pretends
        self._signals.terminated = self._pretends = False
        return told

    def _end_call(self, call: Sent, status: int) -> None:
        self._busy = time.monotonic()
        self._requests.clear_up(call)
        call.end(status, self._door.stream if self._lease.client is not None else None)
        if self._lease.client is None:
            self._let_client_go()
        self.tick()

    def _forget(self) -> None:
        """In a child: what it must not keep."""
        self._signals.forget()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._door.forget()
        for each in self._requests.streaming:
            each.forget()

    # -- for its door

    @property
    def has_work(self) -> bool:
        return self._requests.unfinished

    @property
    def is_in_use(self) -> bool:
        return bool(self._requests)

    def change_client(self) -> None:
        self._processes.dismiss()  # another program does not find what this one's calls have left in it

    def stream_broke(self) -> None:
        self._requests.discard_incoming()

    def welcome(self, runs: Sequence[str]) -> dict[str, Any]:
        return self._requests.welcome(runs)

    def resume(self, runs: Sequence[str], output: int, stream: Stream) -> None:
        self._requests.resume(runs, output, stream)

    def take(self, letter: bytes, content: bytes, stream: Stream) -> bool:
        """Do what the client says; False if that is nothing that a client says."""
        if letter == DATA:
            self._requests.receive(content)
        elif letter == KEEP:
            return self._requests.keep(content)
        elif letter == CALL:
            self._busy = time.monotonic()
            return self._requests.accept(content, stream.key)
        elif letter == GIVEN_BACK:
            stream.send(*(wire.frame(NOT_BEGUN, run.encode()) for run in self._requests.give_back()))
        elif letter == TERMINATE:
            self._requests.ask_to_end(content)
        elif letter == GOODBYE:
            self._say_goodbye()
        elif letter == ACKNOWLEDGE:
            self._requests.acknowledge(content)
        elif letter == STREAMED:
            self._requests.note_taken(content)
        return letter in LETTERS

    def _say_goodbye(self) -> None:
        """The client goes, once the call that runs has ended."""
        self._lease.free()
        self._requests.drop_waiting()
        running = self._requests.running
        if running is None:
            self._let_client_go()
        else:
            running.asked_to_end = True

    def _let_client_go(self) -> None:
        """It has said goodbye, and its call has ended by now."""
        self._requests.forget()
        self._door.dismiss(wire.frame(GOODBYE))
        self._processes.dismiss()

    # -- for the supervisor

    @property
    def _call(self) -> Sent:
        running = self._requests.running
        if running is None:
            raise RuntimeError("no call is being run")
        return running

    @property
    def wakeups(self) -> list[int]:
        return [*self._door.wakeups, *(each.fileno() for each in self._requests.streaming)]

    @property
    def outgoing(self) -> list[int]:
        return self._door.outgoing

    @property
    def spec(self) -> RunnerSpec:
        return self._call.request.spec

    def path(self, name: str) -> str:
        return self._call.request.path(name)

    def asked_to_end(self) -> bool:
        ready, _, _ = select.select(self.wakeups, [], [], 0)
        self._door.hear(ready)
        self._call.hear_values(self._door.stream)
        return self._call.take_wish_to_end()

    def tick(self) -> None:
        now = time.monotonic()
        self._door.tick(now)
        if self._lease.is_lapsed(now):
            self._give_up_client()

    def _give_up_client(self) -> None:
        """It has been away for too long: it may be stopped, or its machine gone."""
        self._door.dismiss()
        self._requests.drop_waiting()
        running = self._requests.running
        if running is not None and not running.was_asked:
            running.was_asked = self._pretends = True
            signal.raise_signal(signal.SIGTERM)  # as if this Pod had been told to end: the supervisor sees to it

    def prepare(self, overseer: Overseer) -> dict[str, Any] | None:
        """The worker's own call has installed what calls need."""
        return None

    def start(self, attempt: int) -> Child:
        return self._processes.start(self._call.request, attempt)

    def output(self, data: bytes) -> None:
        self._call.print(self._printing, data, self._door.stream)

    def publish(self, header: dict[str, Any], body: bytes | None, output: bytes) -> None:
        if body is None:
            self.answer(self.path("body"))
        self.answer((body or b"") + wire.tail(header, self.request.key))

    def give_up(self) -> None:
        """The client asked for the end, and knows that there is no result."""

    # -- for the supervisor of a batch

    @property
    def request(self) -> WarmRequest:
        return self._call.request

    def hand_over(self, due: Sequence[Item]) -> Staying:
        """Have the process that stays run these items."""
        return self._processes.hand_over(self.request, due)

    def drop_staying(self) -> None:
        """It has ended."""
        self._processes.drop()

    def print_for(self, index: int) -> None:
        """What comes now, this item has printed."""
        self._printing = index

    def is_asked_back(self) -> bool:
        """Whether the client wants back what has not begun. It is told so once."""
        asked, self._call.asked_back = self._call.asked_back, False
        return asked

    def answer(self, part: bytes | str) -> None:
        """Tell the client some of the outcome: bytes, or the path of a file."""
        self._call.answer(part, self._door.stream)

    def give_back(self, indexes: Sequence[int]) -> None:
        """These items have not begun, and never will here."""
        self._call.give_back(indexes, self._door.stream)

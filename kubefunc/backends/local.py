"""Calls as processes on this machine, through the same supervisor that runs in Pods.

One fork server (:mod:`kubefunc.runner.server`) is started with the first call; it forks slots, each of which runs one
call after another, every call in a fresh process. One thread here reads what all slots say.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import kubefunc
from kubefunc.backends.base import MapSink, MapSubmission, Sink, Submission, Whereabouts
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.envelope import verify
from kubefunc.errors import ConfigurationError, ResultCorruptedError, WorkerDiedError
from kubefunc.options import Options
from kubefunc.payload import Packer, runner_spec
from kubefunc.runner import wire
from kubefunc.runner.server import CALL, ENDED, LARGE_RESULT, NEW_SLOT, OUTPUT, RECEIVE, RESULT, TERMINATE

AT_ONCE = 8 * (os.cpu_count() or 1)  # calls; a thousand at once must not be a thousand processes
KEPT_IDLE = max(2, os.cpu_count() or 1)  # slots that wait for the next call
INLINE = 64 * 1024  # bytes: larger payloads go to a file, so that no send ever waits for a slot
SOCKET_BUFFER = 4 * INLINE
SERVER_END = 3.0  # seconds that the server gets to kill what it has started
FOLLOW_EVERY = 0.05

# The server's first words. sys.path[0] of `-c` is the current directory, and nothing there may be imported. Our own
# kubefunc and cloudpickle come behind the standard library and before whatever else is installed.
_START = """\
import sys
path = [each for each in sys.path if each]
place = next((at for at, each in enumerate(path) if each.endswith("-packages")), len(path))
sys.path[:] = path[:place] + sys.argv[3:] + path[place:]
from kubefunc.runner.server import serve
sys.exit(serve(sys.argv[1:3]))
"""


class _Run:
    """One call from submission to its end."""

    def __init__(self, submission: Submission, sink: Sink, directory: Path) -> None:
        self.submission = submission
        self.sink = sink
        self.request = b""
        self.answer: bytes | None = None
        self.cancelled = False
        self.over = threading.Event()
        self._prefix = directory / submission.call
        self._log: BinaryIO | None = None

    @property
    def call(self) -> str:
        return self.submission.call

    def file(self, name: str) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}.{name}")

    def output(self, data: bytes) -> None:
        """Keep it for ``logs()``, then pass it on."""
        if self._log is None:
            self._log = open(self.file("log"), "ab", buffering=0)  # noqa: SIM115 - open for as long as the call runs
        self._log.write(data)
        self.sink.output(data)

    def take_large_answer(self) -> None:
        self.answer = self.file("body").read_bytes()

    def clean_up(self) -> None:
        """What it left on disk goes, but for what it printed."""
        if self._log is not None:
            self._log.close()
        if len(self.submission.payload.data) > INLINE:
            self.file("payload").unlink(missing_ok=True)
        if self.submission.payload.code_size:
            shutil.rmtree(self.file("code"), ignore_errors=True)
        if self.submission.options.timeout is not None:
            self.file("stacks").unlink(missing_ok=True)
        self.file("body").unlink(missing_ok=True)
        self.over.set()


class _Slot:
    """One end of a slot's socket, and the call that runs there."""

    def __init__(self, ours: socket.socket) -> None:
        self.socket = ours
        self.frames = wire.Frames()
        self.run: _Run | None = None


class _Server:
    """The fork server's process."""

    def __init__(self, directory: Path) -> None:
        if not sys.executable:
            raise ConfigurationError(
                "Calls on this machine are processes of Python, and sys.executable does not say where Python is. "
                "Set it, or run this program with a python command."
            )
        self.environ = dict(os.environ)
        self.control, theirs = socket.socketpair()
        fileno = str(theirs.fileno())
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, fileno, str(directory), *_homes()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=self.environ,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )

    def new_slot(self) -> _Slot:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        with theirs:
            socket.send_fds(self.control, [NEW_SLOT], [theirs.fileno()])
        return _Slot(ours)

    def end(self, seconds: float) -> None:
        """Its death signal is the end of our connection."""
        self.control.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _homes() -> list[str]:
    """Where the server finds kubefunc and cloudpickle, if its own path does not lead there."""
    import cloudpickle

    return [str(Path(module.__file__).parent.parent) for module in (kubefunc, cloudpickle) if module.__file__]


class LocalBackend:
    """Implements :class:`kubefunc.backends.base.Backend` with processes of this machine."""

    name = "local"

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="kubefunc-"))
        self._packer = Packer.for_local()
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._server: _Server | None = None
        self._slots: set[_Slot] = set()
        self._idle: list[_Slot] = []
        self._waiting: deque[_Run] = deque()
        self._runs: dict[str, _Run] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._wake_end = os.pipe()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._new: list[tuple[socket.socket, _Slot | None]] = []  # sockets that the reader does not watch yet
        self._reader: threading.Thread | None = None
        self._closed = False

    @property
    def packer(self) -> Packer:
        """Whoever packs a call will submit it: the server starts meanwhile."""
        with self._lock:
            self._running_server()
        return self._packer

    def introduce(self, options: Options) -> str:
        return "no cluster configured: calls run on this machine"

    def submit(self, submission: Submission, sink: Sink) -> None:
        _check(submission)
        run = _Run(submission, sink, self._directory)
        with self._lock:
            environ = self._running_server().environ
        run.request = self._request(run, environ)
        with self._lock:
            self._runs[run.call] = run
            self._waiting.append(run)
            started = self._dispatch()
        if run not in started:
            sink.moved(Whereabouts(Phase.PENDING))
        _tell_running(started)

    def submit_map(self, submission: MapSubmission, sink: MapSink) -> None:
        raise NotImplementedError

    def attach_map(self, call: str, sink: MapSink) -> None:
        raise NotImplementedError

    def read_map(self, call: str) -> MapSubmission:
        raise NotImplementedError

    def attach(self, call: str, sink: Sink) -> None:
        raise ConfigurationError(
            f"attach({call!r}) needs a cluster: on this machine a call ends with the program that made it."
        )

    def cancel(self, call: str) -> None:
        with self._lock:
            run = self._runs.get(call)
            if run is None:
                return
            run.cancelled = True
            if run in self._waiting:
                self._waiting.remove(run)
                del self._runs[call]
                run.clean_up()
                return
            for slot in self._slots:
                if slot.run is run:
                    _send(slot, wire.frame(TERMINATE))

    def discard(self, call: str) -> None:
        (self._directory / f"{call}.log").unlink(missing_ok=True)

    def logs(self, call: str, follow: bool) -> Iterator[bytes]:
        with self._lock:
            run = self._runs.get(call)
        path = self._directory / f"{call}.log"
        read = 0
        while True:
            over = run is None or not follow or run.over.is_set()
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(read)
                while data := file.read(RECEIVE):
                    read += len(data)
                    yield data
            if over or run is None:
                return
            run.over.wait(FOLLOW_EVERY)

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        until = time.monotonic() + timeout
        for call in unfinished:
            self.cancel(call)
        with self._lock:
            self._closed = True
            self._waiting.clear()
            server = self._server
            # Those who do not end by SIGTERM are killed by the server's end; it needs a moment of our time for that.
            while self._runs and self._reads() and self._ended.wait(until - 1.0 - time.monotonic()):
                pass
        os.write(self._wake_end, b".")
        if self._reader is not None and self._reader is not threading.current_thread():
            self._reader.join(max(0.1, until - time.monotonic()))
        if server is not None:
            server.end(max(0.5, until - time.monotonic()))
        self._close_descriptors()
        shutil.rmtree(self._directory, ignore_errors=True)
        return []

    def forget(self) -> None:
        """In a forked child: close what was inherited. The calls, the server and the files are the parent's."""
        if self._server is not None:
            self._server.process.returncode = 0  # not our child: nothing to wait for, nothing to warn of
            self._server.control.close()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for slot in self._slots:
            slot.socket.close()
        self._selector.close()
        os.close(self._wake)
        os.close(self._wake_end)

    # -- to the slots; the lock is held

    def _reads(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    def _running_server(self) -> _Server:
        if self._closed:
            raise RuntimeError("a call cannot be started any more: this program is ending")
        if self._server is None:
            self._server = _Server(self._directory)
            self._watch(self._server.control, None)
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, name="kubefunc-local", daemon=True)
            self._reader.start()
        return self._server

    def _watch(self, connection: socket.socket, slot: _Slot | None) -> None:
        self._new.append((connection, slot))
        os.write(self._wake_end, b".")

    def _dispatch(self) -> list[_Run]:
        """Start the calls that may start, in order; which they are."""
        started: list[_Run] = []
        while self._waiting and (self._idle or len(self._slots) < AT_ONCE):
            run = self._waiting.popleft()
            self._start(run)
            started.append(run)
        return started

    def _start(self, run: _Run) -> None:
        while True:
            slot = self._free_slot()
            slot.run = run  # before the send: the answer may be quicker than this thread
            if _send(slot, run.request):
                run.request = b""
                return
            slot.run = None  # it has died idle: the reader hears of that and lets it go

    def _free_slot(self) -> _Slot:
        if self._idle:
            return self._idle.pop()
        slot = self._running_server().new_slot()
        self._slots.add(slot)
        self._watch(slot.socket, slot)
        return slot

    def _request(self, run: _Run, environ: Mapping[str, str]) -> bytes:
        """The call as the slot takes it; its surroundings are the caller's at this moment."""
        submission = run.submission
        options = submission.options
        payload = submission.payload.data
        large = len(payload) > INLINE
        if large:
            run.file("payload").write_bytes(payload)
        wanted = {**os.environ, **{name: str(value) for name, value in options.env.items()}}
        header = {
            "spec": runner_spec(
                call=submission.call,
                function=submission.function,
                timeout=options.timeout,
                retries=options.retries,
                nested=options.service_account is not None,
            ),
            "key": submission.key.hex(),
            "payload": str(run.file("payload")) if large else None,
            "directory": str(self._directory),
            "cwd": _working_directory(),
            "path": sys.path,
            "set": {name: value for name, value in wanted.items() if environ.get(name) != value},
            "unset": [name for name in environ if name not in wanted],
        }
        encoded = json.dumps(header).encode()
        return wire.frame(CALL, wire.LENGTH.pack(len(encoded)) + encoded + (b"" if large else payload))

    # -- from the slots; in the reader's thread

    def _read(self) -> None:
        while not self._closed or self._runs:
            for key, _ in self._selector.select():
                try:
                    self._handle(key)
                except Exception:  # noqa: BLE001 - one call's fault must not end all others' news
                    traceback.print_exc()

    def _handle(self, key: selectors.SelectorKey) -> None:
        if key.fileobj == self._wake:
            os.read(self._wake, 512)
            self._watch_new()
        elif key.data is None:
            self._server_died()
        elif key.data in self._slots:  # else it was let go since select() said so
            self._hear(key.data)

    def _watch_new(self) -> None:
        with self._lock:
            new, self._new = self._new, []
        for connection, slot in new:
            if connection.fileno() >= 0:  # else it was closed at once
                self._selector.register(connection, selectors.EVENT_READ, slot)

    def _hear(self, slot: _Slot) -> None:
        try:
            data = slot.socket.recv(RECEIVE)
        except ConnectionError:
            data = b""
        if not data:
            self._slot_died(slot)
            return
        for letter, content in slot.frames.feed(data):
            run = slot.run
            if run is None:
                continue
            if letter == OUTPUT:
                run.output(content)
            elif letter == RESULT:
                run.answer = content
            elif letter == LARGE_RESULT:
                run.take_large_answer()
            elif letter == ENDED:
                self._call_ended(slot, run)

    def _call_ended(self, slot: _Slot, run: _Run) -> None:
        """The slot goes on first, so that a caller who wakes up finds it free."""
        with self._lock:
            slot.run = None
            self._runs.pop(run.call, None)
            if len(self._idle) < KEPT_IDLE or self._waiting:
                self._idle.append(slot)
            else:
                self._let_go(slot)
            started = self._dispatch()
            self._ended.notify_all()
        _tell_running(started)
        if run.answer is None:
            self._lost(run, "the process that supervised it was told to end")
            return
        try:
            envelope = verify(run.answer, run.submission.key, run.call)
        except ResultCorruptedError as error:
            run.clean_up()
            run.sink.fail(error)
            return
        run.clean_up()
        run.sink.deliver(envelope)

    def _lost(self, run: _Run, why: str) -> None:
        run.clean_up()
        if not run.cancelled:
            run.sink.fail(_died(run, why))

    def _let_go(self, slot: _Slot) -> None:
        """Closing its socket ends the slot, and whatever it runs."""
        if slot in self._slots or slot.socket.fileno() >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(slot.socket)
        self._slots.discard(slot)
        if slot in self._idle:
            self._idle.remove(slot)
        slot.socket.close()

    def _slot_died(self, slot: _Slot) -> None:
        with self._lock:
            run, slot.run = slot.run, None
            self._let_go(slot)
            if run is not None:
                self._runs.pop(run.call, None)
            started = self._dispatch()
            self._ended.notify_all()
        _tell_running(started)
        if run is not None:
            self._lost(run, "the process that supervised it has died")

    def _server_died(self) -> None:
        """All slots end with it, and the next call starts another."""
        with self._lock:
            server, self._server = self._server, None
            if server is None:
                return
            self._selector.unregister(server.control)
            lost = [slot.run for slot in self._slots if slot.run is not None]
            for slot in list(self._slots):
                self._let_go(slot)
            for run in lost:
                self._runs.pop(run.call, None)
            self._ended.notify_all()
        server.end(SERVER_END)
        for run in lost:
            self._lost(run, f"the server of the local backend (process {server.process.pid}) {_how(server.process)}")
        with self._lock:
            started = self._dispatch() if not self._closed else []
        _tell_running(started)


def _check(submission: Submission) -> None:
    if submission.options.detach:
        raise ConfigurationError(
            "detach=True needs a cluster: on this machine a call ends with the program that made it. "
            "Leave detach out, or configure a kubeconfig."
        )
    for name, value in submission.options.env.items():
        if not isinstance(value, str):
            raise ConfigurationError(
                f"env[{name!r}]={value!r} is kept in a cluster, and this call runs on this machine. "
                f"Give the value itself here, for example os.environ[{name!r}]."
            )


def _tell_running(started: list[_Run]) -> None:
    for run in started:
        run.sink.moved(Whereabouts(Phase.RUNNING))


def _send(slot: _Slot, data: bytes) -> bool:
    """False if nobody is there."""
    try:
        slot.socket.sendall(data)
    except OSError:
        return False
    return True


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return None


def _how(process: subprocess.Popen[bytes]) -> str:
    """How it ended, in words."""
    code = process.returncode
    if code >= 0:
        return f"has ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _died(run: _Run, why: str) -> WorkerDiedError:
    told = Diagnosis(
        "WorkerDied",
        f"The call was lost before its function ended: {why}.",
        "Something on this machine stopped it: a person, or the kernel when memory ran out (see dmesg). Call again.",
        Phase.FINISHED,
        run.call,
    )
    return WorkerDiedError(str(told), diagnosis=told)

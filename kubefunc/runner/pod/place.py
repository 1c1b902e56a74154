"""A container as a supervisor sees it: files in, files out, output to the container's log."""

from __future__ import annotations

import binascii
import fcntl
import os
import signal
import sys
import time

from kubefunc.runner import (
    CODE_UPLOAD,
    ENV_FAILURES,
    ENV_IGNORED_FAILURES,
    ENV_STOP_GRACE,
    ITEMS,
    KEY_FILE,
    PACKAGES_DIR,
    PAYLOAD,
    SENT_PACKAGES,
    SPEC_FILE,
    STOP_GRACE,
    STREAM,
)
from kubefunc.runner.execution import child, reports
from kubefunc.runner.execution.attempts import FOREVER, error_header
from kubefunc.runner.execution.process import ALIVE_EVERY, Child, Signals, fork_child
from kubefunc.runner.protocol import wire
from kubefunc.runner.protocol.spec import RunnerSpec

STOP_MARGIN = 5.0

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from kubefunc.runner.execution.items import Item
    from kubefunc.runner.execution.process import Overseer
    from kubefunc.runner.execution.tickets import Tickets


def end_grace(stop_grace: float) -> float:
    """Seconds that a function gets to end by itself, of those that the kubelet gives to its Pod.

    The rest is for its supervisor to exit with the code for "ended from outside": after SIGKILL from the kubelet
    the Job could not tell that end from a failure.

    >>> end_grace(30.0), end_grace(4.0)
    (25.0, 2.0)
    """
    return max(stop_grace - STOP_MARGIN, stop_grace / 2)


def earlier_pods(environ: Mapping[str, str]) -> int:
    """How many Pods of a map's Job this one stands in for; 0 in a Pod of a single call, which is not told.

    >>> earlier_pods({"KUBEFUNC_FAILURES": "1", "KUBEFUNC_IGNORED_FAILURES": "2"}), earlier_pods({})
    (3, 0)
    """
    return sum(int(environ.get(name) or 0) for name in (ENV_FAILURES, ENV_IGNORED_FAILURES))


class Place:
    """The port of a container: files in, files out, output to the container's log."""

    wakeups: Sequence[int] = ()
    outgoing: Sequence[int] = ()

    def __init__(self, in_dir: str, out_dir: str, termination_log: str | None, signals: Signals) -> None:
        self.in_dir = in_dir
        self.out_dir = out_dir
        self.termination_log = termination_log
        self.signals = signals
        self.end_grace = end_grace(float(os.environ.get(ENV_STOP_GRACE, STOP_GRACE)))
        self._touched = -FOREVER
        self.lock = self._take_lock()
        self.earlier_pods = earlier_pods(os.environ)
        spec = RunnerSpec.read(self._read(SPEC_FILE))
        self.spec = spec.replace(disruptions=spec.disruptions + self.earlier_pods)
        self.key = self._read(KEY_FILE)

    def path(self, name: str) -> str:
        return os.path.join(self.out_dir, name)

    def asked_to_end(self) -> bool:
        return False  # SIGTERM says so

    def tick(self) -> None:
        """Show that this process lives, to those who cannot trust the lock."""
        now = time.monotonic()
        if now - self._touched >= ALIVE_EVERY:
            self._touched = now
            with open(self.path("alive"), "wb"):
                pass
            if not self.signals.terminated and os.path.exists(self.path("terminate")):
                # The kernel has dropped our own: it came before this program, its container's first process, could
                # block it (while Python was starting).
                os.kill(os.getpid(), signal.SIGTERM)

    def prepare(self, overseer: Overseer) -> dict[str, Any] | None:
        """Install what the spec asks for."""
        wanted = self.spec.packages
        if wanted is None:
            return None
        from kubefunc.runner.pod import installer  # most calls do not need it

        if wanted.get("sent"):
            if not overseer.wait_for_file(SENT_PACKAGES, self.spec.pull_allowance):
                return None if overseer.ending else error_header(CODE_UPLOAD, {"waited": self.spec.pull_allowance})
            wanted = {**wanted, "archive": self.path(SENT_PACKAGES)}
        volume = os.environ.get("KUBEFUNC_PACKAGES_DIR", PACKAGES_DIR)
        place, failed = installer.install(overseer, wanted, lambda run: fork_child(run, self._forget), volume)
        self.spec = self.spec.replace(packages={**wanted, "place": place})
        return failed

    def start(self, attempt: int) -> Child:
        return fork_child(lambda frames: child.run(self._job(attempt), frames), self._forget)

    def start_items(self, due: Sequence[Item], tickets: Tickets) -> Child:
        """A child for items of a chunk."""
        from kubefunc.runner.execution import items  # a call does not need it

        note = self._note()
        work = items.Work(
            spec=self.spec,
            payload=self._blob(PAYLOAD, is_uploaded=self.spec.upload),
            items=due,
            code=self._code(),
            path=self.path,
            note=note,
            tickets=tickets,
        )
        try:
            return fork_child(lambda frames: items.run(work, frames), self._forget)
        finally:
            if note is not None:
                os.close(note)

    def arguments(self, chunk: int) -> bytes:
        """The arguments of a chunk: uploaded alone, or out of those of all."""
        from kubefunc.runner.protocol import records

        data = self._blob(ITEMS, is_uploaded=self.spec.upload_items)
        return data if self.spec.upload_items else records.chunk_of(data, chunk)

    def _note(self) -> int | None:
        if self.termination_log is None:
            return None
        try:
            return os.open(self.termination_log, os.O_WRONLY | os.O_CREAT, 0o666)
        except OSError:
            return None

    def output(self, data: bytes) -> None:
        wire.write_all(1, data)

    def publish(self, header: dict[str, Any], body: bytes | None, output: bytes) -> None:
        """Put the envelope there whole, by one rename; leave the termination message; free the lock."""
        try:
            self._write(header, body, output)
        except OSError as error:  # it is full: an envelope that says so is smaller
            try:
                os.unlink(self.path("body"))
            except OSError:
                pass
            self._write({**header, **reports.storage_error(self.path("body"), error)}, b"", b"")
        os.close(self.lock)

    def _write(self, header: dict[str, Any], body: bytes | None, output: bytes) -> None:
        if body is not None:
            with wire.new_file(self.path("body")) as file:
                wire.write_all(file.fileno(), body)
        self._leave_termination_message(header)
        text = binascii.b2a_base64(output, newline=False).decode()
        with open(self.path("body"), "ab") as file:
            file.write(wire.tail({**header, "output": text}, self.key))
        os.chmod(self.path("body"), 0o644)
        os.replace(self.path("body"), self.path("result"))

    def give_up(self) -> None:
        """There will be no result: the courier need not wait for ``alive`` to grow old."""
        os.unlink(self.path("alive"))

    def _leave_termination_message(self, header: dict[str, Any]) -> None:
        """A small result fits in whole; what was printed is left out there, the log has it."""
        if self.termination_log is None:
            return
        text = None
        has_files = any(".file." in name for name in os.listdir(self.out_dir))
        if self.spec.inline and header["size"] < 64 * 1024 and not has_files:
            with open(self.path("body"), "rb") as file:
                text = wire.termination_text(file.read() + wire.tail(header, self.key))
        try:
            with open(self.termination_log, "w") as file:
                announced = wire.termination_size(header["size"], header.get("sha256"), has_files=has_files)
                file.write(text or announced)
        except OSError as error:  # the result stands in a file all the same
            print(f"kubefunc: no termination message: {error}", file=sys.stderr)
            return
        if text is not None:
            with open(self.path("inline"), "wb"):
                pass

    def _take_lock(self) -> int:
        """``lock`` appears only once it is held: it exists = started, it is free = ended."""
        lock = os.open(self.path("lock.tmp"), os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.tick()
        os.rename(self.path("lock.tmp"), self.path("lock"))
        return lock

    def _forget(self) -> None:
        self.signals.forget()
        os.close(self.lock)

    def _job(self, attempt: int) -> child.Job:
        return child.Job(
            spec=self.spec,
            attempt=attempt,
            payload=self._blob(PAYLOAD, is_uploaded=self.spec.upload),
            body=self.path("body"),
            stacks=self.path("stacks"),
            code=self._code(),
            stream=self.path(STREAM),
            key=self.key,
            files=self.path("file"),
        )

    def _code(self) -> str:
        return os.path.join(os.environ.get("TMPDIR", "/tmp"), f"kubefunc-{self.spec.call}")

    def _blob(self, name: str, *, is_uploaded: bool) -> bytes:
        """Uploaded, whole, or joined from the shards of several Secrets."""
        if is_uploaded:
            with open(self.path(name), "rb") as file:
                return file.read()
        if os.path.exists(os.path.join(self.in_dir, name)):
            return self._read(name)
        count = sum(each.startswith(f"{name}.") for each in os.listdir(self.in_dir))
        return b"".join(self._read(f"{name}.{number}") for number in range(count))

    def _read(self, name: str) -> bytes:
        with open(os.path.join(self.in_dir, name), "rb") as file:
            return file.read()

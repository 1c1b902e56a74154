"""Calls as processes on this machine, through the same runner that runs in Pods.

Each call is one process of its own: the supervisor of ``kubefunc.pyz``, which forks a child per attempt. A pipe that
only the client writes to (and never does) is the supervisor's death signal, so that nothing outlives the client.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from kubefunc import errors
from kubefunc.archive import archive_bytes
from kubefunc.backends.base import Sink, Submission, Whereabouts
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.envelope import Envelope, verify
from kubefunc.options import Options
from kubefunc.payload import Packer, runner_spec
from kubefunc.runner import ARCHIVE

STOP_GRACE = 5.0  # seconds between SIGTERM and SIGKILL of a cancelled call
AT_ONCE = 8 * (os.cpu_count() or 1)
CHUNK = 65536


class _Run:
    """One call: its directory, its process, what it has printed."""

    def __init__(self, submission: Submission, sink: Sink, directory: Path) -> None:
        self.submission = submission
        self.sink = sink
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        self.lifeline = -1
        self.cancelled = False

    @property
    def call(self) -> str:
        return self.submission.call

    def write_input(self) -> None:
        """What a Pod finds in its Secret."""
        options = self.submission.options
        spec = runner_spec(
            call=self.call,
            function=self.submission.function,
            timeout=options.timeout,
            retries=options.retries,
        )
        for name in ("in", "out"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "in" / "spec.json").write_text(json.dumps(spec))
        (self.directory / "in" / "key").write_bytes(self.submission.key)
        (self.directory / "in" / "payload").write_bytes(self.submission.payload.data)

    def environ(self) -> dict[str, str]:
        """The caller's environment as it is now, its module path, and the call's own variables."""
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        ours = {
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "KUBEFUNC_IN": str(self.directory / "in"),
            "KUBEFUNC_OUT": str(self.directory / "out"),
            "KUBEFUNC_TERMINATION_LOG": os.devnull,
        }
        return {**os.environ, **{name: str(value) for name, value in self.submission.options.env.items()}, **ours}

    def stop(self, number: int) -> None:
        """A signal to the supervisor, which passes it on to its child."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def kill(self) -> None:
        """Closing the lifeline makes the supervisor kill its child's group and end."""
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1


class LocalBackend:
    """Implements :class:`kubefunc.backends.base.Backend` with processes of this machine."""

    name = "local"

    def __init__(self) -> None:
        self.packer = Packer.for_local()
        self._root = Path(tempfile.mkdtemp(prefix="kubefunc-"))
        atexit.register(shutil.rmtree, self._root, ignore_errors=True)
        self._archive = self._root / ARCHIVE
        self._lock = threading.Lock()
        self._waiting: deque[_Run] = deque()
        self._running: dict[str, _Run] = {}
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread: threading.Thread | None = None

    def introduce(self, options: Options) -> str:
        return "no cluster configured: calls run on this machine"

    def submit(self, submission: Submission, sink: Sink) -> None:
        options = submission.options
        if options.detach:
            raise errors.ConfigurationError(
                "detach=True needs a cluster: on this machine a call ends with the program that made it. "
                "Leave detach out, or configure a kubeconfig."
            )
        for name, value in options.env.items():
            if not isinstance(value, str):
                raise errors.ConfigurationError(
                    f"env[{name!r}]={value!r} is kept in a cluster, and this call runs on this machine. "
                    f"Give the value itself here, for example os.environ[{name!r}]."
                )
        run = _Run(submission, sink, self._root / f"{submission.call}-{submission.attempt}")
        run.write_input()
        with self._lock:
            if not self._archive.exists():
                self._archive.write_bytes(archive_bytes())
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="kubefunc-local", daemon=True)
                self._thread.start()
            self._waiting.append(run)
        sink.moved(Whereabouts(Phase.PENDING))
        self._start_waiting()

    def attach(self, call: str, sink: Sink) -> None:
        raise errors.ConfigurationError(
            f"attach({call!r}) needs a cluster: on this machine a call ends with the program that made it."
        )

    def cancel(self, call: str) -> None:
        with self._lock:
            for run in [each for each in self._waiting if each.call == call]:
                self._waiting.remove(run)
                shutil.rmtree(run.directory, ignore_errors=True)
            run_now = self._running.get(call)
        if run_now is None:
            return
        run_now.cancelled = True
        run_now.stop(signal.SIGTERM)
        timer = threading.Timer(STOP_GRACE, run_now.kill)
        timer.daemon = True
        timer.start()

    def discard(self, call: str) -> None:
        """Nothing is kept here: a finished call has left no trace."""

    def logs(self, call: str, follow: bool) -> Iterator[bytes]:
        """What a running call has printed goes to its Call at once: there is no other copy."""
        return iter(())

    def close(self, unfinished: Sequence[str], timeout: float) -> Sequence[str]:
        with self._lock:
            self._waiting.clear()
            runs = list(self._running.values())
        for run in runs:
            run.stop(signal.SIGTERM)
        until = time.monotonic() + min(timeout, STOP_GRACE)
        for run in runs:
            if run.process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    run.process.wait(max(0.0, until - time.monotonic()))
            run.kill()
        shutil.rmtree(self._root, ignore_errors=True)
        return []

    # -- processes

    def _start_waiting(self) -> None:
        """Start what may start: a thousand calls at once must not be a thousand processes."""
        while True:
            with self._lock:
                if not self._waiting or len(self._running) >= AT_ONCE:
                    return
                run = self._waiting.popleft()
                self._running[run.call] = run
            self._start(run)

    def _start(self, run: _Run) -> None:
        lifeline, run.lifeline = os.pipe()
        environ = {**run.environ(), "KUBEFUNC_LIFELINE": str(lifeline)}
        try:
            run.process = subprocess.Popen(
                [sys.executable, str(self._archive), "main"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environ,
                pass_fds=(lifeline,),
                start_new_session=True,
            )
        except OSError as error:
            self._ended(run)
            run.sink.fail(errors.PodStartError(f"{run.call} could not be started on this machine: {error}."))
            return
        finally:
            os.close(lifeline)
        run.sink.moved(Whereabouts(Phase.RUNNING))
        if run.process.stdout is not None:
            self._selector.register(run.process.stdout, selectors.EVENT_READ, run)
            os.write(self._wake_write, b".")

    def _serve(self) -> None:
        """The one thread that reads what all calls print, and sees them end."""
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_read, 512)
                else:
                    self._read(key.fd, key.data)

    def _read(self, output: int, run: _Run) -> None:
        data = os.read(output, CHUNK)
        if data:
            run.sink.output(data)
            return
        process = run.process
        if process is None or process.stdout is None:
            return
        self._selector.unregister(process.stdout)
        process.stdout.close()
        process.wait()
        self._ended(run)
        self._collect(run, process.returncode)
        self._start_waiting()

    def _ended(self, run: _Run) -> None:
        run.kill()
        with self._lock:
            self._running.pop(run.call, None)

    def _collect(self, run: _Run, exit_code: int) -> None:
        result = run.directory / "out" / "result"
        envelope: Envelope | None = None
        with contextlib.suppress(FileNotFoundError):
            data = result.read_bytes()
            try:
                envelope = verify(data, run.submission.key, run.call)
            except errors.ResultCorruptedError as error:
                run.sink.fail(error)
        shutil.rmtree(run.directory, ignore_errors=True)
        if envelope is not None:
            run.sink.deliver(envelope)
        elif not run.cancelled:
            run.sink.fail(_died(run.call, exit_code))


def _died(call: str, exit_code: int) -> errors.WorkerDiedError:
    signalled = -exit_code if exit_code < 0 else None
    how = f"by signal {signalled}" if signalled else f"with exit code {exit_code}"
    told = Diagnosis(
        "WorkerDied",
        f"The process that ran the call ended {how} before the function did.",
        "Something on this machine stopped it; the last output may say what.",
        Phase.FINISHED,
        call,
        exit_code=exit_code if signalled is None else None,
        signal=signalled,
    )
    return errors.WorkerDiedError(str(told), exit_code=told.exit_code, signal=signalled, diagnosis=told)

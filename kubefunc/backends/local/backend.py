"""The backend of this machine: which calls wait, which run, what is left of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kubefunc.backends.base import MapSink, MapSubmission, Sink, Submission, Whereabouts
from kubefunc.backends.local.run import Ended, Processes, Run
from kubefunc.diagnosis import Phase
from kubefunc.errors import ConfigurationError
from kubefunc.options import Options
from kubefunc.payload import Packer
from kubefunc.runner.request import RECEIVE

AT_ONCE = 8 * (os.cpu_count() or 1)  # calls; a thousand at once must not be a thousand processes
FOLLOW_EVERY = 0.05
KILLED_WITHIN = 1.0  # seconds of the time for closing that are kept for those who do not end by themselves


class LocalBackend:
    """Implements :class:`kubefunc.backends.base.Backend` with processes of this machine."""

    name = "local"

    def __init__(self, processes: Callable[[Path, Ended], Processes]) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="kubefunc-"))
        self._packer = Packer.for_local()
        self._processes = processes(self._directory, self._ended)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._runs: dict[str, Run] = {}  # waiting and running
        self._waiting: deque[Run] = deque()
        self._closed = False

    @property
    def packer(self) -> Packer:
        """Whoever packs a call will submit it: its process starts meanwhile."""
        self._check_open()
        with contextlib.suppress(OSError):  # the call will tell
            self._processes.warm()
        return self._packer

    def introduce(self, options: Options) -> str:
        return "no cluster configured: calls run on this machine"

    def submit(self, submission: Submission, sink: Sink) -> None:
        _check(submission)
        self._check_open()
        run = Run(submission, sink, self._directory, self._processes.environ)
        with self._lock:
            self._runs[run.call] = run
            self._waiting.append(run)
        sink.moved(Whereabouts(Phase.PENDING))
        self._dispatch()

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
            waited = run in self._waiting
            if waited:
                self._waiting.remove(run)
                del self._runs[call]
        if waited:
            run.settle("")
        else:
            self._processes.end(run)

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
        with self._lock:
            self._closed = True
        for call in unfinished:
            self.cancel(call)
        with self._lock:
            self._changed.wait_for(lambda: not self._runs, max(0.0, until - KILLED_WITHIN - time.monotonic()))
        self._processes.close(until)
        shutil.rmtree(self._directory, ignore_errors=True)
        return []

    def forget(self) -> None:
        """In a forked child: the calls, their processes and files are the parent's."""
        self._processes.forget()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("a call cannot be started any more: this program is ending")

    # -- who runs when

    def _dispatch(self) -> None:
        """Start the calls that may start now, in order."""
        while (run := self._next()) is not None:
            run.sink.moved(Whereabouts(Phase.RUNNING))
            try:
                self._processes.start(run)
            except OSError as error:
                self._drop(run)
                run.settle(f"no process could be started for it ({error})")
            if run.cancelled:  # since it was taken from those that wait
                self._processes.end(run)

    def _next(self) -> Run | None:
        with self._lock:
            if self._closed or not self._waiting or len(self._runs) - len(self._waiting) >= AT_ONCE:
                return None
            return self._waiting.popleft()

    def _drop(self, run: Run) -> None:
        with self._lock:
            self._runs.pop(run.call, None)
            self._changed.notify_all()

    def _ended(self, run: Run, lost: str) -> None:
        """From a thread of the processes. The next call goes first: it may take the place of this one."""
        self._drop(run)
        self._dispatch()
        run.settle(lost)


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

"""The backend of this machine: which calls wait, which run, what is left of them."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO

from kubefunc.backends.base import OpenWork, Shape, Sink, Submission, Traits, Whereabouts, Work
from kubefunc.backends.local.forward import LocalAccess
from kubefunc.backends.local.run import SINGLE, Ended, Processes, Run, not_started, usable_cpus
from kubefunc.backends.reach import check_reach
from kubefunc.diagnosis import Phase
from kubefunc.errors import ConfigurationError, SerializationError
from kubefunc.options import ConfigMapKey, Options, SecretKey
from kubefunc.packing.payload import Packer
from kubefunc.runner.execution.request import RECEIVE
from kubefunc.untrusted import printable_output

if TYPE_CHECKING:
    from kubefunc.backends.local.maps import LocalMap
    from kubefunc.backends.local.workers import Pool

log = logging.getLogger("kubefunc.local")

EXPOSED = (
    "untrusted=True on this machine only keeps your program from unpickling what the function sends: it runs as your "
    "user, reads your files and uses your network"
)
AT_ONCE = 8 * (os.cpu_count() or 1)  # calls; a thousand at once must not be a thousand processes
FOLLOW_EVERY = 0.05
KILLED_WITHIN = 1.0  # seconds of the time for closing that are kept for those who do not end by themselves


class LocalBackend:
    """Implements :class:`kubefunc.backends.base.Backend` with processes of this machine."""

    def __init__(self, directory: Path, processes: Callable[[Path, Ended], Processes]) -> None:
        """Its files go to this directory, which is removed in the end."""
        self._directory = directory
        self._packer = Packer.for_local()
        self._processes = processes(self._directory, self._ended)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._runs: dict[str, Run] = {}  # waiting and running
        self._waiting: deque[Run] = deque()
        self._maps: list[LocalMap] = []
        self._spare: Pool | None = None
        self._closed = False
        self._told_not_mounted: set[tuple[str, ...]] = set()
        self._exposed = False  # a function that is not trusted has run, and the user was told what that means here

    @property
    def packer(self) -> Packer:
        """Start a process while the caller packs the call."""
        self._check_open()
        with contextlib.suppress(OSError):  # the call will tell
            self._processes.warm()
        return self._packer

    @property
    def traits(self) -> Traits:
        return Traits("local", outlives_program=False, workers=usable_cpus())

    def introduce(self, options: Options) -> str:
        return "calls run on this machine"

    def submit(self, submission: Submission, sink: Sink) -> Work:
        if submission.options.untrusted and not self._exposed:
            self._exposed = True
            sink.moved(range(submission.count), Whereabouts(Phase.PENDING, EXPOSED))
        if submission.shape == "map":
            workers = min(usable_cpus(), submission.max_parallelism or usable_cpus(), len(submission.items))
            if submission.options.gang is not None:  # each rank waits for all others
                workers = len(submission.items)
            self._open(submission, sink, workers, None)
        else:
            self._submit_single(submission, sink)
        return LocalWork(self, submission.call, submission.options.ports)

    def _submit_single(self, submission: Submission, sink: Sink) -> None:
        _check(submission.options)
        self._check_open()
        self._have_directory()
        run = Run(submission, sink, self._directory, self._processes.environ)
        with self._lock:
            self._runs[run.call] = run
            self._waiting.append(run)
        sink.moved(SINGLE, Whereabouts(Phase.PENDING, self._not_mounted(submission.options)))
        self._dispatch()

    def _not_mounted(self, options: Options) -> str:
        """What to say of ``volumes``, once: a path that this machine has is used as it is."""
        missing = tuple(path for path in options.volumes if not os.path.exists(path))
        with self._lock:
            is_new = missing not in self._told_not_mounted
            self._told_not_mounted.add(missing)
        if not missing or not is_new:
            return ""
        return f"volumes= mounts nothing on this machine, which has no {', '.join(missing)}"

    def open(self, submission: Submission, sink: Sink, workers: int, claim: Callable[[int], bool]) -> OpenWork:
        if submission.options.untrusted:
            raise ConfigurationError(
                "untrusted=True: the tasks of an Executor on this machine share processes, and one could read and "
                "change what another gets. Use f.remote() for each task, or a cluster, where each has its own Pod."
            )
        return self._open(submission, sink, workers, claim)

    def _open(self, submission: Submission, sink: Sink, workers: int, claim: Callable[[int], bool] | None) -> LocalMap:
        """A map with so many workers; one to which items may be added where each is to be claimed before it runs.

        Raises:
            ConfigurationError: an option needs a cluster, or this system has no fork.
        """
        _check(submission.options)
        self._check_open()
        if not hasattr(os, "fork"):
            raise ConfigurationError(
                "Maps and executors on this machine need fork, which this system lacks. Use f.remote() for each item, "
                "or a cluster."
            )
        from kubefunc.backends.local.ledger import Ledger
        from kubefunc.backends.local.map_files import MapFiles
        from kubefunc.backends.local.maps import LocalMap

        self._have_directory()
        files = MapFiles(submission, self._directory, self._processes.environ)
        ledger = Ledger(submission, sink, files, claim)
        is_open = claim is not None
        started = LocalMap(submission.call, ledger, self._take_pool, self._map_ended, workers=workers, is_open=is_open)
        with self._lock:
            self._maps.append(started)
        note = self._not_mounted(submission.options)
        if note:
            sink.moved(sorted(submission.items), Whereabouts(Phase.PENDING, note))
        try:
            started.start()
        except RuntimeError:  # no thread is to be had
            with self._lock:
                self._maps.remove(started)
            raise
        return started

    def attach(self, call: str, shape: Shape, sink: Sink) -> Work:
        function = "attach_map" if shape == "map" else "attach"
        raise ConfigurationError(
            f"{function}({call!r}) needs a cluster: on this machine it ends with the program that made it."
        )

    def cancel(self, call: str) -> None:
        with self._lock:
            for each in list(self._maps):
                if each.call == call:
                    each.cancel()
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

    def logs(self, call: str, follow: bool) -> Iterator[bytes]:
        with self._lock:
            run = self._runs.get(call)
        if run is None:
            return
        pieces = self._printed(run, follow)
        yield from printable_output(pieces) if run.submission.options.untrusted else pieces

    def _printed(self, run: Run, follow: bool) -> Iterator[bytes]:
        with contextlib.ExitStack() as stack:
            file: BinaryIO | None = None
            while True:
                over = not follow or run.over.is_set()
                if file is None:
                    with contextlib.suppress(FileNotFoundError):  # nothing was printed yet
                        file = stack.enter_context(run.file("log").open("rb"))
                while file is not None and (data := file.read(RECEIVE)):
                    yield data
                if over:
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
        self._end_maps(until - KILLED_WITHIN)
        if self._spare is not None:
            self._spare.end()
        self._processes.close(until)
        shutil.rmtree(self._directory, ignore_errors=True)
        return []

    def forget(self) -> None:
        """In a forked child: the calls, their processes and files are the parent's."""
        for each in self._maps:
            each.forget()
        if self._spare is not None:
            self._spare.close()
        self._processes.forget()

    def _end_maps(self, until: float) -> None:
        """Workers whose map is done run their exit handlers; all others are cancelled."""
        with self._lock:
            maps = list(self._maps)
        for each in maps:
            if not each.is_ending:
                each.cancel()
        for each in maps:
            each.join(max(0.0, until - time.monotonic()))

    def _map_ended(self, ended: LocalMap) -> None:
        """Who has made one map will make another: its workers are forked now, so that it need not wait for them."""
        with self._lock:
            self._maps.remove(ended)
            if self._closed or self._spare is not None:
                return
        # Not under the lock: the lock of the processes may be held by a thread whose signal handler waits for this one.
        with contextlib.suppress(OSError):  # the next map will tell
            spare = self._new_pool(usable_cpus())
            with self._lock:
                if self._closed or self._spare is not None:
                    spare.end()
                    spare.remove_file()
                    return
                spare.fill()
                self._spare = spare

    def _take_pool(self, size: int) -> Pool:
        """The spare one, if it has room for so many workers.

        Raises:
            OSError: none can be started.
        """
        with self._lock:
            if self._spare is not None and self._spare.size >= size:
                spare, self._spare = self._spare, None
                return spare
        return self._new_pool(size)

    def _new_pool(self, size: int) -> Pool:
        from kubefunc.backends.local.workers import Pool

        return Pool(self._processes.new_pool(), self._directory / f"{os.urandom(5).hex()}.notes", size)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("a call cannot be started any more: this program is ending")

    def _have_directory(self) -> None:
        """Make it anew where it was removed: a program may run for longer than what cleans up /tmp allows."""
        try:
            self._directory.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            if hasattr(os, "geteuid") and self._directory.stat().st_uid != os.geteuid():
                raise ConfigurationError(
                    f"{self._directory} was removed, and made anew by another user: no call's files go there. "
                    "Start the program anew."
                ) from None

    # -- who runs when

    def _dispatch(self) -> None:
        """Start the calls that may start now, in order."""
        while (run := self._next()) is not None:
            log.info("%s: pending -> running", run.call)
            run.sink.moved(SINGLE, Whereabouts(Phase.RUNNING))
            try:
                run.started()
                self._processes.start(run)
            except OSError as error:
                self._drop(run)
                run.settle(not_started(error))
            if run.cancelled:  # since it was taken from those that wait
                self._processes.end(run)

    def _next(self) -> Run | None:
        with self._lock:
            if self._closed or len(self._runs) - len(self._waiting) >= AT_ONCE:
                return None
            try:
                return self._waiting.popleft()
            except IndexError:
                return None

    def _drop(self, run: Run) -> None:
        with self._lock:
            self._runs.pop(run.call, None)
            self._changed.notify_all()

    def _ended(self, run: Run, lost: str) -> None:
        """From a thread of the processes. The next call goes first: it may take the place of this one."""
        log.info("%s: running -> over%s", run.call, f" ({lost})" if lost and run.answer is None else "")
        self._drop(run)
        self._dispatch()
        run.settle(lost)


class LocalWork:
    """Implements :class:`kubefunc.backends.base.Work`. What an item prints is handed over before its outcome."""

    def __init__(self, backend: LocalBackend, call: str, ports: Mapping[str, int] = MappingProxyType({})) -> None:
        self._backend = backend
        self._call = call
        self._ports = ports

    def address(self) -> str:
        raise SerializationError(
            f"{self._call} runs on this machine, as a process of this program: no other process can have a handle of "
            "it. Pass its result() instead; on a cluster handles can be pickled."
        )

    def read(self) -> Submission:
        raise ConfigurationError(
            f"The map {self._call} is not known here: on this machine a map ends with its program."
        )

    def publication(self) -> ConfigMapKey | SecretKey | None:
        return None  # nobody attaches to it

    def publish(self, to: ConfigMapKey | SecretKey, content: str | bytes) -> bool:
        return False

    def outlives_program(self) -> bool:
        return False

    def cancel(self) -> None:
        self._backend.cancel(self._call)

    def discard(self) -> None:
        """Nothing of a call that has ended is kept here."""

    def logs(self, follow: bool) -> Iterator[bytes]:
        return self._backend.logs(self._call, follow)

    def access(self) -> LocalAccess:
        return LocalAccess(self._call, self._ports)

    def drain(self, seconds: float) -> None:
        """There is nothing to wait for."""


def _check(options: Options) -> None:
    check_reach(options)
    if options.detach:
        raise ConfigurationError(
            "detach=True needs a cluster: on this machine a call ends with the program that made it. "
            "Leave detach out, or configure a kubeconfig."
        )
    wanted = options.requirements()
    if wanted is not None:
        from kubefunc.packing.packages.installed import check_here  # only for those who use it

        check_here(wanted)
    for name, value in options.env.items():
        if not isinstance(value, str):
            raise ConfigurationError(
                f"env[{name!r}]={value!r} is kept in a cluster, and this call runs on this machine. "
                f"Give the value itself here, for example os.environ[{name!r}]."
            )

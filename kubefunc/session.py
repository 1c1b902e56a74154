"""This process's one live connection: defaults, the backend that is used, what happens at exit and after a fork."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import os
import queue
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kubefunc.choice import BackendChoice, BackendName, choose_backend, create_backend
from kubefunc.console import Console
from kubefunc.errors import ConfigurationError
from kubefunc.options import Layer, Options, Resolved, environment_layer, parse_changes, shows_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kubefunc.backends.base import Backend, Sink, Submission, Work
    from kubefunc.leaving import SigtermHandler
    from kubefunc.options import OptionChanges
    from kubefunc.packing.payload import Payload

EXIT_TIMEOUT = 5.0


Choose = Callable[["Options"], "Backend"]
Replacement = Callable[[Choose, "Options"], "Backend"]


class Dispatcher:
    """The thread that completes futures: callbacks run here, one after another."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kubefunc-dispatcher", daemon=True)
        self._thread.start()

    def do(self, work: Callable[[], None]) -> None:
        self._queue.put(work)

    def is_this_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def end(self, seconds: float) -> None:
        """At exit: run the callbacks that wait, within so many seconds, and none after that.

        One that prints while the interpreter ends could abort the process (:meth:`kubefunc.console.Console.end`).
        """
        self._queue.put(None)
        if not self.is_this_thread():
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            work = self._queue.get()
            if work is None:
                return
            try:
                work()
            except BaseException:  # noqa: BLE001 - a done-callback may even call sys.exit(); other calls must end too
                traceback.print_exc()
            del work  # it holds a call, which its owner may have let go


class Waitable(Protocol):
    """What an exit waits for."""

    def end(self) -> None:
        """No more will come."""
        ...

    def wait(self) -> None:
        """Until it has ended."""
        ...


class Session:
    """What all calls of this process share. Made at first use; a forked child makes its own."""

    def __init__(self) -> None:
        self.id = os.urandom(5).hex()
        self.pid = os.getpid()
        self.console = Console()
        self.dispatcher = Dispatcher()
        self._lock = threading.RLock()
        self._defaults = parse_changes("configure()")
        self._wanted: BackendName | None = None
        self._backends: dict[tuple[str, str | None], Backend] = {}
        self._replacements: list[Replacement] = []
        self._waited: weakref.WeakSet[Waitable] = weakref.WeakSet()
        self.kept: dict[str, Any] = {}  # what a plug-in keeps as long as this lasts, by its name
        self._unfinished: dict[str, _Unfinished] = {}
        self._said: set[str] = set()
        self._resolved = Resolved()

    # -- options

    def configure(self, wanted: BackendName | None, changes: Layer) -> None:
        with self._lock:
            self._wanted = wanted or self._wanted
            self._defaults = Layer(
                {**self._defaults, **changes},
                dict.fromkeys({**self._defaults, **changes}, "configure()"),
            )

    @contextmanager
    def with_defaults(self, changes: Layer) -> Generator[None]:
        """Inside, these are defaults as well, as if ``configure()`` had set them."""
        before = self._defaults
        self.configure(None, changes)
        try:
            yield
        finally:
            self._defaults = before

    def layers(self) -> tuple[Layer, Layer]:
        """``configure()`` and the environment, weakest first."""
        return self._defaults, environment_layer(os.environ)

    def options(self, *layers: Layer) -> Options:
        """The options that apply to a call. A requirements file is read now.

        Raises:
            ConfigurationError: options contradict each other, or the file cannot be read.
        """
        options = self._resolved.of(self._defaults, *layers)
        wanted = options.requirements()
        return options if wanted is None else dataclasses.replace(options, packages=wanted)

    # -- backends

    def backend(self, options: Options) -> Backend:
        """The backend for calls with these options, chosen by their context and announced at its first use.

        Raises:
            ConfigurationError: the kubeconfig is broken, or KUBEFUNC_BACKEND names no backend.
        """
        choose = self._configured_backend
        for replace in self._replacements:
            choose = functools.partial(replace, choose)
        return choose(options)

    @contextmanager
    def replacing(self, replacement: Replacement) -> Generator[None]:
        """Inside, calls go to the backend that this gives, asked with what would have chosen one otherwise."""
        self._replacements.append(replacement)
        try:
            yield
        finally:
            self._replacements.remove(replacement)

    def _configured_backend(self, options: Options) -> Backend:
        context = options.context
        with self._lock:
            for key in (("kubernetes", context), ("local", None)):
                if key in self._backends and self._wanted in (None, key[0]):
                    return self._backends[key]
            choice = choose_backend(self._wanted, context, os.environ)
            backend = create_backend(choice, self.id)
            key = choice.name, context if choice.name == "kubernetes" else None
            kept = self._backends.setdefault(key, backend)
        if kept is not backend:  # a signal handler has made a call meanwhile, in this same thread
            backend.close([], EXIT_TIMEOUT)
            return kept
        self.console.say(f"{choice.why}{backend.introduce(options)}")
        return backend

    def use(self, choice: BackendChoice, context: str | None) -> None:
        """Choose this backend, without a word: for a command that names the cluster itself."""
        with self._lock:
            self._backends[choice.name, context] = create_backend(choice, self.id)

    # -- calls

    def start(self, backend: Backend, submission: Submission, sink: Sink) -> Work:
        with self._remembered(backend, submission, sink):
            work = backend.submit(submission, sink)
        with self._lock:
            if submission.call in self._unfinished:
                self._unfinished[submission.call].work = work
        return work

    @contextmanager
    def _remembered(self, backend: Backend, submission: Submission, sink: Sink) -> Generator[None]:
        """To be cancelled at exit; not what was refused when it was submitted."""
        self.say_notes(submission.payload)
        if not submission.options.detach:
            _sigterm().install()
            with self._lock:
                self._unfinished[submission.call] = _Unfinished(backend, sink, submission)
        try:
            yield
        except BaseException:
            self.finished(submission.call)
            raise

    def say_notes(self, payload: Payload) -> None:
        """Tell the person what they should know of a payload, each thing once."""
        for note in payload.notes:
            self.say_once(note.about, note.text)

    def say_once(self, about: str, text: str) -> None:
        """Tell the person, unless this was said before in this process."""
        with self._lock:
            is_new = about not in self._said
            self._said.add(about)
        if is_new:
            self.console.say(text)

    def finished(self, call: str) -> None:
        with self._lock:
            self._unfinished.pop(call, None)

    def forget(self) -> None:
        """In a forked child: all of this is the parent's."""
        of_calls = {each.backend for each in self._unfinished.values()}  # `testing` has some of its own
        for backend in of_calls.union(self._backends.values()):
            backend.forget()

    # -- the end

    def wait_at_exit(self, for_what: Waitable) -> None:
        """At exit, let this finish first: an executor's tasks, as the standard library's executors do."""
        self._waited.add(for_what)

    def wait(self) -> None:
        """For all that is to finish first. Ctrl-C ends the wait, and what is unfinished is cancelled then."""
        try:
            for each in list(self._waited):
                each.end()
                each.wait()
        except KeyboardInterrupt:
            return

    def close(self) -> None:
        """Cancel what is unfinished and not detached, within 5 s; then let the backends go."""
        waiting = self.still_unfinished()
        if waiting:
            what = "call" if len(waiting) == 1 else "calls"
            might = any(each.might_outlive for each in waiting.values())
            way_out = "; with detach=True they would continue" if might else ""
            self.console.say(f"exit cancels {len(waiting)} unfinished {what} ({_listed(list(waiting))}){way_out}")
        self._close(waiting)
        with suppress(KeyboardInterrupt):
            self.dispatcher.end(EXIT_TIMEOUT)
        self.console.end()

    def before_death_by_sigterm(self) -> None:
        """Say which calls go on, and cancel those whose options want that."""
        from kubefunc import leaving

        waiting = self.still_unfinished()
        wanted = {call: each for call, each in waiting.items() if each.submission.options.on_sigterm == "cancel"}
        left = [(call, each) for call, each in waiting.items() if call not in wanted]
        going_on = {call: each for call, each in left if each.work is not None and each.work.outlives_program()}
        ending = [call for call, _ in left if call not in going_on]
        if going_on:
            addresses = [each.work.address() for each in going_on.values() if each.work is not None]
            longest = max(each.submission.options.deadline for each in going_on.values())
            self.console.say_last(leaving.what_goes_on(addresses, longest))
        if ending:
            self.console.say_last(leaving.what_ends(ending))
        if wanted:
            what = "call" if len(wanted) == 1 else "calls"
            self.console.say_last(f"SIGTERM cancels {len(wanted)} unfinished {what} ({_listed(list(wanted))})")
            self._close(wanted)

    def still_unfinished(self) -> dict[str, _Unfinished]:
        """What was submitted and has not ended, by its id; not what is detached."""
        with self._lock:
            return {call: each for call, each in self._unfinished.items() if not each.sink.settled}

    def _close(self, waiting: Mapping[str, _Unfinished]) -> None:
        """Cancel these, within 5 s, and let the backends go."""
        with self._lock:
            backends = list(self._backends.values())
        try:
            left: list[str] = []
            for backend in backends:
                mine = [call for call, each in waiting.items() if each.backend is backend]
                left += backend.close(mine, EXIT_TIMEOUT)
        except KeyboardInterrupt:
            left = list(waiting)
        unfinished = [call for call in left if call in waiting]
        if unfinished:
            self.console.say(f"not cancelled, still on the cluster: {' '.join(unfinished)}")
        finished = [call for call in left if call not in waiting]
        if finished:
            self.console.say(f"finished, but their Jobs could not be deleted (ttl= removes them): {' '.join(finished)}")
        self.console.settle()


@dataclass
class _Unfinished:
    """A call or a map of this process that has not ended. ``work``: None while it is being submitted."""

    backend: Backend
    sink: Sink
    submission: Submission
    work: Work | None = None

    @property
    def might_outlive(self) -> bool:
        """Whether it would have gone on after its program with detach=True."""
        of = self.submission
        refuses_detach = of.values is not None or of.options.pool is not None or of.options.gang is not None
        return self.backend.traits.outlives_program and not refuses_detach


def _listed(calls: list[str]) -> str:
    return ", ".join(calls[:3]) + (f" and {len(calls) - 3} more" if len(calls) > 3 else "")


# The module-level state that there is: the session belongs to a process, and a process has one.
# All locks are reentrant: a signal handler that makes a call may interrupt the thread that holds them.
_session: Session | None = None
_session_lock = threading.RLock()
_exiting = False


def _before_death_by_sigterm() -> None:
    if _session is not None and _session.pid == os.getpid():
        _session.before_death_by_sigterm()


@functools.lru_cache(maxsize=1)  # Python forgets no hook of forks that it has installed
def _sigterm() -> SigtermHandler:
    from kubefunc.leaving import SigtermHandler  # here, as it does not travel to Pods

    return SigtermHandler(_before_death_by_sigterm)


def exiting() -> bool:
    """Whether this process has begun to exit: nothing can be started any more."""
    return _exiting


def session() -> Session:
    """This process's session."""
    global _session
    with _session_lock:
        if _session is None:
            made = Session()
            if _session is None:  # else a signal handler has made one meanwhile, in this same thread
                _session = made
                _close_with_multiprocessing()
        return _session


@shows_options
def configure(backend: BackendName | None = None, **changes: Unpack[OptionChanges]) -> None:
    """Set defaults for all calls of this process.

    Environment variables, ``@remote`` and ``.options`` override them.

    Args:
        backend: ``"kubernetes"`` or ``"local"``. Default: Kubernetes if there is a kubeconfig, else local.
        **changes: any option of :class:`kubefunc.Options`.

    Raises:
        ConfigurationError: there is no such option, or its value is not accepted.
    """
    __tracebackhide__ = True
    if backend not in (None, "kubernetes", "local"):
        raise ConfigurationError(f"configure(): backend={backend!r} is not 'kubernetes' or 'local'.")
    session().configure(backend, parse_changes("configure()", **changes))


def _at_exit() -> None:
    global _exiting
    if _exiting:
        return
    _exiting = True
    if _session is not None and _session.pid == os.getpid():
        _session.wait()
        _session.close()


def _after_fork_in_child() -> None:
    """The connections are the parent's: the child starts with none and closes nothing of them."""
    global _session, _session_lock, _exiting
    parents, _session = _session, None
    _exiting = False
    _session_lock = threading.RLock()
    if parents is not None:
        parents.forget()


def _close_with_multiprocessing() -> None:
    """In a process that multiprocessing has forked: it ends by os._exit(), so atexit's handlers do not run."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _at_exit, exitpriority=0)


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)

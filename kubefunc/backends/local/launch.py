"""What starts the runner's programs on this machine: their command, and the fork server's process.

It imports little: the server starts before the rest of this backend is loaded, and comes up meanwhile.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping

import kubefunc
from kubefunc.errors import ConfigurationError

# A process's first words. sys.path[0] of `-c` is the current directory, and nothing there may be imported. Our own
# kubefunc and cloudpickle come behind the standard library and before whatever else is installed.
_START = """\
import sys
homes, sys.argv[1:] = sys.argv[1:3], sys.argv[3:]
path = [each for each in sys.path if each]
place = next((at for at, each in enumerate(path) if each.endswith("-packages")), len(path))
sys.path[:] = path[:place] + homes + path[place:]
from kubefunc.runner.__main__ import main
sys.exit(main())
"""


def command(program: str, *arguments: str) -> list[str]:
    """What starts a program of the runner on this machine.

    Raises:
        ConfigurationError: it is not known where Python is.
    """
    if not sys.executable:
        raise ConfigurationError(
            "Calls on this machine are processes of Python, and sys.executable does not say where Python is. "
            "Set it, or run this program with a python command."
        )
    return [sys.executable, "-c", _START, _home(kubefunc.__file__), _home(_cloudpickle()), program, *arguments]


def _cloudpickle() -> str | None:
    """Its file, without importing it: that can wait until the process has been started."""
    spec = importlib.util.find_spec("cloudpickle")
    return None if spec is None else spec.origin


def _home(file: str | None) -> str:
    return os.path.dirname(os.path.dirname(os.path.abspath(file or "")))


def start_directory() -> str | None:
    """Where a process of ours starts: here, but not in a removed directory, where Python 3.13.0 imports little."""
    return None if working_directory() is not None else os.sep


def working_directory() -> str | None:
    """None where it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def socket_pair(kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that block, whatever ``socket.setdefaulttimeout()`` says."""
    pair = socket.socketpair(socket.AF_UNIX, kind)
    for each in pair:
        each.settimeout(None)
    return pair


def start_thread(name: str, run: Callable[[], None]) -> threading.Thread:
    """A thread that ends with the program.

    Raises:
        OSError: none can be started: the system gives no more, or (from Python 3.12 on) this program is ending.
    """
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
    return thread


class ServerProcess:
    """The process of the fork server (:mod:`kubefunc.runner.local.server`), and our end of its socket."""

    def __init__(self, directory: str, environ: Mapping[str, str]) -> None:
        """Started, and not waited for.

        Raises:
            ConfigurationError: it is not known where Python is.
            OSError: no process or socket is to be had.
        """
        self.control, theirs = socket_pair()
        try:
            with theirs:
                self.process = subprocess.Popen(
                    command("server", str(theirs.fileno()), directory),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=environ,
                    cwd=start_directory(),
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except BaseException:
            self.control.close()
            raise

    def open(self, letter: bytes, kind: int) -> socket.socket:
        """Our end of a new socket, whose other end the server gets with this letter.

        Raises:
            OSError: the server has died, or no socket is to be had.
        """
        ours, theirs = socket_pair(kind)
        with theirs:
            try:
                socket.send_fds(self.control, [letter], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def has_gone(self, seconds: float) -> bool:
        """Whether its end is known, or is known within these seconds: all that it ever sends is its end."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def end(self, seconds: float) -> None:
        """Its sign to end is the end of what we send; its own end is that of its socket."""
        with self.control as control:
            try:
                control.shutdown(socket.SHUT_WR)
                control.settimeout(seconds)
                control.recv(1)
            except OSError:  # it has died, or does not end in time
                pass
        try:
            self.process.wait(0.1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def forget(self) -> None:
        """In a forked child: it is not ours, there is nothing to wait for and nothing to warn of."""
        self.process.returncode = 0
        self.control.close()

    def how_it_ended(self) -> str:
        """In words."""
        code = self.process.returncode
        if code >= 0:
            return f"has ended with exit code {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

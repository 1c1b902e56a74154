"""Functions that fail, each in its own way. They travel to the Pod with this module: standard library only."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from kubefunc import remote


class TwoArguments(Exception):
    """An ``__init__`` that pickle cannot repeat: it wants two arguments, ``args`` has one."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class KeywordOnly(Exception):
    """An ``__init__`` that takes its arguments by name only."""

    def __init__(self, *, where: str) -> None:
        super().__init__(f"at {where}")
        self.where = where


class Strange(Exception):
    """Its attribute is not what the name promises."""

    exceptions = 5


class HoldsALock(Exception):
    """An exception with an attribute that cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class CannotBePickled(Exception):
    """An exception that refuses to be pickled, and whose text differs in each process."""

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("I stay here")

    def __str__(self) -> str:
        return f"bound to address {id(self):#x}"


@remote
def double(x: int) -> int:
    """What a healthy call gives."""
    return 2 * x


@remote
def sleep(seconds: float) -> str:
    """Says that it runs, then takes its time."""
    print("working", flush=True)
    time.sleep(seconds)
    return socket.gethostname()


@remote
def divide_by_zero() -> float:
    """A builtin exception, after some output."""
    print("about to divide")
    return 1 / 0


@remote
def raise_two_arguments() -> None:
    """An exception class of the caller's project."""
    raise TwoArguments(404, "not here")


@remote
def raise_keyword_only() -> None:
    """Another one."""
    raise KeywordOnly(where="the Pod")


@remote
def raise_chained() -> None:
    """An explicit cause above an implicit context."""
    try:
        try:
            {}["missing"]
        except KeyError:
            int("seven")
    except ValueError as error:
        raise TwoArguments(1, "chained") from error


@remote
def raise_with_notes() -> None:
    """Two notes, as ``add_note`` of Python 3.11 leaves them."""
    error = ValueError("noted")
    error.__notes__ = ["the first note", "the second note"]  # type: ignore[attr-defined]
    raise error


@remote
def raise_group() -> None:
    """Several exceptions at once, one of the project, one with a cause."""
    caused = ValueError("second")
    caused.__cause__ = OSError(28, "disk full")
    raise ExceptionGroup("both", [KeywordOnly(where="first"), caused])  # type: ignore[name-defined] # noqa: F821


@remote
def raise_strange() -> None:
    """Raise an exception that looks like a group, and is none."""
    raise Strange("boom")


@remote
def raise_with_lock() -> None:
    """Travels without its lock."""
    raise HoldsALock("carries a lock")


@remote
def raise_unpicklable() -> None:
    """Travels by its class, its arguments and its attributes."""
    raise CannotBePickled("here")


@remote
def raise_a_local_class() -> None:
    """Travels as text: the class itself cannot."""

    class Stays(Exception):
        lock = threading.Lock()

    raise Stays("held")


@remote
def leave_at_once() -> None:
    """No exception, no result: the process is gone."""
    print("leaving by the back door")
    sys.stdout.flush()
    os._exit(3)


@remote
def crash() -> None:
    """SIGSEGV, as a bug in a C extension gives it."""
    print("reading address 0", flush=True)
    ctypes.string_at(0)


@remote
def call_sys_exit() -> None:
    """What scripts do at their end."""
    sys.exit(4)


@remote
def wait_for_ever() -> None:
    """Stands still in a place that the stacks show."""
    print("waiting", flush=True)
    stuck_here()


def stuck_here() -> None:
    """A name to look for in the stacks."""
    threading.Event().wait()


@remote
def fail_until_attempt(number: int) -> int:
    """Raises in all attempts before this one."""
    attempt = int(os.environ["KUBEFUNC_ATTEMPT"])
    if attempt < number:
        raise OSError(f"attempt {attempt}")
    return attempt


@remote
def use_memory(mib: int) -> int:
    """Fill so much memory and hold it."""
    print(f"filling {mib} MiB", flush=True)
    return len(b"x" * (mib * 2**20))


@remote
def return_a_lock() -> object:
    """Cannot be pickled, deep inside."""
    return {"rows": [1, 2], "state": [{"lock": threading.Lock()}]}


@remote
def import_missing() -> None:
    """A third-party module that no stock image has, imported when the function runs."""
    import surely_not_installed  # type: ignore[import-not-found] # noqa: F401


@remote
def write_home_and_tmp() -> tuple[str, str]:
    """Write where programs write by habit; the rest of the file system refuses."""
    Path.home().joinpath("settings").write_text("x")
    Path("/tmp/file").write_text("x")
    try:
        Path("/usr/forbidden").write_text("x")
    except OSError as error:
        return str(Path.home()), error.strerror or ""
    return str(Path.home()), "the root file system took it"


@remote
def end_the_supervisor() -> None:
    """SIGTERM to the container's first process, as ``kill 1`` in a shell does; SIGKILL from within does nothing."""
    os.kill(1, signal.SIGTERM)
    time.sleep(60)


@remote
def fill_disk(mib: int) -> None:
    """Write so much into /tmp and wait for what comes of it. What is evicted at once has no log any more."""
    print(f"writing {mib} MiB", flush=True)
    time.sleep(5)
    Path("/tmp/large").write_bytes(b"x" * (mib * 2**20))
    time.sleep(120)


@remote
def make_bytes(size: int) -> bytes:
    """A result too large for the Pod's status."""
    return b"r" * size


# Run in the courier once the result is there: spoils it where it lies.
SPOILER = """
import sys
with open("/kubefunc/out/result", "r+b") as file:
    size = file.seek(0, 2)
    if sys.argv[1] == "length":
        file.truncate(size - 10)
    else:
        file.seek({"sha256": 50_000, "hmac": size - 30}[sys.argv[1]])
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
"""

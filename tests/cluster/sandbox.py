"""Namespaces for one node, and their end.

One ``unshare`` process carries them all. The network namespace has no name and the host's end of the cable
vanishes with it, so one SIGKILL removes every process, mount and interface; what is left to remove by hand
is the control groups.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import needs

_CGROUPS = Path("/sys/fs/cgroup")
_SLOTS = 32
_NETWORK = "198.51.100"  # TEST-NET-2: documentation addresses, routed nowhere
PREFIX = 29  # 32 clusters of 6 addresses each: the host's, and room for more nodes


@dataclass(frozen=True)
class Cable:
    """A pair of interfaces, one end on the host and one for the node; the slot makes all names unique."""

    slot: int

    @property
    def host_end(self) -> str:
        return f"kubefunc{self.slot}"

    @property
    def node_end(self) -> str:
        return f"kubefunc{self.slot}n"

    @property
    def host_address(self) -> str:
        return f"{_NETWORK}.{8 * self.slot + 1}"

    @property
    def node_address(self) -> str:
        return f"{_NETWORK}.{8 * self.slot + 2}"

    @property
    def cgroup(self) -> str:
        return f"kubefunc-test-{self.slot}"


@dataclass(frozen=True)
class Sandbox:
    """A running sandbox. ``started`` tells a process from a later one with the same PID."""

    pid: int
    started: int
    pid_namespace: int
    cable: Cable

    def alive(self) -> bool:
        return _start_time(self.pid) == self.started

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command line that runs a command inside."""
        namespaces = f"/proc/{self.pid}/ns"
        return [
            "nsenter",
            f"--mount={namespaces}/mnt",
            f"--net={namespaces}/net",
            f"--pid={namespaces}/pid_for_children",
            "--",
            *command,
        ]


def listen_inside(sandbox: Sandbox) -> socket.socket:
    """A listening socket at the node's address, which Pods reach: a socket stays in the network it was made in."""
    made: list[socket.socket] = []

    def make() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/proc/{sandbox.pid}/ns/net") as namespace:
            if libc.setns(namespace.fileno(), 0):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(socket.create_server((sandbox.cable.node_address, 0)))

    thread = threading.Thread(target=make)  # setns changes the network of one thread, which ends
    thread.start()
    thread.join()
    return made[0]


def lay_cable() -> Cable:
    """Take the first free slot of this machine: the kernel refuses a second interface of one name."""
    for slot in range(_SLOTS):
        cable = Cable(slot)
        add = ["ip", "link", "add", cable.host_end, "type", "veth", "peer", "name", cable.node_end]
        if _quiet(add).returncode == 0:
            return cable
    error = _quiet(add).stderr.strip()
    raise needs.CannotRunHere(f"no network interface for a test cluster: {error} ({_SLOTS} slots tried)")


def remove_cable(cable: Cable) -> None:
    """Remove the host's end, where it is still there."""
    _quiet(["ip", "link", "delete", cable.host_end])


def start(cable: Cable, command: Sequence[str], log: Path, stdin: int) -> Sandbox:
    """Run a command as PID 1 of new mount, PID and network namespaces, with the node's end of the cable.

    The sandbox outlives this process, unless ``stdin`` is a pipe and the command minds its end.
    """
    _make_cgroups(cable.cgroup)
    pid = _spawn_unshared(command, log, stdin)
    try:
        namespace = _wait_for_namespaces(pid)
        _run(["ip", "link", "set", cable.node_end, "netns", str(pid)])
        _run(["ip", "address", "add", f"{cable.host_address}/{PREFIX}", "dev", cable.host_end])
        _run(["ip", "link", "set", cable.host_end, "up"])
        started = _start_time(pid)
        if started is None:
            raise RuntimeError("the sandbox ended at once")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return Sandbox(pid, started, namespace, cable)


def _spawn_unshared(command: Sequence[str], log: Path, stdin: int) -> int:
    # Not Popen: it warns when it is dropped while its process lives, as this one is meant to.
    unshare = [
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--wd=/",
        "--",
    ]
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        needs.find_command("unshare"),
        [*unshare, *command],
        {**os.environ, "PATH": needs.search_path()},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def stop(sandbox: Sandbox) -> None:
    """Kill everything inside, wait until it is gone, remove what the kernel does not remove by itself."""
    if sandbox.alive():
        os.kill(sandbox.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # not our child when an earlier command started it
        os.waitpid(sandbox.pid, 0)
    _wait_for(lambda: not any(processes_of(sandbox.pid_namespace)), "processes to end")
    remove_cable(sandbox.cable)
    remove_cgroups(sandbox.cable.cgroup)


def processes_of(pid_namespace: int) -> Iterator[int]:
    """The PIDs, as this machine counts them, of all processes in that PID namespace."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):  # ended while we looked
                if os.stat(f"/proc/{entry}/ns/pid").st_ino == pid_namespace:
                    yield int(entry)


def cgroup_parents() -> list[Path]:
    """The roots of all cgroup hierarchies: one with v2, one for each controller with v1."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [path for path in _CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def _make_cgroups(name: str) -> None:
    for parent in cgroup_parents():
        group = parent / name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # v1 starts a new cpuset empty, and nothing can run in an empty one.
            if parent != _CGROUPS and (parent / setting).exists():
                (group / setting).write_text((parent / setting).read_text())


def remove_cgroups(name: str) -> None:
    """Remove a cgroup with all below it, in every hierarchy."""
    for parent in cgroup_parents():
        _wait_for(functools.partial(_removed, parent / name), f"cgroup {parent / name} to be empty")


def _removed(group: Path) -> bool:
    if not group.exists():
        return True
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):  # busy: its last process is still on its way out
            os.rmdir(directory)
    return not group.exists()


def _wait_for_namespaces(pid: int) -> int:
    """Wait until unshare has made them; return the inode of the PID namespace."""
    own = os.stat("/proc/self/ns/pid").st_ino
    inodes: list[int] = []

    def made() -> bool:
        if _start_time(pid) is None:
            raise RuntimeError("unshare could not make namespaces")
        with contextlib.suppress(FileNotFoundError):  # between its unshare and its fork the link leads nowhere
            inodes[:] = [os.stat(f"/proc/{pid}/ns/pid_for_children").st_ino]
        return inodes not in ([], [own])

    _wait_for(made, "namespaces")
    return inodes[0]


def _start_time(pid: int) -> int | None:
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = line.rpartition(")")[2].split()  # the name before it may hold spaces and parentheses
    return None if state in "ZX" else int(fields[18])


def _wait_for(condition: Callable[[], bool], what: str, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.02)


def _quiet(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    program = needs.find_command(command[0])
    return subprocess.run([program, *command[1:]], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def _run(command: Sequence[str]) -> None:
    done = _quiet(command)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")

"""The first process of a node's namespaces: prepares them, starts the components, keeps them running.

Run as ``python -I -S inside.py PLAN`` (a copy stands in the node's directory, so that a changed source
cannot change a running node). It is PID 1 in there: when it ends, the kernel ends everything else, and the
mounts and the network go with the last process. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

POLL = 0.05
RESTART_DELAY = 0.5

# kubelet sets these for the whole machine. In here it finds files that hold what it wants, and the
# machine keeps its own values.
_KUBELET_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}


class Component(TypedDict):
    name: str
    command: list[str]
    after: list[str]  # addresses that must answer first: unix:PATH, tcp:HOST:PORT, https://...


class Plan(TypedDict):
    directory: str
    interface: str
    address: str
    prefix: int
    also: list[str]  # further addresses of this node, such as the Service address of the API server
    certificate_authority: str
    environment: dict[str, str]
    components: list[Component]


def run(*command: str) -> None:
    """Run a command; its output is in the sandbox's log."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def mount_private_directories(directory: Path) -> None:
    """Give the node its own /run and /var: every default path of kubelet, containerd and CNI lies there."""
    own_run, own_var = directory / "run", directory / "var"
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(own_run))
    for name in ("cluster", "lock", "tmp", "pids"):
        (own_run / name).mkdir()
    for name in ("lib", "log", "tmp"):
        (own_var / name).mkdir(parents=True)
    (own_var / "run").symlink_to("/run")
    run("mount", "--bind", str(directory), str(own_run / "cluster"))
    run("mount", "--rbind", str(own_run), "/run")
    run("mount", "--bind", str(own_var), "/var")


def shadow_file(path: Path, content: str) -> None:
    """Let everyone in here see this content at that path."""
    shadow = Path("/run/shadow") / str(path).strip("/").replace("/", "-")
    shadow.parent.mkdir(exist_ok=True)
    shadow.write_text(content)
    target = path.resolve()
    if not target.exists():  # /etc/resolv.conf is often a link into /run, which is a new one in here
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    run("mount", "--bind", str(shadow), str(target))


def raise_network(plan: Plan) -> None:
    """Configure the interface that the other side puts into this namespace."""
    interface = plan["interface"]
    wait_until(lambda: Path("/proc/net/dev").read_text().find(f"{interface}:") >= 0, f"interface {interface}")
    run("ip", "link", "set", "lo", "up")
    run("ip", "address", "add", f"{plan['address']}/{plan['prefix']}", "dev", interface)
    for address in plan["also"]:
        run("ip", "address", "add", f"{address}/32", "dev", "lo")
    run("ip", "link", "set", interface, "up")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll; end the whole node when it is in vain."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not appear within 30 s")
        time.sleep(POLL)


def prepare(plan: Plan) -> None:
    """Mounts, names and network: all that must be there before the first component."""
    mount_private_directories(Path(plan["directory"]))
    # An unreachable resolver costs 10-20 s at start; nothing listens on 127.0.0.1, so it answers at once.
    shadow_file(Path("/etc/resolv.conf"), "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    shadow_file(Path("/etc/hosts"), f"127.0.0.1 localhost\n{plan['address']} {socket.gethostname()}\n")
    for name, value in _KUBELET_SYSCTLS.items():
        shadow_file(Path("/proc/sys") / name, value + "\n")
    raise_network(plan)


def answers(address: str, trust: ssl.SSLContext) -> bool:
    """Whether something that works listens there."""
    kind, _, rest = address.partition(":")
    if kind == "https":
        return _healthy(address, trust)
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    host, _, port = rest.rpartition(":")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        return probe.connect_ex(rest if kind == "unix" else (host, int(port))) == 0


def _healthy(url: str, trust: ssl.SSLContext) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2, context=trust) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def start(component: Component, environment: dict[str, str]) -> int:
    """Start a component with its output in its log; return its PID, also found in /run/pids."""
    log = f"/run/cluster/log/{component['name']}.log"
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    command = component["command"]
    pid = os.posix_spawnp(
        command[0],
        command,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsigmask=[],
    )
    Path("/run/pids", component["name"]).write_text(str(pid))
    return pid


def supervise(plan: Plan) -> None:
    """Start each component when what it needs answers; start it again when it ends; reap all orphans."""
    trust = ssl.create_default_context(cafile=plan["certificate_authority"])
    waiting = list(plan["components"])
    running: dict[int, Component] = {}
    while True:
        ready = [item for item in waiting if all(answers(address, trust) for address in item["after"])]
        for component in ready:
            waiting.remove(component)
            running[start(component, plan["environment"])] = component
        # SIGCHLD is blocked: it is waited for here, so that a dead component is noticed at once.
        signal.sigtimedwait([signal.SIGCHLD], POLL if waiting else 60)
        ended = [running.pop(pid) for pid in reap() if pid in running]
        if ended:
            time.sleep(RESTART_DELAY)
        waiting += ended


def reap() -> list[int]:
    """Collect every child that has ended, orphans of Pods too; return their PIDs."""
    ended: list[int] = []
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append(pid)


def end_with_owner() -> None:
    """Where standard input is a pipe, its end means that the owner is gone: end, and all ends with us."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=wait, name="owner", daemon=True).start()


def main() -> None:
    """Prepare, then supervise until killed."""
    plan: Plan = json.loads(Path(sys.argv[1]).read_text())
    os.environ.update(plan["environment"])
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    end_with_owner()
    prepare(plan)
    supervise(plan)


if __name__ == "__main__":
    main()

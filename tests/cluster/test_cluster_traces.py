"""Clusters come and go without a trace, and say in one line why they cannot come."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import cache
from tests.cluster.cluster import Cluster, down, find, known, sweep, up
from tests.cluster.pods import pod, wait_for_phase
from tests.cluster.sandbox import cgroup_parents

TREE = Path(__file__).parents[2]
# Where containerd, runc, CNI, kubelet and kubectl write by default.
WATCHED = ("/run", "/var", "/opt", "/etc", "/usr/libexec", str(Path.home() / ".kube"))
# The package manager of this machine may be at work meanwhile.
OTHERS = re.compile(r"/var/(cache/(apt|debconf|man)|lib/(apt|dpkg)|log/(apt|dpkg|alternatives)|backups)|/run/user/")
KUBELET_SYSCTLS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")


pytestmark = pytest.mark.alone  # it counts what is on the machine


@pytest.fixture
def own_cache(hermetic: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone, with all that is dear to make already in it."""
    del hermetic  # where it can run, so can others
    root = tmp_path / "kubefunc-tests"
    root.mkdir()
    for entry in cache.cache_root().glob("*-*"):
        (root / entry.name).symlink_to(entry)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return root


@dataclass(frozen=True)
class Traces:
    """The identities that the kernel gave to the parts of one cluster; it does not give them twice."""

    namespaces: frozenset[int]
    interface: int
    cgroups: frozenset[tuple[Path, int]]

    def left(self) -> list[str]:
        """What of them is still there."""
        held = self.namespaces & _namespaces_in_use()
        cables = [path for path in Path("/sys/class/net").iterdir() if _index(path) == self.interface]
        groups = [path for path, inode in self.cgroups if path.exists() and path.stat().st_ino == inode]
        return [f"namespace {inode}" for inode in held] + [str(path) for path in [*cables, *groups]]


def traces_of(cluster: Cluster) -> Traces:
    """Take the identities of a cluster that is up."""
    box = cluster.sandbox
    links = ("net", "mnt", "pid_for_children")
    inodes = frozenset(os.stat(f"/proc/{box.pid}/ns/{link}").st_ino for link in links)
    groups = [parent / box.cable.cgroup for parent in cgroup_parents()]
    interface = _index(Path("/sys/class/net") / box.cable.host_end)
    assert interface is not None
    return Traces(inodes, interface, frozenset((group, group.stat().st_ino) for group in groups))


def _index(interface: Path) -> int | None:
    try:
        return int((interface / "ifindex").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _namespaces_in_use() -> set[int]:
    links = [f"{process}/ns/{kind}" for process in _processes() for kind in ("net", "mnt", "pid")]
    return {inode for link in links if (inode := _inode(link)) is not None}


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:  # its process ended while we looked
        return None


def _processes() -> list[str]:
    return [f"/proc/{entry}" for entry in os.listdir("/proc") if entry.isdigit()]


def _command_line(process: str) -> str:
    try:
        return Path(process, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def processes_that_mention(path: Path) -> list[str]:
    """The command lines of all processes of this machine that name the path."""
    return [words for words in map(_command_line, _processes()) if str(path) in words]


def machine() -> Mapping[str, set[str]]:
    """What a node could change outside its own directory: mounts, files, settings of the kernel."""
    files = {
        os.path.join(directory, name)
        for top in WATCHED
        for directory, directories, names in os.walk(top)
        for name in (*directories, *names)
    }
    settings = {f"{name}={(Path('/proc/sys') / name).read_text().strip()}" for name in KUBELET_SYSCTLS}
    mounts = {line.split(" ", 2)[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
    return {
        "files": {path for path in files if not OTHERS.match(path)},
        "settings": settings,
        "mounts": mounts,
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_starts_and_stops_leave_nothing_behind(own_cache: Path) -> None:
    """Of ten clusters with a Pod each, no process, mount, namespace, interface, cgroup or file is left."""
    before, cached_before = machine(), sorted(path.name for path in own_cache.iterdir())
    all_traces: list[Traces] = []
    for _ in range(10):
        cluster = up("again")
        all_traces.append(traces_of(cluster))
        assert all_traces[-1].left()  # the eye that finds nothing afterwards does see now
        cluster.admin.apply(pod("still-running", "import time; time.sleep(600)"))
        wait_for_phase(cluster.admin, "still-running", "Running")
        assert processes_that_mention(own_cache)
        down(cluster)
    after = machine()
    assert [left for traces in all_traces for left in traces.left()] == []
    assert processes_that_mention(own_cache) == []
    assert {kind: after[kind] - before[kind] for kind in after} == {
        "files": set(),
        "settings": set(),
        "mounts": set(),
    }
    assert list((own_cache / "clusters").iterdir()) == []
    assert set(cached_before) <= {path.name for path in own_cache.iterdir()}


@pytest.mark.slow
def test_a_cluster_dies_with_its_owner(own_cache: Path) -> None:
    """When its owner is killed, a cluster ends by itself, and the next start sweeps up what is left."""
    program = (
        "import os, time; from tests.cluster.cluster import up\n"
        "reading, writing = os.pipe()\n"
        "print(up('orphan', reading).name, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=TREE, stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "orphan\n"
        orphan = find("orphan")
        assert orphan is not None
        traces = traces_of(orphan)
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while processes_that_mention(own_cache) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_that_mention(own_cache) == []
    sweep()
    assert known() == []
    assert traces.left() == []


def python_m(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with other environment variables."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "KUBEFUNC_TEST_KUBECONFIG")}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=TREE,
        capture_output=True,
        text=True,
        env={**kept, **environment},
    )


def test_a_machine_without_the_tools_is_told_what_to_install() -> None:
    """One line names the packages, and nothing was started."""
    done = python_m("tests.cluster", "up", "--name=never", PATH="/nonexistent")
    assert done.returncode == 1
    assert re.fullmatch(r"the test cluster needs: apt-get install containerd .*\n", done.stderr)


def test_a_machine_without_go_is_told_where_to_get_it(tmp_path: Path) -> None:
    """Go is asked for only where the binary is not in the cache."""
    done = python_m("tests.cluster", "up", "--name=never", PATH="/usr/bin:/bin", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "the test cluster needs Go 1.24 or newer to build its node: https://go.dev/dl/"
    )


ONE_TEST = "tests/cluster/test_cluster_itself.py::test_exec_reaches_a_running_container"


def test_without_a_cluster_the_tests_are_skipped_loudly() -> None:
    """The last line says how many cluster tests did not run, and why."""
    done = python_m("pytest", "-p", "no:cacheprovider", ONE_TEST, PATH="/nonexistent")
    assert done.returncode == 0
    assert "1 cluster tests DID NOT RUN: the test cluster needs: apt-get install" in done.stdout


def test_in_ci_a_skip_is_a_failure() -> None:
    """A CI run that tested no cluster must not be green."""
    done = python_m("pytest", "-p", "no:cacheprovider", ONE_TEST, PATH="/nonexistent", CI="true")
    assert done.returncode == 1
    assert "no cluster to test on: the test cluster needs: apt-get install" in done.stdout


def test_a_kubeconfig_that_leads_nowhere_is_an_error_not_a_skip(tmp_path: Path) -> None:
    """Whoever names a cluster wants it used."""
    done = python_m("pytest", "-p", "no:cacheprovider", ONE_TEST, KUBEFUNC_TEST_KUBECONFIG=str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "does not answer" in done.stdout

"""A Kubernetes cluster of one node on this machine: up, down, status.

All of a cluster's files lie in one directory of the cache, which goes with it:
``admin.kubeconfig``, ``audit.log``, ``log/`` (one file a component), ``var/`` (the node's own /var).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import needs, node_config, sandbox
from tests.cluster.binary import dns_binary, node_binary
from tests.cluster.cache import cache_root
from tests.cluster.certificates import make_certificates
from tests.cluster.images import pause_image, python_image, python_image_name
from tests.cluster.inside import Plan
from tests.cluster.kubeconfig import Server, write_kubeconfig
from tests.cluster.kubectl import Kubectl, KubectlError
from tests.cluster.sandbox import Cable, Sandbox

NODE = "node-1"
START_SECONDS = 90
_SOURCE = Path(__file__).parent
_CTR = ("ctr", f"--address={node_config.CONTAINERD_SOCKET}")


class ClusterFailed(RuntimeError):
    """The cluster did not start; the message holds the last words of its components."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up (or was: see ``alive``)."""

    directory: Path
    sandbox: Sandbox

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def kubeconfig(self) -> Path:
        """The path of the administrator's kubeconfig."""
        return self.directory / "admin.kubeconfig"

    @property
    def admin(self) -> Kubectl:
        """kubectl as the administrator."""
        return Kubectl(self.kubeconfig)

    @property
    def audit_log(self) -> Path:
        """One JSON object a line for each request of a user, not of the cluster's own parts or admin."""
        return self.directory / "audit.log"

    @property
    def url(self) -> str:
        return f"https://{self.sandbox.cable.node_address}:{node_config.API_PORT}"

    def alive(self) -> bool:
        return self.sandbox.alive()

    def run(self, *command: str) -> str:
        """Run a command inside the node (its mounts, network and processes); return its output."""
        enclosed = self.sandbox.enter(command)
        environment = {**os.environ, "PATH": needs.search_path()}
        given = subprocess.DEVNULL
        done = subprocess.run(enclosed, capture_output=True, text=True, stdin=given, env=environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def restart_api_server(self) -> None:
        """Kill the API server as a crash would; return when its successor answers."""
        old = self._process_of("kube-apiserver")
        self.run("kill", "-KILL", old)
        _wait_for(lambda: self._process_of("kube-apiserver") != old and self.ready(), "the API server", self)

    @contextlib.contextmanager
    def cut_off(self) -> Generator[None]:
        """The kubelet says and hears nothing meanwhile, as that of a node without a network; its containers go on."""
        kubelet = self._process_of("kubelet")
        self.run("kill", "-STOP", kubelet)
        try:
            yield
        finally:
            self.run("kill", "-CONT", kubelet)

    def load_python_image(self, python: str) -> str:
        """Put the image of another Python minor on the node; return the image's name."""
        self.import_image(python_image(python))
        return python_image_name(python)

    def import_image(self, archive: Path) -> None:
        """Give the node the images of an archive."""
        self.run(*_CTR, "--namespace=k8s.io", "image", "import", str(archive))

    def containerd_answers(self) -> bool:
        try:
            self.run(*_CTR, "version")
        except RuntimeError:
            return False
        return True

    def ready(self) -> bool:
        """Whether the API server says that it is."""
        return self._says("ok", "get", "--raw", "/readyz")

    def node_ready(self) -> bool:
        status = '{.status.conditions[?(@.type=="Ready")].status}'
        return self._says("True", "get", "node", NODE, "-o", f"jsonpath={status}")

    def services_work(self) -> bool:
        """Whether CoreDNS answers and kube-proxy has written its rules."""
        try:
            self.run("bash", "-c", f": </dev/tcp/{node_config.DNS_ADDRESS}/53")
            self.run("iptables", "--table=nat", "--list-rules", "KUBE-SERVICES")
        except RuntimeError:
            return False
        return True

    def _says(self, expected: str, *arguments: str) -> bool:
        try:
            return self.admin.run(*arguments) == expected
        except KubectlError:
            return False

    def _process_of(self, component: str) -> str:
        """The PID of a component, as the node counts."""
        return self.run("cat", f"/run/pids/{component}").strip()


def up(name: str, owner: int | None = None) -> Cluster:
    """The cluster of that name, started unless it runs already.

    ``owner`` is the reading end of a pipe whose other end the owner holds: when the owner dies, however that
    happens, so does the cluster. Without one the cluster runs until ``down``.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise ValueError(f"bad cluster name {name!r}: lower-case letters, digits and hyphens, at most 40")
    needs.require_node()
    # Made before anything is started: on a new machine this takes minutes.
    binary, dns, images = node_binary(), dns_binary(), [pause_image(), python_image("3.11")]
    sweep()
    running = find(name)
    if running is not None:
        return running
    directory = _directories() / name
    directory.mkdir(parents=True)  # refuses to start the same name twice at once
    try:
        cluster = _start(directory, binary, dns, owner)
    except BaseException:
        shutil.rmtree(directory)
        raise
    try:
        _wait_until_usable(cluster, images)
    except BaseException:
        down(cluster)
        raise
    return cluster


def down(cluster: Cluster) -> None:
    """End a cluster and remove all that it left on this machine."""
    sandbox.stop(cluster.sandbox)
    shutil.rmtree(cluster.directory)


def find(name: str) -> Cluster | None:
    """The cluster of that name that was brought up and not taken down, whether it is alive or not."""
    directory = _directories() / name
    try:
        state = json.loads((directory / "state.json").read_text())
    except FileNotFoundError:
        return None
    return Cluster(directory, Sandbox(**{**state, "cable": Cable(**state["cable"])}))


def find_by_kubeconfig(kubeconfig: Path) -> Cluster | None:
    """The cluster of this cache whose administrator's kubeconfig that is."""
    matching = [cluster for cluster in known() if cluster.kubeconfig == kubeconfig.resolve()]
    return matching[0] if matching else None


def known() -> list[Cluster]:
    """All clusters of this cache."""
    if not _directories().exists():
        return []
    found = (find(path.name) for path in sorted(_directories().iterdir()))
    return [cluster for cluster in found if cluster is not None]


def sweep() -> None:
    """Take down those that died: their owner was killed, or the machine started anew."""
    for cluster in known():
        if not cluster.alive():
            with contextlib.suppress(FileNotFoundError):  # another process sweeps it at the same time
                down(cluster)


def _directories() -> Path:
    return cache_root() / "clusters"


def _start(directory: Path, binary: Path, dns: Path, owner: int | None) -> Cluster:
    for name in ("run", "var", "log"):
        (directory / name).mkdir()
    cable = sandbox.lay_cable()
    try:
        _write_files(directory, cable, binary, dns)
        command = [sys.executable, "-I", "-S", str(directory / "inside.py"), str(directory / "plan.json")]
        with open(os.devnull) as nothing:
            stdin = nothing.fileno() if owner is None else owner
            box = sandbox.start(cable, command, directory / "log" / "sandbox.log", stdin)
    except BaseException:
        sandbox.remove_cable(cable)
        sandbox.remove_cgroups(cable.cgroup)
        raise
    cluster = Cluster(directory, box)
    _write_whole(directory / "state.json", json.dumps(dataclasses.asdict(box)))
    return cluster


def _write_files(directory: Path, cable: Cable, binary: Path, dns: Path) -> None:
    for source in ("inside.py", "registry.py"):
        shutil.copy(_SOURCE / source, directory)
    address = cable.node_address
    make_certificates(directory, [address, "127.0.0.1", node_config.SERVICE_ADDRESS])
    for path, content in node_config.files(NODE, address, cable.cgroup).items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(content)
    server = Server(f"https://{address}:{node_config.API_PORT}", (directory / "ca.crt").read_bytes())
    for user in node_config.users(NODE):
        write_kubeconfig(directory / f"{user.name}.kubeconfig", server, user.token)
    (directory / "plan.json").write_text(json.dumps(_plan(directory, cable, binary, dns), indent=1))


def _plan(directory: Path, cable: Cable, binary: Path, dns: Path) -> Plan:
    # No proxy of this machine's environment: it must not be asked for what is inside.
    own = {"HOME": "/run/tmp", "TMPDIR": "/run/tmp", "LANG": "C.UTF-8", "PATH": needs.search_path()}
    return {
        "directory": str(directory),
        "interface": cable.node_end,
        "address": cable.node_address,
        "prefix": sandbox.PREFIX,
        "also": [node_config.SERVICE_ADDRESS, node_config.DNS_ADDRESS],
        "certificate_authority": str(directory / "ca.crt"),
        "environment": own,
        "components": node_config.components(binary, dns, NODE, cable.node_address),
    }


def _wait_until_usable(cluster: Cluster, images: Sequence[Path]) -> None:
    _wait_for(cluster.containerd_answers, "containerd", cluster)
    for image in images:
        cluster.import_image(image)
    _wait_for(cluster.ready, "the API server", cluster)
    _wait_for(cluster.node_ready, "the node", cluster)
    _wait_for(cluster.services_work, "DNS and Services", cluster)
    # Without it a Pod in the namespace `default` is refused.
    cluster.admin.run("wait", "--for=create", "serviceaccount/default", "--timeout=30s")


def _wait_for(condition: Callable[[], bool], what: str, cluster: Cluster) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if not cluster.alive():
            raise ClusterFailed(f"the cluster ended while it started\n{_last_words(cluster)}")
        if time.monotonic() > deadline:
            raise ClusterFailed(f"{what} was not ready after {START_SECONDS} s\n{_last_words(cluster)}")
        time.sleep(0.1)


def _last_words(cluster: Cluster) -> str:
    """The last lines of each log: the directory is gone when the message is read."""
    tails = [
        f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        for log in sorted((cluster.directory / "log").iterdir())
    ]
    return "\n".join(tails)


def _write_whole(path: Path, content: str) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(content)
    temporary.replace(path)

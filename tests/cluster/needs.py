"""What a machine must have for the hermetic cluster, and the one line that says what is missing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

CNI_PLUGINS = Path("/usr/lib/cni")

# Command (or file) -> what to install. On Debian and Ubuntu these are package names.
_DEBIAN = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    str(CNI_PLUGINS / "bridge"): "containernetworking-plugins",
    "ip": "iproute2",
    "iptables": "iptables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "openssl": "openssl",
}
TO_MAKE_PYTHON_IMAGES = {"debootstrap": "debootstrap", "tar": "tar"}
TO_MAKE_PAUSE = {"gcc": "gcc libc6-dev"}
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


class CannotRunHere(RuntimeError):
    """This machine cannot carry the hermetic cluster; the message names what to install or change."""


def search_path() -> str:
    """PATH with the administrator's directories: a user's shell on Debian leaves them out."""
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


def find_command(name: str) -> str:
    """The path of a command that require_node has seen."""
    found = shutil.which(name, path=search_path())
    if found is None:
        raise CannotRunHere(f"the test cluster needs the command {name!r}")
    return found


def missing_packages(commands: dict[str, str]) -> list[str]:
    """The packages of those commands that are not on this machine, each named once."""
    path = search_path()
    absent = [package for command, package in commands.items() if not shutil.which(command, path=path)]
    return list(dict.fromkeys(absent))


def require(commands: dict[str, str]) -> None:
    """Raise CannotRunHere with one line when any of the commands is missing."""
    if packages := missing_packages(commands):
        raise CannotRunHere(f"the test cluster needs: apt-get install {' '.join(packages)}")


def require_node() -> None:
    """Raise CannotRunHere unless a node can be started here: Linux, root, and the container tools."""
    if not sys.platform.startswith("linux"):
        raise CannotRunHere(
            f"the test cluster needs Linux, this is {sys.platform}: "
            "set KUBEFUNC_TEST_KUBECONFIG to the kubeconfig of any cluster instead"
        )
    if os.geteuid() != 0:
        raise CannotRunHere(
            "the test cluster needs root (namespaces, cgroups, mounts): run as root, "
            "or set KUBEFUNC_TEST_KUBECONFIG to the kubeconfig of any cluster"
        )
    require(_DEBIAN)
    if not shutil.which("kubectl"):
        raise CannotRunHere("the test cluster needs kubectl: https://kubernetes.io/docs/tasks/tools/")


def require_go() -> None:
    """Raise CannotRunHere unless Go is here: only needed until the node binary is in the cache."""
    if not shutil.which("go"):
        raise CannotRunHere("the test cluster needs Go 1.24 or newer to build its node: https://go.dev/dl/")

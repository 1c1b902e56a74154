"""``python -m tests.cluster up | down | status``: a real Kubernetes to work against."""

from __future__ import annotations

import argparse
import sys

from tests.cluster import cluster
from tests.cluster.needs import CannotRunHere


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("--name", default="dev", help="for several side by side (default: %(default)s)")
    given = parser.parse_args()
    actions = {"up": _up, "down": _down, "status": _status}
    try:
        return actions[given.action](given.name)
    except (CannotRunHere, cluster.ClusterFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def _up(name: str) -> int:
    print(cluster.up(name).kubeconfig)
    return 0


def _down(name: str) -> int:
    found = cluster.find(name)
    if found is None:
        print(f"no cluster {name!r}", file=sys.stderr)
        return 0
    cluster.down(found)
    return 0


def _status(name: str) -> int:
    del name  # all are shown
    for found in cluster.known():
        print(f"{found.name}\t{_state(found)}\t{found.kubeconfig}")
    return 0


def _state(found: cluster.Cluster) -> str:
    if not found.alive():
        return "dead"
    return "up" if found.node_ready() else "not ready"


if __name__ == "__main__":
    sys.exit(main())

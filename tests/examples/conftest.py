"""The cluster, on which the same examples run."""

from tests.cluster.conftest import cluster, kube

__all__ = ["cluster", "kube"]

"""The cluster, for pages that show what only a cluster does."""

from tests.cluster.conftest import cluster, kube

__all__ = ["cluster", "kube"]

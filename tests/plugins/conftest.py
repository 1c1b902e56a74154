"""The cluster, for what is shown on one."""

from tests.cluster.conftest import calling, cluster, hermetic, kube

__all__ = ["calling", "cluster", "hermetic", "kube"]

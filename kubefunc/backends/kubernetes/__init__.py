"""Kubernetes: each call is a Job. Importing this package loads nothing of the Kubernetes client."""

from __future__ import annotations

from collections.abc import Mapping

from kubefunc.backends.kubernetes.api.kubeconfig import ClusterConfig, find_config


def configured(context: str | None, environ: Mapping[str, str]) -> ClusterConfig | None:
    """The cluster that kubectl would talk to, or None where there is none.

    Raises:
        ConfigurationError: the kubeconfig is broken, or has no such context.
    """
    return find_config(context, environ)

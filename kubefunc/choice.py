"""Which backend calls use, and how it comes into being."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kubefunc import current
from kubefunc.errors import ConfigurationError, NestedCallError

if TYPE_CHECKING:
    from kubefunc.backends.base import Backend, Submission
    from kubefunc.backends.kubernetes.api.kubeconfig import ClusterConfig
    from kubefunc.backends.operations import Operations

BackendName = Literal["kubernetes", "local"]


@dataclass(frozen=True)
class BackendChoice:
    """Which backend calls would use.

    Attributes:
        name: the backend's.
        why: why it is this machine, where nobody chose it; else empty.
        cluster: how to reach it; None for this machine.
    """

    name: BackendName
    why: str = ""
    cluster: ClusterConfig | None = None


def choose_backend(wanted: str | None, context: str | None, environ: Mapping[str, str]) -> BackendChoice:
    """Kubernetes where a kubeconfig or a Pod's own credentials exist, else this machine. Starts nothing.

    Raises:
        ConfigurationError: Kubernetes is wanted and there is no configuration, or it is broken.
    """
    wanted = wanted or environ.get("KUBEFUNC_BACKEND") or None
    if wanted not in (None, "kubernetes", "local"):
        raise ConfigurationError(
            f"KUBEFUNC_BACKEND={wanted!r} is not a backend: use 'kubernetes' or 'local', or unset it."
        )
    if wanted == "local":
        return BackendChoice("local")
    with _if_installed():
        from kubefunc.backends.kubernetes import configured

    cluster = configured(context, environ)
    if cluster is not None:
        return BackendChoice("kubernetes", cluster=cluster)
    if wanted == "kubernetes" or context is not None:
        raise ConfigurationError(
            "There is no cluster to use: no kubeconfig ($KUBECONFIG or ~/.kube/config) and not inside a Pod. "
            "Ask your cluster's administrator for a kubeconfig, or set KUBEFUNC_BACKEND=local."
        )
    return BackendChoice("local", why="no cluster configured: ")


def create_backend(choice: BackendChoice, session: str) -> Backend:
    """The chosen backend. That of this machine starts its fork server now, while the caller packs its first call.

    Raises:
        ConfigurationError: nobody knows where Python is.
    """
    if choice.cluster is None:
        with _if_installed():
            from kubefunc.backends.local import local_backend

        return local_backend()
    with _if_installed():
        from kubefunc.backends.kubernetes.backend import KubernetesBackend

    return KubernetesBackend(choice.cluster, session)


def operations(choice: BackendChoice) -> Operations:
    """The calls of the chosen cluster, whichever program made them: for the command line.

    Raises:
        ConfigurationError: calls would run on this machine, where they end with their program.
    """
    if choice.cluster is None:
        why = choice.why.rstrip(": ") or "KUBEFUNC_BACKEND=local"
        raise ConfigurationError(
            f"There are no calls to look at ({why}): calls on this machine end with their program. "
            "For those of a cluster, set KUBECONFIG to its kubeconfig."
        )
    from kubefunc.backends.kubernetes.operating.operations import ClusterOperations

    return ClusterOperations(choice.cluster)


def objects_of(submission: Submission, session: str, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """What a call would create on a cluster, in this order. No cluster is asked; none need be there.

    Raises:
        ConfigurationError: the kubeconfig is broken, or an option takes away what kubefunc needs.
    """
    with _if_installed():
        from kubefunc.backends.kubernetes import configured
        from kubefunc.backends.kubernetes.control import call_objects

    options = submission.options
    cluster = configured(options.context, environ)
    namespace = options.namespace or (cluster.namespace if cluster is not None else "default")
    return call_objects.objects_of(submission, session, namespace)


@contextmanager
def _if_installed() -> Generator[None]:
    """Around the import of a backend: none travels to a Pod, which has one only where its image has kubefunc."""
    try:
        yield
    except ModuleNotFoundError as error:
        if current.call_id() is None:
            raise
        raise NestedCallError(
            f"A remote call from inside the call {current.call_id()}: kubefunc's client is not sent to Pods, and the "
            f"image does not have it ({error}). Give the outer call an image in which kubefunc is installed "
            "(image=..., with the same version of kubefunc as here) and service_account=.... "
            "Or call the function directly, f(x), to run it in place."
        ) from None

"""Why a node cannot make a Pod's sandbox, in which its containers would run: ``FailedCreatePodSandBox``. Pure."""

from __future__ import annotations

import re
from typing import Final

from kubefunc import errors
from kubefunc.backends.kubernetes.diagnose.finding import Finding

PATIENCE: Final = 2.0  # seconds: no second try of the kubelet changes what a node's runtime can do
_USER_NAMESPACES: Final = re.compile(r"does not support user namespaces|user namespaces .*not supported", re.IGNORECASE)
_NO_RUNTIME: Final = re.compile(
    r'no runtime for "(?P<name>[^"]*)" is configured|unknown runtime handler "?(?P<other>\w+)'
)


def sandbox_trouble(words: str, line: str) -> Finding | None:
    """What the node lacks for good; None for all that may pass.

    >>> sandbox_trouble("runtime does not support user namespaces", "").reason
    'NoUserNamespaces'
    >>> sandbox_trouble("failed to set up the network", "") is None
    True
    """
    if _USER_NAMESPACES.search(words):
        return Finding(
            errors.PodConfigError,
            "NoUserNamespaces",
            "The node cannot give the Pod a user namespace of its own, which untrusted=True asks for (hostUsers: "
            "false).",
            "It needs containerd 2.0 or CRI-O 1.25, and a kernel from 6.3 on: choose such nodes with node_selector=. "
            "Or do without, pod_template={'hostUsers': True}; then set run_as_user= to any number but 0, and "
            "runtime_class= if the cluster has a sandbox such as gVisor.",
            (line,),
            PATIENCE,
        )
    found = _NO_RUNTIME.search(words)
    if found:
        return Finding(
            errors.PodConfigError,
            "NoRuntimeHandler",
            f"The node has no container runtime {found['name'] or found['other']!r}, which the Pod's RuntimeClass "
            "names.",
            "Choose nodes that have it with node_selector=, or another RuntimeClass with runtime_class=: `kubectl get "
            "runtimeclasses` lists them.",
            (line,),
            PATIENCE,
        )
    return None

"""Security contexts of the Pod and of its containers."""

from __future__ import annotations

from typing import Final

from kubefunc.backends.kubernetes.objects.template import Json

CONTAINER_SECURITY: Final[Json] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def pod_security(run_as_user: int | None) -> Json:
    """With a user id this meets the *restricted* Pod Security Standard.

    No fsGroup: an emptyDir is writable by everybody, and the Secrets' files are readable by everybody.
    """
    context: Json = {"seccompProfile": {"type": "RuntimeDefault"}}
    if run_as_user is not None:
        context["runAsUser"] = run_as_user
    if run_as_user:
        context["runAsNonRoot"] = True
    return context

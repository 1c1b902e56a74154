"""What a Pod lacks whose function its caller does not trust (``untrusted=True``). Pure.

Every Pod of ours has no token, no capabilities, no way to more privileges and the runtime's seccomp profile already.
"""

from __future__ import annotations

from typing import Final, cast

from kubefunc.backends.kubernetes.objects.template import Json, deep_copy, items
from kubefunc.options import Options

UNTRUSTED_LABEL: Final = "kubefunc/untrusted"
OUT_LIMIT: Final = "256Mi"  # its files there: a result that may travel is much smaller


def isolation_labels(options: Options) -> dict[str, str]:
    """For an administrator's NetworkPolicy.

    >>> isolation_labels(Options.of(untrusted=True))
    {'kubefunc/untrusted': 'true'}
    """
    return {UNTRUSTED_LABEL: "true"} if options.untrusted else {}


def isolated(template: Json, options: Options, limited: tuple[str, ...]) -> Json:
    """The Pod template with a user namespace, a read-only root, and a limit to the volumes with these names.

    ``hostUsers: false``: a server without the feature gate UserNamespacesSupport (off by default before 1.33) drops it
    without a word.
    """
    if not options.untrusted:
        return template
    changed = deep_copy(template)
    pod = cast(Json, changed["spec"])
    pod["hostUsers"] = False
    for container in items(pod["containers"], "spec.containers"):
        container["securityContext"] = {**cast(Json, container["securityContext"]), "readOnlyRootFilesystem": True}
    for volume in items(pod["volumes"], "spec.volumes"):
        if volume["name"] in limited:
            volume["emptyDir"] = {**cast(Json, volume["emptyDir"]), "sizeLimit": OUT_LIMIT}
    return changed

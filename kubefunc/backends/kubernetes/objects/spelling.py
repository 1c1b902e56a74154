"""The names of a Pod's fields, to find out which one a misspelt name stands for. Pure."""

from __future__ import annotations

import difflib
from typing import Final

from kubefunc.options.pod_templates import POD_SPEC_FIELDS

_CONTAINER_FIELDS: Final = frozenset(
    """
    args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe
    resizePolicy resources restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce
    terminationMessagePath terminationMessagePolicy tty volumeDevices volumeMounts workingDir limits requests
    """.split()
)


def similar_field(name: str) -> str | None:
    """The field of a Pod or a container that was probably meant.

    >>> similar_field("Volumes"), similar_field("limit"), similar_field("colour")
    ('volumes', 'limits', None)
    """
    known = {field.lower(): field for field in (*POD_SPEC_FIELDS, *_CONTAINER_FIELDS)}
    near = difflib.get_close_matches(name.lower().replace("_", ""), known, n=1, cutoff=0.8)
    return known[near[0]] if near else None

"""The volumes of the Pod, and where its two containers mount them."""

from __future__ import annotations

from typing import Final

from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.secrets import shards_of
from kubefunc.backends.kubernetes.objects.template import Json
from kubefunc.backends.kubernetes.objects.user_volumes import pod_volumes, user_mounts
from kubefunc.options import Options
from kubefunc.runner import IN_DIR, MAIN, OUT_DIR, PACKAGES_DIR

IN_VOLUME: Final = "kubefunc-in"
OUT_VOLUME: Final = "kubefunc-out"
TMP_VOLUME: Final = "kubefunc-tmp"
PACKAGES_VOLUME: Final = "kubefunc-packages"

_READABLE_BY_ALL: Final = 0o444  # any run_as_user must be able to read; in JSON it stands in decimal, as 292


def volumes(spec: JobSpec) -> list[Json]:
    """What goes in (Secrets), what comes out, a directory to write to, one for packages, and those of the user."""
    return [
        {"name": IN_VOLUME, "projected": {"defaultMode": _READABLE_BY_ALL, "sources": shards_of(spec).sources()}},
        {"name": OUT_VOLUME, "emptyDir": {}},
        {"name": TMP_VOLUME, "emptyDir": {}},
        *_packages_volume(spec.options),
        *pod_volumes(spec.options.volumes),
    ]


def _packages_volume(options: Options) -> list[Json]:
    return [{"name": PACKAGES_VOLUME, "emptyDir": {}}] if options.packages else []


def mounts(container: str, options: Options) -> list[Json]:
    """Where a container has them."""
    shared: list[Json] = [
        {"name": IN_VOLUME, "mountPath": IN_DIR, "readOnly": True},
        {"name": OUT_VOLUME, "mountPath": OUT_DIR},
    ]
    if container != MAIN:  # the courier writes nothing else, and needs none of the user's volumes
        return shared
    packages: list[Json] = [{"name": PACKAGES_VOLUME, "mountPath": PACKAGES_DIR}] if options.packages else []
    return [*shared, {"name": TMP_VOLUME, "mountPath": "/tmp"}, *packages, *user_mounts(options.volumes)]

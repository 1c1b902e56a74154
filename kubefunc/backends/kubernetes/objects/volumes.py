"""The volumes of the Pod, and where its two containers mount them."""

from __future__ import annotations

from typing import Final

from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.secrets import shards_of
from kubefunc.backends.kubernetes.objects.template import Json
from kubefunc.backends.kubernetes.objects.user_volumes import pod_volumes, user_mounts
from kubefunc.options import Options
from kubefunc.runner import IN_DIR, MAIN, OUT_DIR, PACKAGES_DIR
from kubefunc.volumes import EmptyDir, Volume

IN_VOLUME: Final = "kubefunc-in"
OUT_VOLUME: Final = "kubefunc-out"
TMP_VOLUME: Final = "kubefunc-tmp"

_READABLE_BY_ALL: Final = 0o444  # any run_as_user must be able to read; in JSON it stands in decimal, as 292


def volumes(spec: JobSpec) -> list[Json]:
    """What goes in (Secrets), what comes out, a directory to write to, one for packages, and those of the user."""
    return [
        {"name": IN_VOLUME, "projected": {"defaultMode": _READABLE_BY_ALL, "sources": shards_of(spec).sources()}},
        {"name": OUT_VOLUME, "emptyDir": {}},
        {"name": TMP_VOLUME, "emptyDir": {}},
        *pod_volumes(_of_options(spec.options)),
    ]


def _of_options(options: Options) -> dict[str, Volume]:
    """Those of the user, and the one that packages go to: on the node's disk, unless a claim keeps them."""
    packages = {PACKAGES_DIR: options.package_cache or EmptyDir()} if options.packages else {}
    return {**packages, **options.volumes}


def mounts(container: str, options: Options) -> list[Json]:
    """Where a container has them."""
    shared: list[Json] = [
        {"name": IN_VOLUME, "mountPath": IN_DIR, "readOnly": True},
        {"name": OUT_VOLUME, "mountPath": OUT_DIR},
    ]
    if container != MAIN:  # the courier writes nothing else, and needs none of the user's volumes
        return shared
    return [*shared, {"name": TMP_VOLUME, "mountPath": "/tmp"}, *user_mounts(_of_options(options))]

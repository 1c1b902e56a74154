"""What a cluster must be asked about ``volumes=`` before a Job is created, as nothing says it later in time."""

from __future__ import annotations

from typing import Final

from kubefunc.backends.kubernetes.api.answers import is_named
from kubefunc.backends.kubernetes.api.errors import TROUBLE
from kubefunc.backends.kubernetes.api.requests import Api, ApiError
from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.paths import jobs_path, objects_path
from kubefunc.backends.kubernetes.objects.user_volumes import mounted
from kubefunc.errors import ConfigurationError
from kubefunc.volumes import ImageVolume, PersistentVolumeClaim

_ONE_POD: Final = ["ReadWriteOncePod"]
_ONE_NODE: Final = ["ReadWriteOnce"]


class VolumeChecks:
    """Asks only about kinds of volumes that a call has."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._has_image_volumes = False
        self._unreadable: set[str] = set()  # the namespaces whose claims this user may not read

    def check(self, spec: JobSpec, job: JsonDict) -> list[str]:
        """What the caller should know before the Job is created.

        Raises:
            ConfigurationError: it would not run as its options say.
            ApiError, ConnectionFailed: the cluster could not be asked.
        """
        self._check_images(spec, job)
        at_once = min(spec.indexed.chunks, spec.indexed.parallelism) if spec.indexed is not None else 1
        if at_once < 2 or spec.namespace in self._unreadable:
            return []
        notes = [self._check_claim(spec, path, name, at_once) for path, name in _claims(spec).items()]
        return [note for note in notes if note is not None]

    def _check_images(self, spec: JobSpec, job: JsonDict) -> None:
        """A server that does not know image volumes leaves them out without a word: only its answer shows that."""
        images = [path for path, volume in spec.options.volumes.items() if isinstance(volume, ImageVolume)]
        if not images or self._has_image_volumes:
            return
        path = jobs_path(spec.namespace)
        query = {"dryRun": "All", "fieldValidation": "Strict"}
        there = self._api.request("POST", path, query=query, body=job, is_expected=is_named(spec.name)).body
        pod = fields.mapping(fields.mapping(fields.mapping(there, "spec"), "template"), "spec")
        kept = {volume.path for volume in mounted(pod)}
        if not kept.issuperset(images):
            raise ConfigurationError(
                f'volumes={{"{images[0]}": ImageVolume(...)}}: this cluster has no image volumes, and would start the '
                "function without the files. It is older than Kubernetes 1.35, or its feature gate ImageVolume is off: "
                "ask your cluster's administrator. Or have the files in the function's own image=. Nothing was started."
            )
        self._has_image_volumes = True

    def _check_claim(self, spec: JobSpec, path: str, name: str, at_once: int) -> str | None:
        """How many Pods of a map or gang can use a claim; unknown where this user may not read it."""
        namespace = spec.namespace
        try:
            at = f"{objects_path('persistentvolumeclaims', namespace)}/{name}"
            claim = self._api.request("GET", at, is_expected=is_named(name)).body
        except TROUBLE as error:
            if isinstance(error, ApiError) and error.denied_by_role:
                self._unreadable.add(namespace)
            return None  # the Job controller will say what is wrong
        modes = fields.mapping(claim, "spec").get("accessModes")
        option = f'volumes={{"{path}": PersistentVolumeClaim({name!r})}}: the claim\'s access mode is'
        if modes == _ONE_POD:
            raise ConfigurationError(f"{option} ReadWriteOncePod, {_for_one_pod(spec, at_once)} Nothing was started.")
        if modes == _ONE_NODE:
            return f"{option} ReadWriteOnce, {_on_one_node(spec)}"
        return None


def _for_one_pod(spec: JobSpec, at_once: int) -> str:
    if spec.options.gang is not None:
        return f"so only one Pod can use it, and a gang has {at_once:,}. Use a ReadWriteMany claim."
    return (
        f"so only one Pod can use it, and up to {at_once:,} Pods of this map would run at once. Set max_parallelism=1, "
        "or use a ReadWriteMany claim."
    )


def _on_one_node(spec: JobSpec) -> str:
    if spec.options.gang is not None:
        return (
            "so it can be used on one node at a time. The gang starts only if that node has room for all of its Pods: "
            "set schedule_timeout=, or use a ReadWriteMany claim, which has no such limit"
        )
    return (
        "so it can be used on one node at a time. Pods of this map on other nodes wait until it is free there. A "
        "ReadWriteMany claim has no such limit"
    )


def _claims(spec: JobSpec) -> dict[str, str]:
    """The claims of a call, by mount path."""
    volumes = spec.options.volumes.items()
    return {path: volume.name for path, volume in volumes if isinstance(volume, PersistentVolumeClaim)}

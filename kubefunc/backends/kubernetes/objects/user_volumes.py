"""The option ``volumes``, as the Pod's volumes and their mounts. Data in, dicts out.

The names of the Pod's volumes come from the mount paths, so that the kubelet's words about a volume lead back to the
option: :func:`mounted` reads them from a Pod, also from one that another program started.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.kubernetes.objects.template import Json, items
from kubefunc.runner import PACKAGES_DIR
from kubefunc.volumes import ConfigMap, EmptyDir, HostPath, ImageVolume, PersistentVolumeClaim, Secret, Volume

PREFIX: Final = "volume-"
_LONGEST: Final = 40  # a name has at most 63 letters


# --- to the cluster


def pod_volumes(volumes: Mapping[str, Volume]) -> list[Json]:
    """What the Pod lists as its volumes."""
    return [{"name": name, **_source(volumes[path])} for path, name in _names(volumes).items()]


def user_mounts(volumes: Mapping[str, Volume]) -> list[Json]:
    """What a container lists as its mounts."""
    return [_mount(name, path, volumes[path]) for path, name in _names(volumes).items()]


def mount_in_init_containers(template: Json, volumes: Mapping[str, Volume]) -> None:
    """Give them these mounts too: they prepare what the function finds there. Their own mount at a path stays."""
    pod = cast(Json, template["spec"])
    initial = pod.get("initContainers")
    if initial and volumes:
        added = user_mounts(volumes)
        pod["initContainers"] = [_with_mounts(each, added) for each in items(initial, "pod_template: initContainers")]


def _with_mounts(container: Json, added: list[Json]) -> Json:
    own = fields.mappings(container, "volumeMounts")
    taken = {mount.get("mountPath") for mount in own}
    new = [mount for mount in added if mount["mountPath"] not in taken]
    return {**container, "volumeMounts": [*own, *new]} if new else container


def _names(volumes: Mapping[str, Volume]) -> dict[str, str]:
    """A DNS label for each mount path.

    >>> _names({"/data": EmptyDir(), "/conf/app.yaml": EmptyDir(), "/conf/app-yaml": EmptyDir()})
    {'/data': 'volume-data', '/conf/app.yaml': 'volume-conf-app-yaml', '/conf/app-yaml': 'volume-conf-app-yaml-2'}
    """
    names: dict[str, str] = {}
    for path in volumes:
        plain = re.sub(r"[^a-z0-9]+", "-", path.lower())[:_LONGEST].strip("-") or "x"
        name, number = f"{PREFIX}{plain}", 1
        while name in names.values():
            number += 1
            name = f"{PREFIX}{plain}-{number}"
        names[path] = name
    return names


def _mount(name: str, path: str, volume: Volume) -> Json:
    mount: Json = {"name": name, "mountPath": path}
    sub_path: str | None = getattr(volume, "sub_path", None)
    if sub_path is not None:
        mount["subPath"] = sub_path
    if getattr(volume, "read_only", not isinstance(volume, EmptyDir)):
        mount["readOnly"] = True
    return mount


@functools.singledispatch
def _source(volume: object) -> Json:
    raise TypeError(f"{volume!r} is not a volume")


@_source.register
def _(volume: PersistentVolumeClaim) -> Json:
    read_only = {"readOnly": True} if volume.read_only else {}
    return {"persistentVolumeClaim": {"claimName": volume.name, **read_only}}


@_source.register
def _(volume: ConfigMap) -> Json:
    return {"configMap": {"name": volume.name, **_files(volume)}}


@_source.register
def _(volume: Secret) -> Json:
    return {"secret": {"secretName": volume.name, **_files(volume)}}


@_source.register
def _(volume: EmptyDir) -> Json:
    medium = {"medium": "Memory"} if volume.memory else {}
    limit = {} if volume.size is None else {"sizeLimit": volume.size}
    return {"emptyDir": {**medium, **limit}}


@_source.register
def _(volume: ImageVolume) -> Json:
    policy = {} if volume.pull_policy is None else {"pullPolicy": volume.pull_policy}
    return {"image": {"reference": volume.reference, **policy}}


@_source.register
def _(volume: HostPath) -> Json:
    return {"hostPath": {"path": volume.path, **({} if volume.type is None else {"type": volume.type})}}


def _files(volume: ConfigMap | Secret) -> Json:
    """Which keys, with which permissions.

    A ``sub_path`` names a key. Listed as an item, it must exist: else the kubelet would mount an empty directory.
    """
    wanted = volume.items
    if wanted is None and volume.sub_path is not None:
        wanted = {volume.sub_path: volume.sub_path}
    files: Json = {}
    if wanted is not None:
        files["items"] = [{"key": key, "path": path} for key, path in wanted.items()]
    if volume.mode is not None:
        files["defaultMode"] = volume.mode
    if volume.optional:
        files["optional"] = True
    return files


# --- from the cluster


@dataclass(frozen=True)
class Mounted:
    """A volume that the option has put into a Pod.

    Attributes:
        name: the volume's name in the Pod.
        path: where it is mounted.
        kind: the class in :mod:`kubefunc.volumes`.
        source: the name of the object that it mounts, or an empty text.
    """

    name: str
    path: str
    kind: str
    source: str = ""

    @property
    def option(self) -> str:
        """The option as the user writes it, shortened."""
        if self.path == PACKAGES_DIR:
            return f"package_cache={self.kind}(...)" if self.kind == "PersistentVolumeClaim" else "packages=[...]"
        return f'volumes={{"{self.path}": {self.kind}(...)}}'


_KINDS: Final = {
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
    "configMap": ("ConfigMap", "name"),
    "secret": ("Secret", "secretName"),
    "emptyDir": ("EmptyDir", ""),
    "image": ("ImageVolume", "reference"),
    "hostPath": ("HostPath", "path"),
}


def mounted(spec: JsonDict) -> tuple[Mounted, ...]:
    """The volumes of a Pod's spec that come from the option ``volumes``.

    Raises:
        BadObject: a field is not of the type that the API gives it.
    """
    ours = [each for each in fields.mappings(spec, "volumes") if fields.text(each, "name").startswith(PREFIX)]
    if not ours:
        return ()
    containers = fields.mappings(spec, "containers")
    paths = {
        fields.text(mount, "name"): fields.text(mount, "mountPath")
        for container in containers
        for mount in fields.mappings(container, "volumeMounts")
    }
    found = [_read(volume, paths.get(fields.text(volume, "name"), "")) for volume in ours]
    return tuple(volume for volume in found if volume is not None and volume.path)


def _read(volume: JsonDict, path: str) -> Mounted | None:
    for field, (kind, reference) in _KINDS.items():
        if field in volume:
            source = fields.text(fields.mapping(volume, field), reference) if reference else ""
            return Mounted(fields.text(volume, "name"), path, kind, source)
    return None

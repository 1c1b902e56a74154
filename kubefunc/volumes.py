"""What ``volumes={"/data": ...}`` mounts: claims, ConfigMaps, Secrets, scratch space, images, the node's files.

>>> volumes = {
...     "/data": PersistentVolumeClaim("corpus", read_only=True),
...     "/conf/app.yaml": ConfigMap("app", sub_path="app.yaml"),
...     "/scratch": EmptyDir("10Gi"),
... }

The constructors check their values, so a mistake shows where it is written.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from kubefunc.errors import ConfigurationError
from kubefunc.options.kind import Refused, brief
from kubefunc.options.parsers import names, numbers, quantities

__all__ = ["ConfigMap", "EmptyDir", "HostPath", "ImageVolume", "PersistentVolumeClaim", "Secret", "Volume"]

HostPathType: TypeAlias = Literal[
    "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"
]
PullPolicy: TypeAlias = Literal["Always", "IfNotPresent", "Never"]


@dataclass(frozen=True)
class PersistentVolumeClaim:
    """A PersistentVolumeClaim that exists in the call's namespace.

    Args:
        name: the claim's name.
        sub_path: mount only this directory or file of it. Kubernetes makes a missing one, as an empty directory.
        read_only: the function cannot write to it.

    Raises:
        ConfigurationError: a value is not accepted.
    """

    name: str
    sub_path: str | None = None
    read_only: bool = False

    def __post_init__(self) -> None:
        _check(self, "name", names.object_name)
        _check(self, "sub_path", _optional(_relative_path))
        _check(self, "read_only", numbers.switch)


@dataclass(frozen=True)
class _Keys:
    """An object whose keys are mounted as files."""

    name: str
    sub_path: str | None = None
    items: Mapping[str, str] | None = None
    mode: int | None = None
    optional: bool = False

    def __post_init__(self) -> None:
        _check_files(self)


@dataclass(frozen=True)
class ConfigMap(_Keys):
    """A ConfigMap that exists in the call's namespace: a read-only file for each of its keys.

    Args:
        name: the ConfigMap's name.
        sub_path: mount only this file, with the mount path as its name.
        items: mount only these keys, each with the file's path below the mount path.
        mode: the files' permissions, such as 0o444. Default: Kubernetes' own, 0o644.
        optional: start without the ConfigMap, or without some of ``items``, if it does not exist.

    Raises:
        ConfigurationError: a value is not accepted.
    """


@dataclass(frozen=True)
class Secret(_Keys):
    """A Secret that exists in the call's namespace: a read-only file for each of its keys.

    Args:
        name: the Secret's name.
        sub_path: mount only this file, with the mount path as its name.
        items: mount only these keys, each with the file's path below the mount path.
        mode: the files' permissions, such as 0o400. Default: Kubernetes' own, 0o644. The files belong to root.
        optional: start without the Secret, or without some of ``items``, if it does not exist.

    Raises:
        ConfigurationError: a value is not accepted.
    """


@dataclass(frozen=True)
class EmptyDir:
    """An empty directory on the node, which is removed with the Pod.

    Args:
        size: the most that it may hold, such as ``"10Gi"``. A Pod that writes more is evicted. Default: no limit.
        memory: keep it in memory. Its content counts against ``memory=``; writing more than ``size`` is an OSError.

    Raises:
        ConfigurationError: a value is not accepted.
    """

    size: str | int | None = None
    memory: bool = False

    def __post_init__(self) -> None:
        _check(self, "size", _optional(quantities.size))
        _check(self, "memory", numbers.switch)


@dataclass(frozen=True)
class ImageVolume:
    """The files of a container image or another OCI artifact, read-only. Needs Kubernetes 1.35 or newer.

    Args:
        reference: the image's name.
        sub_path: mount only this directory of it.
        pull_policy: when the node pulls it: ``Always``, ``IfNotPresent`` or ``Never``.

    Raises:
        ConfigurationError: a value is not accepted.
    """

    reference: str
    sub_path: str | None = None
    pull_policy: PullPolicy | None = None

    def __post_init__(self) -> None:
        _check(self, "reference", names.image)
        _check(self, "sub_path", _optional(_relative_path))
        _check(self, "pull_policy", _optional(names.one_of("Always", "IfNotPresent", "Never")))


@dataclass(frozen=True)
class HostPath:
    """A file or directory of the node itself. Most clusters allow it to administrators only.

    Args:
        path: where it is on the node.
        type: what must be there, such as ``Directory``, or is made, such as ``DirectoryOrCreate``. Default: no check.
        sub_path: mount only this directory or file of it.
        read_only: the function cannot write to it.

    Raises:
        ConfigurationError: a value is not accepted.
    """

    path: str
    type: HostPathType | None = None
    sub_path: str | None = None
    read_only: bool = False

    def __post_init__(self) -> None:
        _check(self, "path", _host_path)
        _check(self, "type", _optional(names.one_of(*HostPathType.__args__)))  # type: ignore[attr-defined]
        _check(self, "sub_path", _optional(_relative_path))
        _check(self, "read_only", numbers.switch)


Volume: TypeAlias = PersistentVolumeClaim | ConfigMap | Secret | EmptyDir | ImageVolume | HostPath
KINDS: Final = (PersistentVolumeClaim, ConfigMap, Secret, EmptyDir, ImageVolume, HostPath)


# --- the fields of a volume

Parse: TypeAlias = Callable[[object], object]


def _check(volume: object, name: str, parse: Parse) -> None:
    """Replace a field by its normalised value."""
    value = getattr(volume, name)
    try:
        object.__setattr__(volume, name, parse(value))
    except Refused as refused:
        shown = brief(value) if refused.shown is None else refused.shown
        raise _refusal(volume, f"{name}{refused.at}", shown, refused.why) from None


def _refusal(volume: object, field: str, shown: str, why: str) -> ConfigurationError:
    equals = f"={shown}" if shown else ""
    stop = "" if why.endswith("?") else "."
    return ConfigurationError(f"{type(volume).__name__}: {field}{equals} is not accepted: {why}{stop}")


def _optional(parse: Parse) -> Parse:
    return lambda value: None if value is None else parse(value)


def _check_files(volume: _Keys) -> None:
    _check(volume, "name", names.object_name)
    _check(volume, "sub_path", _optional(_relative_path))
    _check(volume, "items", _optional(_items))
    _check(volume, "mode", _optional(_mode))
    _check(volume, "optional", numbers.switch)
    if volume.sub_path is not None:
        _check_sub_path(volume, volume.sub_path)


def _check_sub_path(volume: _Keys, sub_path: str) -> None:
    """Kubernetes mounts an empty directory where the file of this name does not exist, and says nothing."""
    why = _wrong_sub_path(volume, sub_path)
    if why is not None:
        raise _refusal(volume, "sub_path", repr(sub_path), why)


def _wrong_sub_path(volume: _Keys, sub_path: str) -> str | None:
    if volume.optional:
        return (
            "with optional=True, Kubernetes would mount an empty directory instead of a missing file; "
            "mount the whole directory, without sub_path"
        )
    if volume.items is None:
        has_directory = "/" in sub_path
        return f"a {type(volume).__name__} has keys and no directories; use items={{...}}" if has_directory else None
    paths = volume.items.values()
    if any(_contains(sub_path, path) for path in paths):
        return None
    return f"items has no file of this path; it has {', '.join(paths)}"


def _relative_path(value: object) -> str:
    """A path inside a volume."""
    text = names.nonempty(value)
    if text.startswith("/"):
        raise Refused(f"a path inside the volume does not begin with '/': write {text.lstrip('/')!r}")
    return _clean(text)


def _clean(path: str) -> str:
    if ".." in path.split("/"):
        raise Refused("a path must not contain '..'")
    if "\0" in path or "\\" in path:
        raise Refused("write a path as on Linux, with '/'")
    clean = posixpath.normpath(path)
    if clean == ".":
        raise Refused("name a file or directory")
    return clean


def _host_path(value: object) -> str:
    text = names.nonempty(value)
    if not text.startswith("/"):
        raise Refused("a path of the node begins with '/'")
    return _clean(text)


def _items(value: object) -> dict[str, str]:
    """Keys, and the paths of their files."""
    if not isinstance(value, Mapping):
        raise Refused("write a dict of keys to paths: {'app.yaml': 'app.yaml'}")
    if not value:
        raise Refused("name at least one key, or leave items out for all of them")
    paths = {_inside(names.data_key, key, key): _inside(_relative_path, path, key) for key, path in value.items()}
    doubled = {path for path in paths.values() if list(paths.values()).count(path) > 1}
    if doubled:
        raise Refused(f"two keys have the path {min(doubled)!r}")
    return paths


def _inside(parse: Callable[[object], str], value: object, key: object) -> str:
    try:
        return parse(value)
    except Refused as refused:
        raise Refused(refused.why, at=f"[{key!r}]", shown="" if value is key else brief(value)) from None


_ALL_BITS: Final = 0o777
# Written without 0o, these are numbers that nobody means: 400 is 0o620.
_DECIMAL_SLIPS: Final = (400, 440, 444, 500, 555)


def _mode(value: object) -> int:
    """A file's permissions."""
    if isinstance(value, str) and re.fullmatch(r"(0o?)?[0-7]{3}", value):
        raise Refused(f"write a number: 0o{value[-3:]}")
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused("write a file's permissions as a number such as 0o400")
    is_octal = re.fullmatch(r"[0-7]{3}", str(value)) is not None
    if value in _DECIMAL_SLIPS or (value > _ALL_BITS and is_octal):
        raise Refused(f"did you mean 0o{value}? Without 0o it is a decimal number")
    if not 0 <= value <= _ALL_BITS:
        raise Refused("permissions are between 0 and 0o777")
    return value


# --- the option

_RESERVED: Final = ("/kubefunc", "/tmp")
_KERNEL: Final = ("/proc", "/sys")
# An image has its Python and its libraries there.
_SYSTEM: Final = frozenset(
    "/bin /dev /dev/termination-log /etc /lib /lib64 /sbin "
    "/usr /usr/bin /usr/lib /usr/local /usr/local/bin /usr/local/lib /var".split()
)


def parse(value: object) -> dict[str, Volume | None]:
    """Mount paths and what is mounted there. None stays, for the layer below.

    >>> parse({"/scratch/": EmptyDir("1Gi")})
    {'/scratch': EmptyDir(size='1Gi', memory=False)}

    Raises:
        Refused: a path or a volume is not accepted.
    """
    if not isinstance(value, Mapping):
        raise Refused("write a dict of mount paths to volumes: {'/data': PersistentVolumeClaim('name')}")
    parsed: dict[str, Volume | None] = {}
    for path, volume in value.items():
        clean = _mount_path(path)
        if clean in parsed:
            raise Refused("this path is there twice", at=f"[{path!r}]", shown="")
        parsed[clean] = _volume(volume, path)
    _refuse_nested(path for path, volume in parsed.items() if volume is not None)
    return parsed


def _mount_path(path: object) -> str:
    at = f"[{path!r}]"
    if not isinstance(path, str) or not path.startswith("/"):
        raise Refused("a mount path is absolute: it begins with '/'", at=at, shown="")
    if ".." in path.split("/") or ":" in path or "\0" in path:
        raise Refused("a mount path must not contain '..' or ':'", at=at, shown="")
    clean = posixpath.normpath(f"/{path.strip('/')}")
    if clean == "/":
        raise Refused("a volume cannot be mounted over the whole file system", at=at, shown="")
    for ours in _RESERVED:
        if _contains(ours, clean):
            raise Refused(f"kubefunc mounts a directory of its own at {ours}; use another path", at=at, shown="")
    if any(_contains(path, clean) for path in _KERNEL) or clean in _SYSTEM:
        raise Refused(
            "the container needs its own files there; mount a directory below it, or elsewhere", at=at, shown=""
        )
    return clean


def _contains(outer: str, inner: str) -> bool:
    return inner == outer or inner.startswith(f"{outer}/")


def _volume(volume: object, path: object) -> Volume | None:
    at = f"[{path!r}]"
    if volume is None or isinstance(volume, KINDS):
        return volume
    if isinstance(volume, str):
        hint = f"PersistentVolumeClaim({volume!r})" if "/" not in volume else f"HostPath({volume!r})"
        raise Refused(
            f"a text may name many things; write {hint}, ConfigMap, Secret or another kind", at=at, shown=repr(volume)
        )
    kinds = ", ".join(kind.__name__ for kind in KINDS)
    if isinstance(volume, type) and volume in KINDS:
        raise Refused(f"this is a class; write {volume.__name__}(...)", at=at, shown="")
    raise Refused(f"write one of kubefunc.volumes ({kinds}), or None", at=at, shown=brief(volume))


def _refuse_nested(paths: Iterable[str]) -> None:
    ordered = sorted(paths)
    for outer in ordered:
        inner = next((path for path in ordered if path != outer and _contains(outer, path)), None)
        if inner is not None:
            raise Refused(
                f"it is inside {outer!r}, where another volume is mounted; use paths beside each other",
                at=f"[{inner!r}]",
                shown="",
            )

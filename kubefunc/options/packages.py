"""Which packages are installed in the Pod, where from, and where they are kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypedDict, cast

from kubefunc.options.kind import Kind, Refused, none
from kubefunc.options.option import Group, Unset, option
from kubefunc.options.parsers import mappings, names, quantities

if TYPE_CHECKING:
    from kubefunc.options.parsers.requirements import Requirements
    from kubefunc.volumes import PersistentVolumeClaim


def _packages(value: object) -> object:
    """A list of requirements as a tuple, checked; a file's path, which is read when a call is made."""
    from kubefunc.options.parsers import requirements  # only for those who use it

    if isinstance(value, requirements.Requirements):
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(cast("os.PathLike[str]", value))
    if isinstance(value, str):
        return _file(value)
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise Refused("write a list of texts such as ['numpy>=2'], or the path of a requirements file")
    listed = [*cast("Sequence[object]", value)]
    for number, each in enumerate(listed):
        if not isinstance(each, str):
            raise Refused("each one is a text", at=f"[{number}]", shown=repr(each))
        try:
            requirements.parse(each)
        except Refused as refused:
            raise Refused(refused.why, at=f"[{number}]", shown=repr(each)) from None
    return tuple(cast("list[str]", listed)) or None


SYNC: Final = "sync"


def _file(path: str) -> str:
    if path == SYNC:
        return SYNC
    if path.endswith((".txt", ".in")) or os.path.isfile(path):
        return path
    raise Refused(f"a text is the path of a requirements file, which ends in .txt. For packages write [{path!r}]")


def _read_packages(text: str) -> object:
    """A file's path, a JSON list, or requirements with spaces between: versions have commas in them."""
    if text.lstrip().startswith("["):
        return mappings.read_json(text)
    words = text.split()
    return words[0] if len(words) == 1 and words[0].endswith((SYNC, ".txt", ".in")) else words


def _index(value: object) -> str:
    if not isinstance(value, str) or not value.startswith(("https://", "http://")) or any(map(str.isspace, value)):
        raise Refused("write the URL of the index: 'https://pypi.example/simple'", shown="..." if value else None)
    return value


def _cache(value: object) -> PersistentVolumeClaim:
    from kubefunc.volumes import PersistentVolumeClaim  # only for those who use it

    if isinstance(value, str):
        value = PersistentVolumeClaim(names.object_name(value))
    if not isinstance(value, PersistentVolumeClaim):
        raise Refused("write PersistentVolumeClaim('name'), of kubefunc.volumes")
    if value.read_only:
        raise Refused("packages are written to it: leave read_only out")
    return value


class PackagesChanges(TypedDict, total=False):
    """What these options accept."""

    packages: str | os.PathLike[str] | Sequence[str] | Unset | None
    package_index: str | Unset | None
    package_cache: PersistentVolumeClaim | str | Unset | None
    sync_limit: str | int | Unset | None


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class Packages(Group):
    """What is installed in the Pod before the function is loaded."""

    packages: str | tuple[str, ...] | Requirements | None = option(
        None,
        Kind(
            "a list of requirements such as ['numpy>=2', 'pandas'], the path of a requirements file, 'sync', or None",
            _packages,
            _read_packages,
            none,
        ),
    )
    """Packages that the Pod gets before the function is loaded: a list such as ``["numpy>=2"]``, a file, or ``"sync"``.

    ``packages="sync"`` sends what your Python has of what the function imports; no index is needed where it fits.
    ``packages="requirements.txt"`` reads a file in pip's format when the call is made, from the current directory. The
    Pod installs with uv, if its image has it, else with pip; images without both raise PackageInstallError. Each Pod
    installs once, also for a map. Installing does not count for ``timeout``; it may take as long as
    ``pull_allowance``.

    Default: None, nothing is installed.
    Local: nothing is installed. The call is refused if your Python does not have them.
    """

    package_index: str | None = option(None, Kind("the URL of a package index, or None", _index, nothing=none))
    """The URL of the package index: ``https://pypi.example/simple``, with ``user:password@`` if it needs them.

    The URL is stored in the call's own Secret.

    Default: None, what the image is configured to use, else PyPI.
    Local: ignored.
    """

    package_cache: PersistentVolumeClaim | None = option(
        None,
        Kind("PersistentVolumeClaim('name'), the claim's name, or None", _cache, nothing=none),
    )
    """A claim that keeps what was installed: the next Pod with the same packages, Python and image installs nothing.

    For Pods on several nodes the claim needs the access mode ReadWriteMany. ``numpy>=2`` stays at the version that was
    installed first. To have newer ones, change the requirement or empty the claim.

    Default: None, each Pod installs for itself.
    Local: ignored.
    """

    sync_limit: str | None = option(
        "1Gi",
        Kind("a quantity such as '1Gi', an int of bytes, or None for no limit", quantities.size, nothing=none),
    )
    """The most that ``packages="sync"`` sends to all Pods of a call or map together, compressed. Unit: bytes.

    If the packages times the number of Pods are larger, each Pod installs the same versions from its index instead.
    Pods are counted as they are when a map starts. A pool counts as its ``min_workers``, at least one.

    Default: ``"1Gi"``. numpy, pandas and scikit-learn (69 MiB) go to 14 Pods.
    Local: ignored.
    """

    def requirements(self) -> Requirements | None:
        """What is to be installed. A file is read now.

        Raises:
            ConfigurationError: the file cannot be read, or has a wrong line.
        """
        if self.packages is None or self.packages == SYNC:
            return None
        from kubefunc.options.parsers import requirements

        if isinstance(self.packages, str):
            return requirements.from_file(self.packages)
        if isinstance(self.packages, tuple):
            return requirements.from_list(self.packages)
        return self.packages

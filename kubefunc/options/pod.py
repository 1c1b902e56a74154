"""What the function finds in its Pod: variables, accounts, users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeAlias, TypedDict, cast

from kubefunc.options.kind import Kind, Refused, none
from kubefunc.options.option import (
    BACKEND_VARIABLE,
    OBJECT_NAME,
    Group,
    Unset,
    by_key,
    option,
    option_names,
    variable_of,
)
from kubefunc.options.parsers import mappings, numbers
from kubefunc.options.references import ConfigMapKey, SecretKey

if TYPE_CHECKING:
    from kubefunc.volumes import Volume


EnvValue: TypeAlias = str | SecretKey | ConfigMapKey


def _environment(value: object) -> object:
    """The names of options may be set, so that a nested call in the Pod can be configured."""
    allowed = frozenset({BACKEND_VARIABLE, *map(variable_of, option_names())})
    variables = mappings.environment((SecretKey, ConfigMapKey), allowed)(value)
    for name, item in variables.items():
        if isinstance(item, (SecretKey, ConfigMapKey)) and item.owned:
            raise Refused("owned= is for publish=, which writes the key", at=f"[{name!r}]", shown="")
    return variables


def _volumes(value: object) -> object:
    from kubefunc import volumes  # here, as a program that mounts nothing needs none of it

    return volumes.parse(value)


def _no_text(text: str) -> NoReturn:
    raise Refused("volumes can be set in Python only, with @remote or configure()")


def _by_mount_path(below: object, above: object) -> object:
    """Merge by mount path. None removes what earlier layers set, at one path or at all."""
    if above is None:
        return None
    both = {**cast("Mapping[str, object]", below or {}), **cast("Mapping[str, object]", above)}
    return {path: volume for path, volume in both.items() if volume is not None}


class InPodChanges(TypedDict, total=False):
    """What these options accept."""

    env: Mapping[str, EnvValue] | Unset | None
    service_account: str | Unset | None
    run_as_user: int | Unset | None
    volumes: Mapping[str, Volume | None] | Unset | None


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class InPod(Group):
    """What the function finds in its Pod."""

    env: Mapping[str, EnvValue] = option(
        {},
        Kind(
            "a dict of names to texts, SecretKey(name, key) or ConfigMapKey(name, key), or None",
            _environment,
            mappings.read_mapping,
            dict,
        ),
        merge=by_key,
    )
    """Environment variables: texts, or keys of a Secret or ConfigMap (SecretKey, ConfigMapKey). Merged by key.

    ``$(NAME)`` in a text is not expanded. Texts are stored in the call's own Secret.

    Default: none. Your own environment variables are not sent, since they may hold secrets.
    Local: texts are set. SecretKey and ConfigMapKey need a cluster.
    """

    service_account: str | None = option(None, OBJECT_NAME)
    """The ServiceAccount of the Pod, for functions that talk to the cluster or make calls themselves.

    The Pod gets the account's token.

    Default: None, no token. Most functions need none.
    Local: ignored.
    """

    run_as_user: int | None = option(
        None,
        Kind(
            "a numeric user id, or None for the image's own user",
            numbers.whole_number(0, 2**31 - 1),
            numbers.read_whole_number,
            none,
        ),
    )
    """The number of the user that runs the function. Any number but 0 (root) is enough for namespaces that enforce
    the Pod Security Standard *restricted*.

    Default: None, the user of the image (root in the default image). OpenShift chooses the user and accepts no other.
    Local: ignored.
    """

    volumes: Mapping[str, Volume] = option(
        {},
        Kind(
            "a dict of mount paths to PersistentVolumeClaim, ConfigMap, Secret, EmptyDir, ImageVolume or HostPath "
            "(kubefunc.volumes), or None",
            _volumes,
            _no_text,
            dict,
        ),
        merge=_by_mount_path,
    )
    """What is mounted where: ``{"/data": PersistentVolumeClaim("corpus")}``. See :mod:`kubefunc.volumes`.

    Merged by mount path; ``{"/data": None}`` removes one. The function sees the volumes, and so do init containers
    from ``pod_template``. It cannot be set from the environment.

    Default: none.
    Local: ignored, a line says so for the paths that this machine does not have.
    """

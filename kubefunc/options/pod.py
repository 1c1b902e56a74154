"""What the function finds in its Pod: variables, accounts, users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypedDict

from kubefunc.options.kind import Kind, accepted, none
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
from kubefunc.options.parsers import mappings, names, numbers


@dataclass(frozen=True)
class _Reference:
    """One key of an object in the Pod's namespace."""

    name: str
    key: str

    def __post_init__(self) -> None:
        where = type(self).__name__
        accepted(f"{where}: name", Kind("the name of an object in the Pod's namespace", names.object_name), self.name)
        accepted(f"{where}: key", Kind("the name of one of its keys", names.data_key), self.key)


class SecretKey(_Reference):
    """The value of one key of a Secret that already exists in the Pod's namespace.

    >>> SecretKey("database", "password")
    SecretKey(name='database', key='password')
    """


class ConfigMapKey(_Reference):
    """The value of one key of a ConfigMap that already exists in the Pod's namespace."""


EnvValue: TypeAlias = str | SecretKey | ConfigMapKey


def _environment(value: object) -> object:
    """The names of options may be set, so that a nested call in the Pod can be configured."""
    allowed = frozenset({BACKEND_VARIABLE, *map(variable_of, option_names())})
    return mappings.environment((SecretKey, ConfigMapKey), allowed)(value)


class InPodChanges(TypedDict, total=False):
    """What these options accept."""

    env: Mapping[str, EnvValue] | Unset | None
    service_account: str | Unset | None
    run_as_user: int | Unset | None


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

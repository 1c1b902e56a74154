"""Keys of Secrets and ConfigMaps: where a variable comes from, and where a result goes."""

from __future__ import annotations

from dataclasses import dataclass, field

from kubefunc.options.kind import Kind, accepted
from kubefunc.options.parsers import names, numbers


@dataclass(frozen=True)
class _Reference:
    """One key of an object in the Pod's namespace."""

    name: str
    key: str
    owned: bool = field(default=False, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        where = type(self).__name__
        accepted(f"{where}: name", Kind("the name of an object in the Pod's namespace", names.object_name), self.name)
        accepted(f"{where}: key", Kind("the name of one of its keys", names.data_key), self.key)
        accepted(f"{where}: owned", Kind("True or False", numbers.switch), self.owned)


class SecretKey(_Reference):
    """One key of a Secret in the Pod's namespace: for ``env`` its value, for ``publish`` where the result goes.

    >>> SecretKey("database", "password")
    SecretKey(name='database', key='password')

    Args:
        name: the Secret's name.
        key: the key in it.
        owned: for ``publish``: a Secret that is created for the result is deleted with the call's Job.
    """


class ConfigMapKey(_Reference):
    """One key of a ConfigMap in the Pod's namespace: for ``env`` its value, for ``publish`` where the result goes.

    Args:
        name: the ConfigMap's name.
        key: the key in it.
        owned: for ``publish``: a ConfigMap that is created for the result is deleted with the call's Job.
    """

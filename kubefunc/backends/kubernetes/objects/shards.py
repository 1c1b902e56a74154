"""How the files and variables of a call are spread over its Secrets. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from kubefunc.backends.kubernetes.objects.template import Json
from kubefunc.options import EnvValue
from kubefunc.runner import ITEMS, PAYLOAD

SHARD_BYTES: Final = 950 * 1024  # a Secret holds 1 MiB of data; the rest is room for names and for what grows

_SPREAD: Final = (PAYLOAD, ITEMS)  # files that several Secrets may share
_ENV: Final = "env."  # keys with this prefix are the values of variables, and no files
_LONGEST_KEY: Final = 253  # characters of a key in a Secret

Shard: TypeAlias = "dict[str, bytes | memoryview]"


@dataclass(frozen=True)
class Shards:
    """The data of each of a call's Secrets, by the Secret's name."""

    by_name: Mapping[str, Shard]

    @property
    def names(self) -> list[str]:
        """The Secrets' names; the files that are not spread stand in the first."""
        return list(self.by_name)

    def sources(self) -> list[Json]:
        """What a projected volume takes the files from, without the variables that the Secrets hold too."""
        return [_source(name, shard) for name, shard in self.by_name.items() if _file_names(shard)]

    def variable(self, name: str) -> Json:
        """The reference to a variable's value. The kubelet expands nothing in it, as it would in a plain ``value``."""
        key = env_key(name)
        secret = next(secret for secret, shard in self.by_name.items() if key in shard)
        return {"secretKeyRef": {"name": secret, "key": key}}


def spread(first: str, files: Mapping[str, bytes], env: Mapping[str, EnvValue]) -> Shards:
    """Files and texts of variables: payload and items fill the last Secret up and go on in others.

    Args:
        first: the first Secret's name; the others have a number behind it.
        files: the content of ``/kubefunc/in`` by name.
        env: references in it stay references, and take no room.

    Raises:
        ValueError: the files beside payload and items do not fit into one Secret.
    """
    shards: list[Shard] = [{name: data for name, data in files.items() if name not in _SPREAD}]
    room = SHARD_BYTES - sum(len(data) for data in shards[0].values())
    if room <= 0:
        raise ValueError(f"the runner's own files have {SHARD_BYTES - room} bytes, more than one Secret holds")
    for name, value in env.items():
        if isinstance(value, str):
            room = _put_whole(env_key(name), value.encode(), shards, room)
    for name in _SPREAD:
        if name in files:
            room = _put_in_parts(name, files[name], shards, room)
    return Shards({f"{first}-{number}" if number else first: shard for number, shard in enumerate(shards)})


def env_key(name: str) -> str:
    """Where a variable's value stands in the call's Secrets.

    >>> env_key("DATABASE_URL")
    'env.DATABASE_URL'
    """
    key = _ENV + name
    return key if len(key) <= _LONGEST_KEY else _ENV + hashlib.sha256(name.encode()).hexdigest()


def _put_whole(key: str, data: bytes, shards: list[Shard], room: int) -> int:
    """Put it into the last of these Secrets, or into one more; the room left there."""
    if len(data) > room:
        shards.append({})
        room = SHARD_BYTES
    shards[-1][key] = data
    return room - len(data)


def _put_in_parts(name: str, data: bytes, shards: list[Shard], room: int) -> int:
    """Put a file into the last of these Secrets, in parts into as many more as it needs; the room left in the last."""
    if len(data) <= room:
        shards[-1][name] = data
        return room - len(data)
    view = memoryview(data)
    number = 0
    while view:
        if not room:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][f"{name}.{number}"] = view[:room]
        view, room, number = view[room:], max(0, room - len(view)), number + 1
    return room


def _source(secret: str, shard: Shard) -> Json:
    files = _file_names(shard)
    if len(files) == len(shard):
        return {"secret": {"name": secret}}
    return {"secret": {"name": secret, "items": [{"key": name, "path": name} for name in files]}}


def _file_names(shard: Shard) -> list[str]:
    return [key for key in shard if not key.startswith(_ENV)]

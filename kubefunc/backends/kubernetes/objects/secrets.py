"""The Secrets of a call: files of the runner, and the values of variables."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Mapping
from typing import cast

from kubefunc.backends.kubernetes.objects.job_spec import JobSpec
from kubefunc.backends.kubernetes.objects.labels import labels
from kubefunc.backends.kubernetes.objects.shards import Shard, Shards, spread
from kubefunc.backends.kubernetes.objects.template import Json
from kubefunc.runner import ARCHIVE


def build_secrets(spec: JobSpec) -> list[Json]:
    """The Secrets of a call, to be created before the Job: a Pod that misses one backs off for minutes.

    Raises:
        ValueError: the files beside ``payload`` do not fit into one Secret.
    """
    return [_secret(spec, name, shard) for name, shard in shards_of(spec).by_name.items()]


def encoded(secret: Json) -> bytes:
    """A Secret as JSON. Base64 has nothing to escape: ``json.dumps`` would look at each letter of it, in every call.

    >>> encoded({"kind": "Secret", "data": {"key": "YQ=="}})
    b'{"kind":"Secret","data":{"key":"YQ=="}}'
    """
    rest = json.dumps({name: value for name, value in secret.items() if name != "data"}, separators=(",", ":"))
    data = cast("Mapping[str, str]", secret["data"])
    pairs = ",".join(f'{json.dumps(name)}:"{text}"' for name, text in data.items())
    return "".join((rest[:-1], ',"data":{', pairs, "}}")).encode()


def shards_of(spec: JobSpec) -> Shards:
    """How files and variables lie in the Secrets."""
    return spread(spec.name, spec.files, spec.options.env)


def _secret(spec: JobSpec, name: str, shard: Shard) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": spec.namespace, "labels": labels(spec)},
        "type": "Opaque",
        "immutable": True,  # spares every kubelet a watch on it
        "data": {key: _base64_of_archive(data) if key == ARCHIVE else _base64(data) for key, data in shard.items()},
    }


def _base64(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode("ascii")


# The same bytes in each call of a process, and most of what travels with a small one.
_base64_of_archive = functools.lru_cache(maxsize=1)(_base64)

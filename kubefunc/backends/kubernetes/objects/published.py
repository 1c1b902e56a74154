"""A result in a ConfigMap or Secret: what is sent to write it there. Data in, dicts out."""

from __future__ import annotations

import base64
import json
from typing import Final

from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.kubernetes.objects.paths import objects_path
from kubefunc.backends.kubernetes.objects.template import Json
from kubefunc.errors import ConfigurationError
from kubefunc.options import ConfigMapKey, SecretKey

PUBLISH_ANNOTATION: Final = "kubefunc/publish"
CALL_ANNOTATION: Final = "kubefunc/call"

Destination = ConfigMapKey | SecretKey


def kind_of(to: Destination) -> str:
    """The object's kind.

    >>> kind_of(ConfigMapKey("scores", "result"))
    'ConfigMap'
    """
    return "Secret" if isinstance(to, SecretKey) else "ConfigMap"


def object_path(to: Destination, namespace: str) -> str:
    """Where its kind is listed and created."""
    return objects_path(f"{kind_of(to).lower()}s", namespace)


def patch(to: Destination, content: str | bytes, call: str) -> Json:
    """The merge patch that sets the key and leaves all others as they are.

    A key of a ConfigMap is either in ``data`` or in ``binaryData``: it leaves the other one.
    """
    change = _data(to, content)
    if isinstance(to, ConfigMapKey):
        other = "data" if "binaryData" in change else "binaryData"
        change[other] = {to.key: None}
    return {"metadata": {"annotations": {CALL_ANNOTATION: call}}, **change}


def new(to: Destination, content: str | bytes, call: str, owner: Json | None) -> Json:
    """The object, where it does not exist yet.

    It has no label of ours: what has one is deleted with its call.

    Args:
        to: its name and key.
        content: of the key.
        call: who has written it.
        owner: the ownerReference that deletes it with its Job.
    """
    metadata: Json = {"name": to.name, "annotations": {CALL_ANNOTATION: call}}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    kind = kind_of(to)
    secret_type = {"type": "Opaque"} if kind == "Secret" else {}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **secret_type, **_data(to, content)}


def _data(to: Destination, content: str | bytes) -> Json:
    if isinstance(to, SecretKey):
        return {"data": {to.key: _base64(content.encode() if isinstance(content, str) else content)}}
    if isinstance(content, str):
        return {"data": {to.key: content}}
    return {"binaryData": {to.key: _base64(content)}}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# --- where the result goes, for another program that attaches


def written(to: Destination) -> str:
    """The destination as an annotation of the Job.

    >>> read(written(SecretKey("scores", "result")))
    SecretKey(name='scores', key='result')
    """
    return json.dumps({"kind": kind_of(to), "name": to.name, "key": to.key, "owned": to.owned})


def read(annotation: str) -> Destination:
    """The same destination.

    Raises:
        ValueError: it is none.
        ConfigurationError: its name or key is not accepted.
    """
    told = json.loads(annotation)
    if not isinstance(told, dict) or told.get("kind") not in ("ConfigMap", "Secret"):
        raise ValueError(f"{annotation!r:.100} names no ConfigMap or Secret")
    name, key, owned = str(told.get("name")), str(told.get("key")), told.get("owned") is True
    if told["kind"] == "Secret":
        return SecretKey(name, key, owned=owned)
    return ConfigMapKey(name, key, owned=owned)


def read_from(job: JsonDict) -> Destination | None:
    """What a Job says of its result; None where it says nothing, or nothing that can be read.

    A user who may change Jobs here may also let a result go to another object of this namespace.
    """
    annotation = fields.mapping(fields.mapping(job, "metadata"), "annotations").get(PUBLISH_ANNOTATION)
    try:
        return read(annotation) if isinstance(annotation, str) else None
    except (ValueError, ConfigurationError):
        return None

"""Ids of calls: each is the name of its Job, and commits to the call's key."""

from __future__ import annotations

import base64
import hashlib
import re

_ID = re.compile(r"[a-z](?:[-a-z0-9]{0,30}[a-z0-9])?-[a-z2-7]{16}")
# Characters of the function's name that an id shows. A label and a Pod's host name have 63, the latter with the number
# of the attempt and that of the Pod behind the id.
_ID_NAME = 32
KEY_SIZE = 32  # bytes, of os.urandom: what `secrets` gives too, but its import costs 13 ms
_ID_HASH = 10  # bytes of the key's hash in an id: 16 letters


def new_id(function_name: str, key: bytes) -> str:
    """The id of a call with this key, which is its Job's name: the function's name as a DNS label, and the key's hash.

    So a client with the id can check whether a Job is the call: only its own Job has the key (:func:`commits_to`).

    >>> new_id("Trainer.fit_all", b"a key")
    'trainer-fit-all-r6r2vmx2vg3z4cqd'
    >>> is_valid_id(new_id("<lambda>", b"a key"))
    True
    """
    label = re.sub(r"[^a-z0-9]+", "-", function_name.lower()).strip("-")
    if not label[:1].isalpha():  # a Service of that name must begin with a letter
        label = f"call-{label}".strip("-")
    label = label[:_ID_NAME].rstrip("-")
    return f"{label}-{_hash_of(key)}"


def _hash_of(key: bytes) -> str:
    return base64.b32encode(hashlib.sha256(key).digest()[:_ID_HASH]).decode().lower()


def commits_to(call: str, key: bytes) -> bool:
    """Whether this is the key with which the call of this id was started.

    >>> call = new_id("train", b"a key")
    >>> commits_to(call, b"a key"), commits_to(call, b"another key")
    (True, False)
    """
    return call.rpartition("-")[2] == _hash_of(key)


def is_valid_id(text: str) -> bool:
    """Whether the text has the form of a call's id.

    >>> is_valid_id("train-x7k2p5qa"), is_valid_id("../etc/passwd")
    (False, False)
    >>> is_valid_id("train-x7k2p5qax7k2p5qa")
    True
    """
    return _ID.fullmatch(text) is not None

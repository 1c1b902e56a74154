"""What a call's Secret tells another process that attaches to the call: checked before any of it is believed.

A user who may write Secrets and Jobs in a namespace can store anything there under any id. So an id commits to its
call's key, and what is unpickled is signed with that.
"""

from __future__ import annotations

import base64
import hmac
import json
import sys
from collections.abc import Mapping

from kubefunc import errors
from kubefunc.backends.kubernetes.objects import fields
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import python_mismatch
from kubefunc.ids import commits_to
from kubefunc.options import Options
from kubefunc.runner import KEY_FILE, PROTOCOL, SPEC_FILE
from kubefunc.runner.protocol.spec import RunnerSpec
from kubefunc.runner.protocol.wire import MAC_SIZE

_SIGNED = b"kubefunc options\n"  # what else is signed with the key begins otherwise


def files_of(secret: JsonDict) -> dict[str, bytes]:
    """The files in a Secret.

    Raises:
        ValueError: it is not what the API sends.
    """
    data = fields.mapping(secret, "data")
    return {name: base64.b64decode(fields.text(data, name)) for name in data}


def options_of(files: Mapping[str, bytes]) -> Options:
    """What must be known of the options of a call that another process has started, to follow it."""
    try:
        spec = RunnerSpec.read(files[SPEC_FILE])
    except (KeyError, ValueError, TypeError):
        return Options()  # checked_spec() refuses it
    return Options(untrusted=bool(spec.untrusted))


def checked_spec(call: str, files: Mapping[str, bytes]) -> RunnerSpec:
    """How to run, of a call that may be attached to from here.

    Raises:
        ResultCorruptedError: the key is not the one that the call was started with.
        PythonMismatchError: the call belongs to another minor version of Python, or to a version of kubefunc that
            speaks another protocol.
    """
    if not commits_to(call, files.get(KEY_FILE, b"")):
        raise _foreign(call)
    stored = json.loads(files[SPEC_FILE])
    if stored.get("protocol") != PROTOCOL:  # before anything else is read: its fields may be others
        raise _other_protocol(call, stored.get("protocol"))
    spec = RunnerSpec.from_json(stored)
    if spec.python != "{}.{}".format(*sys.version_info):
        raise python_mismatch(spec.python, Diagnosis("", "", call=call))
    return spec


def _other_protocol(call: str, there: object) -> errors.PythonMismatchError:
    told = Diagnosis(
        "ProtocolMismatch",
        f"{call} was started by a version of kubefunc that speaks protocol {there}; this one speaks {PROTOCOL}. "
        "Nothing of it was unpickled.",
        "Attach to it with the version of kubefunc that started it.",
        call=call,
    )
    return errors.PythonMismatchError(str(told), diagnosis=told)


def signed(key: bytes, data: bytes) -> bytes:
    """Data that another process may unpickle, with its signature before it.

    >>> verified(b"key", signed(b"key", b"data")), verified(b"other", signed(b"key", b"data"))
    (b'data', None)
    """
    return hmac.digest(key, _SIGNED + data, "sha256") + data


def verified(key: bytes, data: bytes) -> bytes | None:
    """What was signed with this key; None for anything else."""
    mac, content = data[:MAC_SIZE], data[MAC_SIZE:]
    return content if hmac.compare_digest(mac, hmac.digest(key, _SIGNED + content, "sha256")) else None


def _foreign(call: str) -> errors.ResultCorruptedError:
    message = (
        f"What the cluster holds as {call} is not what was started under this id: its key is another one. "
        "Nothing of it was unpickled."
    )
    advice = "Somebody has replaced its Job or Secret: ask who may write those in this namespace. Run the call again."
    told = Diagnosis("KeyMismatch", message, advice, call=call)
    return errors.ResultCorruptedError(str(told), diagnosis=told)

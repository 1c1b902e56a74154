"""What another process finds in the cluster under an id: nothing of it is believed before it is the call's own."""

from __future__ import annotations

import base64
import pickle
import sys
from typing import Any

import pytest

from kubefunc import errors
from kubefunc.backends.kubernetes.objects.kept import checked_spec, files_of, signed, verified
from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import Raised, outcome, verify
from kubefunc.ids import new_id
from kubefunc.runner.protocol import wire
from kubefunc.runner.protocol.spec import RunnerSpec
from tests.unit.test_envelope import Noticed, unpickled

KEY = b"k" * 32
CALL = new_id("train", KEY)
OTHER = "3.9"


def files(key: bytes = KEY, **changes: Any) -> dict[str, bytes]:
    """A Secret's files."""
    spec = RunnerSpec(call=CALL, function="train").replace(**changes)
    return {"key": key, "spec.json": spec.encoded()}


def test_the_calls_own_secret_is_read() -> None:
    """Key, protocol and Python are right."""
    secret = {"data": {name: base64.b64encode(data).decode() for name, data in files().items()}}
    assert checked_spec(CALL, files_of(secret)).function == "train"


@pytest.mark.parametrize("key", [b"", b"another key", b"k" * 31])
def test_a_forged_job_is_refused(key: bytes) -> None:
    """Its Secret holds another key than the one that the id commits to; the error says what that means."""
    with pytest.raises(errors.ResultCorruptedError, match="not what was started under this id") as caught:
        checked_spec(CALL, files(key))
    assert caught.value.diagnosis is not None
    assert caught.value.diagnosis.reason == "KeyMismatch"


def test_another_python_is_refused() -> None:
    """Before anything is fetched; the error names both versions and what to do."""
    with pytest.raises(errors.PythonMismatchError, match=r"Attach to it from Python 3\.9"):
        checked_spec(CALL, files(python=OTHER))


def test_another_protocol_is_refused() -> None:
    """The call was started by another version of kubefunc; the error says with which to attach."""
    with pytest.raises(errors.PythonMismatchError, match=r"protocol 99(?s:.)*with the version of kubefunc"):
        checked_spec(CALL, files(protocol=99))
    with pytest.raises(errors.PythonMismatchError, match="protocol 99"):
        checked_spec(CALL, {"key": KEY, "spec.json": b'{"protocol": 99, "a field": "of that version"}'})


@pytest.mark.parametrize("kind", ["value", "raised"])
def test_an_envelope_of_another_python_is_not_unpickled(kind: str) -> None:
    """By whichever channel it came: its signed header names the Python that has pickled it."""
    body = pickle.dumps(Noticed())
    node = {"type": "E", "message": "", "notes": [], "at": [0, len(body)], "cause": None, "context": None}
    nodes = [{**node, "suppress": False, "members": []}]
    header = {"outcome": kind, "call": CALL, "nodes": nodes, "traceback": "", "python": OTHER}
    ended = outcome(verify(wire.seal(header, body, KEY), KEY, CALL), Diagnosis("", ""))
    assert isinstance(ended, Raised)
    assert isinstance(ended.error, errors.PythonMismatchError)
    assert f"this program runs on Python {sys.version_info[0]}.{sys.version_info[1]}" in str(ended.error)
    assert unpickled() == []


def test_options_are_signed() -> None:
    """Those that retry_failed() takes from the cluster are unpickled: only with the key's signature."""
    data = signed(KEY, b"options")
    assert verified(KEY, data) == b"options"
    for forged in (b"", b"options", data[:-1], b"x" + data, signed(b"another", b"options")):
        assert verified(KEY, forged) is None


def test_an_error_of_another_python_is_told_as_what_it_is() -> None:
    """Nothing has to be unpickled for it: the image's own Python is what was wrong, and the advice names an image."""
    header = {"outcome": "error", "code": "python", "detail": {"here": OTHER, "there": "3.11"}, "call": CALL}
    envelope = verify(wire.seal({**header, "printed": 0, "python": OTHER}, b"", KEY), KEY, CALL)
    ended = outcome(envelope, Diagnosis("", "", call=CALL))
    assert isinstance(ended, Raised)
    assert isinstance(ended.error, errors.PythonMismatchError)
    assert "python:3.11-slim" in str(ended.error)

"""Reading a result: nothing of it is unpickled before it is proven to be this call's, whole and unchanged."""

from __future__ import annotations

import errno
import linecache
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kubefunc import errors
from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import Raised, Returned, outcome, verify
from kubefunc.errors import ResultCorruptedError, ResultLostError, SerializationError
from kubefunc.reading.exceptions import with_source_lines
from kubefunc.reading.unpickling import loads
from kubefunc.runner import CODE_DIED, CODE_EXIT, CODE_PYTHON, ERROR, OUT_DIR, RAISED, VALUE
from kubefunc.runner.execution import exceptions
from kubefunc.runner.execution.child import dumps
from kubefunc.runner.execution.reports import storage_error
from kubefunc.runner.protocol import wire

KEY = b"k" * 32
CALL = "f-abcdefgh"
UNKNOWN = Diagnosis(reason="", message="")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)

loaded: list[str] = []


def notice(what: str) -> None:
    """Runs while the pickle is loaded."""
    loaded.append(what)


class Noticed:
    """Its pickle cannot be loaded without leaving a trace."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return notice, ("loaded",)


def unpickled() -> list[str]:
    """What was loaded since the last time."""
    seen = list(loaded)
    loaded.clear()
    return seen


def sealed(body: bytes, key: bytes = KEY, **header: Any) -> bytes:
    """An envelope as the runner makes it."""
    return wire.seal({"outcome": VALUE, "call": CALL, "printed": 0, "attempts": 1, **header}, body, key)


def opened(data: bytes) -> Returned | Raised:
    """What the client makes of it."""
    return outcome(verify(data, KEY, CALL), UNKNOWN)


TRAP = sealed(pickle.dumps(Noticed()))


class Stubborn(Exception):
    """Raises what it likes when it is loaded."""

    def __init__(self, kind: type[BaseException]) -> None:
        super().__init__(kind)

    def __reduce__(self) -> tuple[Callable[..., None], tuple[type[BaseException]]]:
        return raise_it, (self.args[0],)


class Unspeakable(Exception):
    """An exception that cannot even say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def raise_it(kind: type[BaseException]) -> None:
    """For pickles that fail."""
    raise kind("while loading")


# -- what arrives as it was sent


@given(VALUES)
@example(b"x" * 100_000)
def test_values_come_back_equal(value: object) -> None:
    """Any value goes there and back."""
    ended = opened(sealed(pickle.dumps(value, protocol=5)))
    assert ended == Returned(value)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: Callable[[bytes], Any]) -> None:
    """A large result is read where it lies, without a copy."""
    envelope = verify(kind(sealed(pickle.dumps(7))), KEY, CALL)
    assert outcome(envelope, UNKNOWN) == Returned(7)


def test_the_trap_works() -> None:
    """An envelope that is right is unpickled: so the tests below would notice one that is not."""
    assert isinstance(opened(TRAP), Returned)
    assert unpickled() == ["loaded"]


# -- what does not


def refused(data: bytes, key: bytes = KEY, call: str = CALL) -> str:
    """The words of the refusal; nothing may have been unpickled."""
    with pytest.raises(ResultCorruptedError, match="Nothing of it was unpickled") as caught:
        verify(data, key, call)
    assert unpickled() == []
    assert caught.value.diagnosis is not None
    assert caught.value.diagnosis.call == call
    return str(caught.value)


def test_cut_at_any_byte() -> None:
    """Neither a beginning nor an end of an envelope passes for one."""
    for size in range(len(TRAP)):
        refused(TRAP[:size])
        refused(TRAP[size + 1 :])


def test_any_bit_changed() -> None:
    """Each single bit is covered: of body, header, length, HMAC and magic."""
    for place in range(8 * len(TRAP)):
        changed = bytearray(TRAP)
        changed[place // 8] ^= 1 << place % 8
        refused(bytes(changed))


@given(st.binary(max_size=300))
def test_noise(data: bytes) -> None:
    """Anything at all that is not an envelope, also with the right end."""
    refused(data)
    refused(data + TRAP[-4:])
    refused(data + TRAP[-wire.FOOTER_SIZE :])


@given(st.binary(min_size=1, max_size=40), st.data())
def test_bytes_put_in_anywhere(more: bytes, data: st.DataObject) -> None:
    """What was added is found too."""
    place = data.draw(st.integers(0, len(TRAP)))
    refused(TRAP[:place] + more + TRAP[place:])


def test_another_key() -> None:
    """Who does not have this call's key cannot have anything unpickled here."""
    assert "HMAC" in refused(sealed(pickle.dumps(Noticed()), key=b"x" * 32))
    assert "HMAC" in refused(TRAP, key=b"")


def test_another_call() -> None:
    """Even with the same key, the result of one call is not taken for another's."""
    assert "it belongs to the call 'f-abcdefgh'" in refused(TRAP, call="g-abcdefgh")


def test_the_body_of_another_envelope() -> None:
    """A signed header does not vouch for a body that it does not describe."""
    other = sealed(pickle.dumps([Noticed()]))
    header = TRAP[len(pickle.dumps(Noticed())) :]
    assert "were written" in refused(other[: len(pickle.dumps([Noticed()]))] + header)
    same_size = pickle.dumps(Noticed()).replace(b"loaded", b"LOADED")
    assert "sha256" in refused(same_size + header)


# -- bodies that are right and yet do not load


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, Unspeakable])
def test_a_value_that_raises_while_it_loads(kind: type[BaseException]) -> None:
    """Whatever it raises ends in the call's own error: the thread that reads results goes on."""
    ended = opened(sealed(pickle.dumps(Stubborn(kind))))
    assert isinstance(ended, Raised)
    assert isinstance(ended.error, SerializationError)
    assert kind.__name__ in str(ended.error)
    assert isinstance(ended.error.__cause__, kind)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, Unspeakable])
def test_an_exception_that_raises_while_it_loads(kind: type[BaseException]) -> None:
    """Its type and text travel beside it, and stand for it."""
    nodes, _ = exceptions.encode(ValueError("told"), dumps)
    body = pickle.dumps(Stubborn(kind))
    nodes[0]["at"] = [0, len(body)]
    ended = opened(sealed(body, outcome=RAISED, nodes=nodes, traceback="Traceback ..."))
    assert isinstance(ended, Raised)
    assert isinstance(ended.error, SerializationError)
    assert "ValueError: told" in str(ended.error)


@given(st.binary(max_size=60))
def test_a_signed_body_that_is_no_pickle(body: bytes) -> None:
    """A runner gone mad still gives a typed answer."""
    ended = opened(sealed(b"\x80\x05" + body))
    assert isinstance(ended, (Returned, Raised))


# -- exceptions


def there_and_back(error: Exception) -> BaseException:
    """The exception as the caller gets it."""
    try:
        raise error
    except Exception as raised:  # noqa: BLE001 - whatever a test gives
        nodes, body = exceptions.encode(raised, dumps)
        text = exceptions.traceback_text(raised)
    ended = opened(sealed(body, outcome=RAISED, nodes=nodes, traceback=text))
    assert isinstance(ended, Raised)
    return ended.error


class TwoArguments(Exception):
    """Pickle would call it with one."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class KeywordOnly(Exception):
    """Pickle would call it without."""

    def __init__(self, *, where: str) -> None:
        super().__init__(f"at {where}")
        self.where = where


@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (ValueError("plain"), {}),
        (OSError(2, "no such file", "name"), {"errno": 2, "filename": "name"}),
        (KeyError("key"), {}),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), {"start": 0, "object": b"\xff"}),
        (TwoArguments(3, "no"), {"code": 3}),
        (KeywordOnly(where="here"), {"where": "here"}),
        (StopIteration(5), {"value": 5}),
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_exception_keeps_class_text_and_attributes(error: Exception, attributes: dict[str, object]) -> None:
    """Also where its ``__init__`` is one that pickle cannot repeat."""
    back = there_and_back(error)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert {name: getattr(back, name) for name in attributes} == attributes


def test_the_chain_and_the_traceback_travel() -> None:
    """Cause, context and notes are there, and the remote traceback hangs at the deepest end."""
    cause, context = OSError("cause"), KeyError("context")
    error = ValueError("top")
    error.__cause__ = cause
    cause.__context__ = context
    error.__notes__ = ["a note"]  # type: ignore[attr-defined]
    back = there_and_back(error)
    assert isinstance(back.__cause__, OSError)
    assert isinstance(back.__cause__.__context__, KeyError)
    assert back.__notes__ == ["a note"]  # type: ignore[attr-defined]
    deepest = back.__cause__.__context__.__cause__
    assert isinstance(deepest, errors.RemoteTraceback)
    assert "there_and_back" in str(deepest)


def test_a_chain_that_bites_its_tail() -> None:
    """A cycle of contexts ends, here and there."""
    one, two = ValueError("one"), KeyError("two")
    one.__context__, two.__context__ = two, one
    back = there_and_back(one)
    assert isinstance(back.__context__, KeyError)
    assert back.__context__.__context__ is back


@pytest.mark.skipif(sys.version_info < (3, 11), reason="ExceptionGroup came with Python 3.11")
def test_the_members_of_a_group_keep_their_chains() -> None:
    """Each member is the one in the group, with its own cause."""
    member = ValueError("member")
    member.__cause__ = OSError("its cause")
    group = ExceptionGroup("both", [KeyError("k"), ExceptionGroup("inner", [member])])  # type: ignore[name-defined] # noqa: F821
    back: Any = there_and_back(group)
    assert type(back) is type(group)
    inner = back.exceptions[1].exceptions[0]
    assert isinstance(inner.__cause__, OSError)


@given(st.text(max_size=20), st.lists(st.text(max_size=8), max_size=3))
def test_any_text_and_notes_travel(text: str, notes: list[str]) -> None:
    """Also halves of surrogate pairs, which no UTF-8 holds."""
    error = ValueError(text)
    if notes:
        error.__notes__ = notes  # type: ignore[attr-defined]
    back = there_and_back(error)
    assert back.args == (text,)
    assert getattr(back, "__notes__", []) == notes


# -- errors that travel as codes


def test_a_code_becomes_its_error() -> None:
    """With exit code or signal as data."""
    for detail, name in (({"exit_code": 3}, "exit code 3"), ({"signal": 11}, "SIGSEGV"), ({"signal": 77}, "signal 77")):
        ended = opened(sealed(b"", outcome=ERROR, code=CODE_DIED, detail=detail))
        assert isinstance(ended, Raised)
        assert isinstance(ended.error, errors.WorkerDiedError)
        assert name in str(ended.error)


@pytest.mark.parametrize(
    ("path", "number", "what", "advice"),
    [
        ("/tmp/kubefunc-1/f.body", errno.ENOSPC, "the file system of /tmp/kubefunc-1/f.body is full", "TMPDIR"),
        ("/tmp/kubefunc-1/f.body", errno.ENOENT, "the folder /tmp/kubefunc-1 was removed", "Do not delete"),
        ("/tmp/kubefunc-1/f.body", errno.EFBIG, "limit for the size of a file", "ulimit -f"),
        ("/tmp/kubefunc-1/f.body", errno.EIO, "/tmp/kubefunc-1/f.body cannot be written", "a directory that works"),
        (f"{OUT_DIR}/body", errno.ENOSPC, f"the file system of {OUT_DIR}/body is full", "ephemeral-storage"),
        (f"{OUT_DIR}/body", errno.EFBIG, "limit for the size of a file", "ulimit -f"),
    ],
)
def test_a_result_that_cannot_be_written(path: str, number: int, what: str, advice: str) -> None:
    """Each reason has an advice of its own."""
    header = storage_error(path, OSError(number, os.strerror(number)))
    result = opened(sealed(b"", **header))
    assert isinstance(result, Raised)
    assert isinstance(result.error, ResultLostError)
    assert what in str(result.error)
    assert os.strerror(number) in str(result.error)
    assert advice in str(result.error)


def test_an_image_with_another_python() -> None:
    """The advice is the image that fits: to attach from the image's Python would not help."""
    mine = "{}.{}".format(*sys.version_info)
    ended = opened(sealed(b"", outcome=ERROR, code=CODE_PYTHON, python="3.9", detail={"there": mine, "here": "3.9"}))
    assert isinstance(ended, Raised)
    assert isinstance(ended.error, errors.PythonMismatchError)
    assert f"image='python:{mine}-slim'" in str(ended.error)


def test_an_exit_keeps_its_code() -> None:
    """sys.exit(4) there does not end the caller here."""
    ended = opened(sealed(b"", outcome=ERROR, code=CODE_EXIT, detail={"type": "SystemExit", "exit_code": 4}))
    assert isinstance(ended, Raised)
    assert isinstance(ended.error, errors.RemoteExitError)
    assert ended.error.exit_code == 4


# -- large buffers


def test_large_buffers_are_read_without_losing_a_byte() -> None:
    """Frames of protocol 5 are larger than what is read at once."""
    value = [bytes(range(256)) * 4096, "x" * 100_000, bytearray(b"y" * 70_000)]
    assert loads(pickle.dumps(value, protocol=5)) == value


def test_a_traceback_from_elsewhere_shows_the_source_that_is_known_here() -> None:
    """Of a script or a notebook's cell; what its own side could show stays, and what nobody knows stays away."""
    linecache.cache["<cell 3>"] = (20, None, ["def f():\n", "    return 1 / 0\n"], "<cell 3>")
    text = (
        "Traceback (most recent call last):\n"
        '  File "/usr/lib/json.py", line 1, in load\n'
        "    its own line\n"
        '  File "<cell 3>", line 2, in f\n'
        '  File "<unknown>", line 7, in g\n'
        "ZeroDivisionError: division by zero"
    )
    lines = with_source_lines(text).split("\n")
    assert lines[3:6] == ['  File "<cell 3>", line 2, in f', "    return 1 / 0", '  File "<unknown>", line 7, in g']
    assert len(lines) == len(text.split("\n")) + 1

"""Functions with ``untrusted=True``: each byte that they send is taken for an attacker's, whatever its signature."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubefunc import errors
from kubefunc.backends.base import Sink, Submission
from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import Envelope, Raised, Returned, record_of, verify
from kubefunc.handles.call import Call
from kubefunc.handles.map_call import MapCall
from kubefunc.handles.map_items import MapItems
from kubefunc.options import Options
from kubefunc.outcomes.attempts import Attempts, View
from kubefunc.outcomes.store import Outcomes
from kubefunc.packing.code_archive import NO_CODE
from kubefunc.packing.payload import Payload
from kubefunc.runner import PLAIN_DEPTH, PLAIN_LIMIT, RAISED, VALUE
from kubefunc.runner.execution import exceptions, plain
from kubefunc.runner.protocol import records, wire
from kubefunc.session import Session
from kubefunc.untrusted import NotPlain, PrintableOutput, decode, outcome, printable
from tests.unit.by_hand import KEY, HandBackend
from tests.unit.test_hostile import HEADERS

CALL = "f-abcdefgh"
SESSION = Session()
UNTRUSTED = Options.of(untrusted=True)
TRUSTED = Options.of()
KNOWN = Diagnosis(reason="", message="", call=CALL)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Exploit:
    """Its pickle makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def sink_of(options: Options, outcomes: Outcomes) -> Sink:
    """What a backend tells of a submission with these options."""
    sent = Submission(call=CALL, function="f", options=options, payload=Payload(NO_CODE, b""), key=KEY)
    return Attempts(outcomes, HandBackend()).view(sent)


def signed(header: dict[str, Any], body: bytes) -> Envelope:
    """What a function sends that has taken the key of its call."""
    return verify(wire.seal({"call": CALL, **header}, body, KEY), KEY, CALL)


def call_with(options: Options, envelope: Envelope) -> Call[Any]:
    """A call that this envelope has ended."""
    call: Call[Any] = Call(CALL, "f", SESSION)
    sink_of(options, call._outcomes).take([record_of(envelope)])
    return call


# --- proofs of concept


def test_a_trusted_function_can_run_code_in_the_client(tmp_path: Path) -> None:
    """It holds the key and signs a pickle of its own: this is why untrusted=True is there."""
    call = call_with(TRUSTED, signed({"outcome": VALUE}, pickle.dumps(Exploit(tmp_path / "owned"))))
    call.result(timeout=10)
    assert (tmp_path / "owned").exists()


def test_an_untrusted_value_is_never_unpickled(tmp_path: Path) -> None:
    """The same bytes are no JSON: an error of ours, and nothing ran."""
    call = call_with(UNTRUSTED, signed({"outcome": VALUE}, pickle.dumps(Exploit(tmp_path / "owned"))))
    with pytest.raises(errors.ResultCorruptedError, match="not JSON"):
        call.result(timeout=10)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("header", [{"outcome": RAISED}, {"outcome": "error", "code": "load", "detail": {"cause": ""}}])
def test_an_untrusted_exception_is_never_unpickled(tmp_path: Path, header: dict[str, Any]) -> None:
    """Neither the one that was raised, nor the cause of an error that travels as a code: both are text."""
    body = pickle.dumps(Exploit(tmp_path / "owned"))
    (node,) = exceptions.encode_text(ValueError("no such station"))
    node["at"] = [0, len(body)]
    call = call_with(UNTRUSTED, signed({**header, "nodes": [node], "traceback": "Traceback of f"}, body))
    error = call.exception(timeout=10)
    assert not (tmp_path / "owned").exists()
    remote = error if header["outcome"] == RAISED else error.__cause__ if error is not None else None
    assert isinstance(remote, errors.RemoteError)
    assert (remote.type_name, remote.text, remote.traceback) == ("ValueError", "no such station", "Traceback of f")
    assert str(remote) == "ValueError: no such station"
    assert "Traceback of f" in str(remote.__cause__)


def test_an_untrusted_item_is_never_unpickled(tmp_path: Path) -> None:
    """Records of a map have no header for a value: they are JSON all the same."""
    handle: MapCall[Any] = MapCall(MapItems(CALL, "f", HandBackend(), SESSION, return_exceptions=True, verbose=False))
    handle._items.outcomes.open(2)
    sink = sink_of(UNTRUSTED, handle._items.outcomes)
    bodies = pickle.dumps(Exploit(tmp_path / "owned")), b'{"a":1}'
    sink.take([records.Record(index, 0.0, 1.0, 1, None, body) for index, body in enumerate(bodies)])
    broken, value = handle.result(timeout=10)
    assert isinstance(broken, errors.ResultCorruptedError)
    assert value == {"a": 1}
    assert not (tmp_path / "owned").exists()


def test_a_traceback_makes_this_program_read_no_file(tmp_path: Path) -> None:
    """Source lines are filled in for functions that are trusted. Here a frame may name any file, a pipe even."""
    os.mkfifo(tmp_path / "pipe.py")
    text = f'Traceback\n  File "{tmp_path / "pipe.py"}", line 1, in f'
    (node,) = exceptions.encode_text(ValueError("x"))
    error = call_with(UNTRUSTED, signed({"outcome": RAISED, "nodes": [node], "traceback": text}, b"")).exception(10)
    assert isinstance(error, errors.RemoteError)
    assert error.traceback == text


def test_escapes_in_texts_are_shown_as_text() -> None:
    """Of an exception, its class's name and its traceback, of an error's detail, and of lines in the diagnosis."""
    (node,) = exceptions.encode_text(ValueError("\x1b]0;title\x07 \u202eevil"))
    node["type"] = "\x1b[2J"
    header = {"outcome": RAISED, "nodes": [node], "traceback": "\x9b31m\r\nline", "output": "GzsyCg=="}
    error = call_with(UNTRUSTED, signed(header, b"")).exception(10)
    assert str(error) == "\\x1b[2J: \\x1b]0;title\\x07 \\u202eevil"
    assert isinstance(error, errors.RemoteError)
    assert error.traceback == "\\x9b31m\nline"
    assert error.diagnosis is not None
    assert error.diagnosis.log_tail == ("\\x1b;2",)
    detail = {"type": "X\x1b[2J", "exit_code": 3, "text": "\x1bc"}
    exited = call_with(UNTRUSTED, signed({"outcome": "error", "code": "exit", "detail": detail}, b"")).exception(10)
    assert isinstance(exited, errors.RemoteExitError)
    assert "\x1b" not in str(exited)


@settings(max_examples=200, deadline=None)
@given(HEADERS, st.binary(max_size=40))
def test_an_untrusted_envelope_may_say_anything(header: dict[str, Any], body: bytes) -> None:
    """Its call ends, with a value or with an error of ours."""
    with contextlib.suppress(errors.ResultCorruptedError):
        error = call_with(UNTRUSTED, signed(header, body)).exception(timeout=10)
        assert error is None or isinstance(error, errors.KubefuncError)
        assert "\x1b" not in str(error)


# --- JSON that is no harmless value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "nested"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"1e999", "too large"),
        (b"9" * 5_000, "5000 digits"),
        (b'{"a":1,"a":2}', "twice"),
        (b'"\xff"', "utf-8"),
        (b"\xff\xfe1\x00", "utf-8"),
        (b"", "Expecting value"),
        (b"1 2", "Extra data"),
        (b'"' + b"a" * PLAIN_LIMIT + b'"', "are allowed"),
    ],
    ids=["arrays", "objects", "nan", "infinity", "float", "int", "keys", "bytes", "utf16", "empty", "two", "size"],
)
def test_what_is_not_json_as_we_write_it_is_refused(text: bytes, why: str) -> None:
    """Before it costs time, memory or the C stack, whatever this program has set Python's own limits to."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200_000)
    try:
        with pytest.raises(NotPlain, match=why):
            decode(text)
    finally:
        sys.setrecursionlimit(limit)


def test_brackets_in_texts_are_no_nesting() -> None:
    """Escaped quotes do not end a text either."""
    value = ["[" * 500, {'"[' * 200 + "\\": "{" * 500}]
    assert decode(json.dumps(value).encode()) == value


def test_the_deepest_value_that_travels_arrives() -> None:
    """Both ends draw the line in the same place."""
    value: object = 1
    for _ in range(PLAIN_DEPTH):
        value = [value]
    assert decode(plain.encode(value)) == value
    with pytest.raises(plain.NotJson, match="nested"):
        plain.encode([value])


@given(PLAIN)
def test_what_json_has_arrives_as_it_is(value: Any) -> None:
    """Also texts with lone surrogates, -0.0 and large ints."""
    assert decode(plain.encode(value)) == value


def test_tuples_arrive_as_lists() -> None:
    """`return a, b` is what most functions do; JSON has one kind of sequence."""
    assert decode(plain.encode((1, (2, [3])))) == [1, [2, [3]]]


@pytest.mark.parametrize(
    ("value", "path", "why"),
    [
        ({"rows": [1, {2}]}, "result['rows'][1]", "no such type"),
        ({"a": {3: 1}}, "result['a'][3]", "is text"),
        ([float("nan")], "result[0]", "no number for nan"),
        ([1, 10**5000], "result[1]", "digits"),
        (b"raw", "result", "no such type"),
        (True + 1j, "result", "no such type"),
        ("x" * PLAIN_LIMIT, "result", "may travel"),
    ],
    ids=["set", "key", "nan", "int", "bytes", "complex", "size"],
)
def test_what_json_lacks_is_named_with_its_path(value: Any, path: str, why: str) -> None:
    """In the Pod: the client gets a SerializationError that says which part of the value it is."""
    with pytest.raises(plain.NotJson, match=why) as raised:
        plain.encode(value)
    assert raised.value.path == path


def test_a_value_within_itself_is_named(tmp_path: Path) -> None:
    """JSON has no cycles."""
    value: list[object] = []
    value.append(value)
    with pytest.raises(plain.NotJson, match="nested"):
        plain.encode(value)


def test_a_huge_claim_costs_nothing() -> None:
    """Texts, lists and levels of a header are cut to what ours have."""
    deep: object = "end"
    for _ in range(300):
        deep = [deep]
    detail = {"type": "X" * 10_000_000, "exit_code": 1, "text": [deep] * 1_000}
    envelope = signed({"outcome": "error", "code": "exit", "detail": detail}, b"")
    assert len(str(call_with(UNTRUSTED, envelope).exception(10))) < 100_000


# --- output


def test_output_is_printable_in_whatever_pieces_it_comes() -> None:
    """A character that is split between two pieces is one; lone carriage returns could hide what stands before."""
    data = "one\x1b[1A\r\ntwo\rthree \u2028 \u009b café\n".encode()
    whole = PrintableOutput().feed(data)
    output = PrintableOutput()
    assert b"".join(output.feed(data[at : at + 1]) for at in range(len(data))).replace(b"\\x0d\n", b"\n") == whole
    assert whole.decode() == "one\\x1b[1A\ntwo\\x0dthree \\u2028 \\x9b café\n"


def test_output_ends_at_a_limit() -> None:
    """One line says so."""
    output = PrintableOutput(limit=10)
    assert output.feed(b"12345678") == b"12345678"
    assert b"more than 10 bytes of output" in output.feed(b"90abc")
    assert output.feed(b"more") == b""


def test_output_reaches_a_call_printable() -> None:
    """For `logs()` as for the screen."""
    call: Call[Any] = Call(CALL, "f", SESSION)
    sink = sink_of(UNTRUSTED, call._outcomes)
    sink.output((0,), b"\x1b[2Jkubefunc: all is well\n")
    sink.take([record_of(signed({"outcome": VALUE}, b"1"))])
    assert call.result(10) == 1
    assert call.logs() == "\\x1b[2Jkubefunc: all is well\n"


def test_a_trusted_function_prints_as_it_likes() -> None:
    """Colours, for one."""
    call: Call[Any] = Call(CALL, "f", SESSION)
    sink = sink_of(TRUSTED, call._outcomes)
    assert isinstance(sink, View)
    sink.output((0,), b"\x1b[31mred\n")
    assert call._output.text() == "\x1b[31mred\n"


def test_printable_text_stays_as_it_is() -> None:
    """Tabs, newlines and all alphabets."""
    assert printable("a\tb\nçé 日本 🙂") == "a\tb\nçé 日本 🙂"


# --- options


def test_what_contradicts_untrusted_is_refused() -> None:
    """A ServiceAccount brings a token, and a pool's Pods are shared by calls."""
    with pytest.raises(errors.ConfigurationError, match=r"service_account='runner'.*untrusted=True"):
        Options.of(untrusted=True, service_account="runner")
    with pytest.raises(errors.ConfigurationError, match=r"pool= lets calls share Pods.*set pool=None"):
        Options.of(untrusted=True, pool=True)


def test_the_plain_case() -> None:
    """A value, read without a call."""
    assert outcome(Envelope({"outcome": VALUE}, memoryview(b"[1]")), KNOWN) == Returned([1])
    assert isinstance(outcome(Envelope({"outcome": "new"}, memoryview(b"")), KNOWN), Raised)

"""What a person sees of a function's output, whatever pieces it arrives in."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from kubefunc.progress import Console


def shown(pieces: list[bytes]) -> str:
    """What these pieces of output look like."""
    stream = io.StringIO()
    printer = Console(lambda: stream).printer("f-1")
    for piece in pieces:
        printer.feed(piece)
    printer.end()
    return stream.getvalue()


def test_the_last_line_needs_no_newline() -> None:
    """It is shown, with one."""
    assert shown([b"a\nb"]) == "a\nb\n"


def test_lines_are_shown_when_they_are_whole() -> None:
    """Two calls never share a line."""
    stream = io.StringIO()
    console = Console(lambda: stream)
    one, two = console.printer("f-1"), console.printer("f-2")
    one.feed(b"al")
    two.feed(b"beta\n")
    one.feed(b"pha\n")
    assert stream.getvalue() == "[f-2] beta\n[f-1] alpha\n"


def test_one_call_alone_has_no_prefix() -> None:
    """Also after another has ended."""
    stream = io.StringIO()
    console = Console(lambda: stream)
    one, two = console.printer("f-1"), console.printer("f-2")
    two.end()
    one.feed(b"x\n")
    assert stream.getvalue() == "x\n"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30), st.data())
def test_text_survives_any_cut(text: str, data: st.DataObject) -> None:
    """Characters that arrive in halves are put together again."""
    encoded = text.encode()
    cut = data.draw(st.integers(0, len(encoded)))
    expected = text if not text or text.endswith("\n") else text + "\n"
    assert shown([encoded[:cut], encoded[cut:]]) == expected


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_broken_utf8_never_raises(pieces: list[bytes]) -> None:
    """Whatever a function prints, its call is not disturbed."""
    shown(pieces)


def test_a_stream_that_cannot_encode_gets_escapes() -> None:
    """A terminal in ASCII still shows the line."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Console(lambda: stream).printer("f").feed("größe\n".encode())
    stream.flush()
    assert raw.getvalue() == b"gr\\xf6\\xdfe\n"


def test_a_closed_stream_is_no_reason_to_lose_a_call() -> None:
    """Nothing is raised; neither is without any stream."""
    stream = io.StringIO()
    stream.close()
    Console(lambda: stream).say("hello")
    Console(lambda: None).say("hello")

"""What a person sees: a function's output, whatever pieces it arrives in, and how far a map is."""

from __future__ import annotations

import importlib
import io
import re
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubefunc.console import Console
from kubefunc.progress import MapProgress, Rate, Watch


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


def test_one_call_after_another_has_no_prefix() -> None:
    """Nothing else is running that a line could come from."""
    stream = io.StringIO()
    console = Console(lambda: stream)
    for call in ("f-1", "f-2"):
        printer = console.printer(call)
        printer.feed(b"x\n")
        printer.end()
    assert stream.getvalue() == "x\nx\n"


def test_a_call_keeps_its_prefix_when_the_other_has_ended() -> None:
    """Its lines stand below those of the other, and a reader must not take them for its."""
    stream = io.StringIO()
    console = Console(lambda: stream)
    one, two = console.printer("f-1"), console.printer("f-2")
    two.feed(b"x\n")
    two.end()
    one.feed(b"y\n")
    assert stream.getvalue() == "[f-2] x\n[f-1] y\n"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r\x1b"), max_size=30), st.data())
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


# -- the progress of a map


class Terminal(io.StringIO):
    """What a terminal shows: a carriage return goes back, and what is written there replaces what was."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        lines = []
        for row in re.sub(r"\x1b\[[0-9;]*m", "", self.getvalue()).split("\n"):
            cells: list[str] = []
            for piece in row.split("\r"):
                cells[: len(piece)] = piece
            lines.append("".join(cells).rstrip())
        return lines


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def watched(stream: io.StringIO, clock: Clock) -> tuple[Watch, Console]:
    """A map of a thousand items, 400 of them done."""
    console = Console(lambda: stream)
    return Watch("f-abc", lambda: MapProgress(1000, 588, 12, 398, 2, 0, "waiting for a node"), console, clock), console


def test_a_terminal_shows_a_live_line_while_a_wait_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn anew in its place, and gone when the program goes on: the program's own prints find a clean line."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    terminal, clock = Terminal(), Clock()
    watch, _ = watched(terminal, clock)
    watch.tick()
    assert terminal.getvalue() == ""  # what is done in a moment needs no line
    for _ in range(3):
        clock.now += 10
        watch.tick()
    (line,) = terminal.screen
    assert line.startswith("f-abc ")
    assert "  400 of 1,000 done, 2 failed, 13.3/s, 45 s left, 12 running, 588 waiting (for a node)  ━━━━━" in line
    watch.pause()
    assert terminal.screen == [""]


def test_printed_lines_stand_above_the_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What items print, and what kubefunc says, is never mixed with it."""
    monkeypatch.setenv("TERM", "xterm")
    terminal, clock = Terminal(), Clock()
    watch, console = watched(terminal, clock)
    clock.now += 10
    watch.tick()
    console.say("hello")
    assert terminal.screen == ["kubefunc: hello", ""]


def test_a_narrow_terminal_cuts_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that wraps could not be erased."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    terminal, clock = Terminal(), Clock()
    watch, _ = watched(terminal, clock)
    clock.now += 10
    watch.tick()
    (line,) = terminal.screen
    assert len(line) < 40


def test_a_log_file_gets_a_line_every_thirty_seconds() -> None:
    """And nothing that could not be read in a file."""
    file, clock = io.StringIO(), Clock()
    watch, _ = watched(file, clock)
    for _ in range(65):
        watch.tick()
        clock.now += 1
    assert file.getvalue().splitlines() == [
        "kubefunc: f-abc: 400 of 1,000 done, 2 failed, 13.3/s, 45 s left, 12 running, 588 waiting (for a node)",
        "kubefunc: f-abc: 400 of 1,000 done, 2 failed, 6.67/s, 1 min 30 s left, 12 running, 588 waiting (for a node)",
    ]


@pytest.mark.parametrize("other", ["tqdm", "rich"])
def test_it_keeps_out_of_the_way_of_other_bars(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tqdm or rich draws on the screen just now, no line is drawn."""
    monkeypatch.setenv("TERM", "xterm")
    shown = types.ModuleType(other)
    if other == "tqdm":
        shown.tqdm = types.SimpleNamespace(_instances={"a bar"})  # type: ignore[attr-defined]
    else:
        shown._console = types.SimpleNamespace(_live="a display")  # type: ignore[attr-defined]
    terminal, clock = Terminal(), Clock()
    watch, _ = watched(terminal, clock)
    monkeypatch.setitem(sys.modules, other, shown)
    clock.now += 10
    watch.tick()
    assert terminal.getvalue() == ""


def test_a_real_display_of_rich_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what rich itself keeps of it."""
    monkeypatch.setenv("TERM", "xterm")
    rich, live = importlib.import_module("rich"), importlib.import_module("rich.live")
    terminal = Terminal()
    console = Console(lambda: terminal)
    assert console.is_live
    with live.Live("a display", console=rich.get_console(), redirect_stdout=False, redirect_stderr=False):
        assert not console.is_live
    assert console.is_live


def test_eighty_columns_show_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Done, failed, rate and time left stand before what may be cut; a long id keeps its end."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    terminal, clock = Terminal(), Clock()
    console = Console(lambda: terminal)
    now = MapProgress(1000, 588, 12, 398, 2, 0, "waiting for a node", 3)
    watch = Watch("train-the-model-of-this-year-x7k2p5qa", lambda: now, console, clock)
    clock.now += 20
    watch.tick()
    (line,) = terminal.screen
    assert line == "train-the-mode…-x7k2p5qa  400 of 1,000 done, 2 failed, 20/s, 30 s left, 12 run…"


def test_states_have_their_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Green, red, cyan and yellow, in the text and in the bar."""
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal, clock = Terminal(), Clock()
    watch, _ = watched(terminal, clock)
    clock.now += 20
    watch.tick()
    for colour in "31", "32", "33", "36":
        assert f"\x1b[{colour}m" in terminal.getvalue()


def test_a_line_stays_when_the_map_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and only of a map that was shown."""
    monkeypatch.setenv("TERM", "xterm")
    terminal, clock = Terminal(), Clock()
    console = Console(lambda: terminal)
    states = [MapProgress(10, 0, 5, 5, 0, 0), MapProgress(10, 0, 0, 9, 1, 0)]
    watch = Watch("f-abc", lambda: states[0], console, clock)
    watch.pause()
    clock.now += 65
    watch.tick()
    watch.pause()
    assert terminal.screen == [""]
    states.pop(0)
    for _ in range(3):
        watch.finish()
    assert terminal.screen == ["kubefunc: f-abc: 9 of 10 succeeded, 1 failed, in 1 min 5 s", ""]


def test_the_time_left_is_that_of_recent_items() -> None:
    """What waited for a node or an image at first says nothing of the rest."""
    rate = Rate(0.0)
    for second in range(300):
        rate.add(float(second), max(0, second - 200) * (1 if second < 250 else 2))
    assert rate.value == pytest.approx(2.0, rel=0.1)


def test_where_nothing_has_ended_of_late_the_whole_time_counts() -> None:
    """Long items come seldom."""
    rate = Rate(0.0)
    for second in range(1, 101):
        rate.add(float(second), 4)
    assert rate.value == pytest.approx(0.04)

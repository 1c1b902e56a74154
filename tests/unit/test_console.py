"""What a person sees of lines that are not whole yet: progress bars of functions, on a terminal and in a log file."""

from __future__ import annotations

import io
import threading
import time

import pytest

from kubefunc.console import LINE_LIMIT, Console
from kubefunc.quick_thread import QuickThread
from tests.unit.test_progress import Clock, Terminal


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """80 cells wide."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def test_a_bar_moves_in_its_place(terminal: Terminal) -> None:
    """Each state is seen when it comes; what stays is the last one, once."""
    printer = Console(lambda: terminal).printer("f-1")
    for state in ("10%", "\r50%", "\r100%"):
        printer.feed(state.encode())
        assert terminal.screen == [state.strip("\r")]
    printer.feed(b"\ndone\n")
    assert terminal.screen == ["100%", "done", ""]


def test_a_carriage_return_keeps_the_name(terminal: Terminal) -> None:
    """Beside another call each state says whose it is."""
    console = Console(lambda: terminal)
    one, two = console.printer("f-1"), console.printer("f-2")
    one.feed(b"\r10%")
    one.feed(b"\r20%")
    assert terminal.screen == ["[f-1] 20%"]
    two.feed(b"hello\n")
    assert terminal.screen == ["[f-2] hello", "[f-1] 20%"]
    one.end()
    assert terminal.screen == ["[f-2] hello", "[f-1] 20%", ""]


def test_two_bars_take_turns(terminal: Terminal) -> None:
    """There is one line to draw: it does not flicker between them."""
    clock = Clock()
    console = Console(lambda: terminal, clock)
    one, two = console.printer("f-1"), console.printer("f-2")
    one.feed(b"\r10%")
    two.feed(b"\r60%")
    assert terminal.screen == ["[f-1] 10%"]
    clock.now += 1
    two.feed(b"\r70%")
    assert terminal.screen == ["[f-2] 70%"]


def test_a_bar_that_is_wider_than_the_terminal_is_cut(terminal: Terminal) -> None:
    """A line that wraps could not be drawn over; whole lines are left as they are."""
    printer = Console(lambda: terminal).printer("f-1")
    printer.feed(b"\r" + b"x" * 200)
    assert terminal.screen == ["x" * 78 + "…"]
    printer.feed(b"\n")
    assert terminal.screen == ["x" * 200, ""]


def test_what_moves_the_cursor_is_left_out(terminal: Terminal) -> None:
    """A function's terminal is not the caller's: lines of others must not be overwritten. Colours are welcome."""
    printer = Console(lambda: terminal).printer("f-1")
    printer.feed(b"one\x1b[A\x1b[2K\n\x1b[31mred\x1b[0m\n")
    assert terminal.getvalue() == "one\n\x1b[31mred\x1b[0m\n"


def test_a_log_file_gets_the_state_now_and_then() -> None:
    """After one second, then two, four, up to every half minute; and the last state, once."""
    file, clock = io.StringIO(), Clock()
    printer = Console(lambda: file, clock).printer("f-1")
    for second in range(100):
        printer.feed(f"\r{second}%".encode())
        clock.now += 1
    printer.feed(b"\r100%\nnext\n")
    assert file.getvalue().split() == ["1%", "3%", "7%", "15%", "31%", "61%", "91%", "100%", "next"]


def test_a_line_without_an_end_waits_for_it_in_a_log_file() -> None:
    """Where it is drawn over by nothing, it is one line."""
    file, clock = io.StringIO(), Clock()
    printer = Console(lambda: file, clock).printer("f-1")
    for _ in range(50):
        printer.feed(b".")
        clock.now += 1
    assert file.getvalue() == ""
    printer.end()
    assert file.getvalue() == "." * 50 + "\n"


@pytest.mark.parametrize(
    ("printed", "shown"),
    [("a\r\nb\r\n", "a\nb\n"), ("a\rb\r   \r\n", "b\n"), ("\n\n", "\n\n"), ("a\r\r\r", "a\n"), ("\r\n", "\n")],
)
def test_carriage_returns_at_the_end_of_lines(printed: str, shown: str) -> None:
    """Windows' line ends, and bars that are wiped away."""
    file = io.StringIO()
    printer = Console(lambda: file).printer("f-1")
    printer.feed(printed.encode())
    printer.end()
    assert file.getvalue() == shown


def test_a_very_long_line_costs_no_more_than_short_ones() -> None:
    """What one call prints without a newline must not hold up all others; it is shown in pieces."""
    file = io.StringIO()
    printer = Console(lambda: file).printer("f-1")
    began = time.process_time()
    for _ in range(10_000):
        printer.feed(b"x" * 4096)
    printer.end()
    assert time.process_time() - began < 5  # it took minutes where each piece was added to all before it
    assert file.getvalue().count("x") == 40_960_000
    assert max(map(len, file.getvalue().splitlines())) < LINE_LIMIT + 5000


def test_a_signal_handler_that_prints_waits_for_nobody() -> None:
    """Whoever was interrupted while writing writes its lines too, after its own."""

    class Interrupted(io.StringIO):
        said = False

        def write(self, text: str) -> int:
            if not self.said:
                self.said = True
                console.say("from the handler")
            return super().write(text)

    stream = Interrupted()
    console = Console(lambda: stream)
    console.say("from the program")
    assert stream.getvalue() == "kubefunc: from the program\nkubefunc: from the handler\n"


def test_nothing_is_written_once_it_has_ended() -> None:
    """By no thread: one that prints while the interpreter ends would abort the process."""
    file = io.StringIO()
    console = Console(lambda: file)
    console.say("before")
    console.end()
    console.say("after")
    assert file.getvalue() == "kubefunc: before\n"


class Stopped(io.StringIO):
    """A terminal that takes nothing until it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def write(self, text: str) -> int:
        assert self.goes_on.wait(10)
        return super().write(text)


def test_a_thread_that_must_not_wait_waits_for_no_terminal() -> None:
    """Another one writes for it, in order. A result waits a moment for what was printed before it."""
    stream = Stopped()
    console = Console(lambda: stream)
    printer = console.printer("f-1")
    thread = QuickThread(target=lambda: [printer.feed(f"line {number}\n".encode()) for number in range(2000)])
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert stream.getvalue() == ""
    stream.goes_on.set()
    console.settle()
    console.say("done")
    console.settle()
    assert stream.getvalue().splitlines() == [*(f"line {number}" for number in range(2000)), "kubefunc: done"]


def test_the_thread_that_writes_for_others_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """And another one comes when there is something to write again."""
    monkeypatch.setattr("kubefunc.console.writing.WRITER_IDLE", 0.01)
    stream = io.StringIO()
    console = Console(lambda: stream)
    for count in (1, 2):
        thread = QuickThread(target=lambda: console.say("hello"))
        thread.start()
        thread.join(5)
        deadline = time.monotonic() + 5
        while any(each.name == "kubefunc-writes" for each in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert stream.getvalue() == "kubefunc: hello\n" * count

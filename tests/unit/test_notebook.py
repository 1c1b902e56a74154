"""What a notebook shows of calls, maps, gangs and pools: small HTML that is legible everywhere and runs nothing."""

from __future__ import annotations

import concurrent.futures
import html.parser
import io
import re
import sys
import types
from typing import Any

import pytest

from kubefunc import Pool, errors
from kubefunc.backends.base import Whereabouts
from kubefunc.console import Console
from kubefunc.diagnosis import Phase
from kubefunc.handles.call import Call
from kubefunc.html import COLOURS, LINE_MOST
from kubefunc.outcomes.attempts import View
from kubefunc.progress import MapProgress, Watch
from kubefunc.runner.protocol.records import Record
from kubefunc.session import Session
from tests.unit.by_hand import HandBackend, HandWork, raised_record, value_record
from tests.unit.test_gang_attempts import Made as MadeGang
from tests.unit.test_map_call import Made as MadeMap
from tests.unit.test_progress import Clock

HOSTILE = "</code><script>alert(1)</script><img src=x onerror=alert(1)>\"'&<a href='javascript:x'>\x1b[31m\u202e"


class Odd(errors.KubefuncError):
    """Nobody may see its text."""

    def __str__(self) -> str:
        raise RuntimeError


class Page(html.parser.HTMLParser):
    """What a browser makes of some HTML: its elements with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += attrs
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(handle: Any) -> Page:
    """What the handle shows in a notebook, which is harmless whatever it is about."""
    page = Page(handle._repr_html_())
    assert set(page.elements) <= {"div", "b", "span", "code"}
    assert {name for name, _ in page.attributes} <= {"style"}
    assert all("url" not in (value or "") and "expression" not in (value or "") for _, value in page.attributes)
    return page


def colours(page: Page) -> set[str]:
    """The states whose colours it has."""
    styles = " ".join(value or "" for _, value in page.attributes)
    return {state for state, colour in COLOURS.items() if colour in styles}


def a_call() -> tuple[Call[Any], View]:
    """A call that nobody has answered yet."""
    call: Call[Any] = Call("f-abcdefgh", "f", Session())
    call._work = HandWork(HandBackend(), call.id)
    return call, View(call._outcomes)


def ended(call: Call[Any], sink: View, record: Record) -> Call[Any]:
    """The call has this outcome."""
    sink.take([record])
    call.exception(timeout=20)
    return call


def test_a_call_says_where_it_is() -> None:
    """In a word and a colour, with what it waits for, its Pod and its node."""
    call, sink = a_call()
    assert re.search(r"submitting, sent \d+ s ago$", shown(call).text)
    sink.moved([0], Whereabouts(Phase.PENDING, "waiting for a node"))
    assert "pending, waiting for a node" in shown(call).text
    assert colours(shown(call)) == {"waiting"}
    sink.moved([0], Whereabouts(Phase.RUNNING, "", "f-abcdefgh-x", "node-1"))
    assert "running" in shown(call).text
    assert "Pod f-abcdefgh-x, node node-1" in shown(call).text
    assert colours(shown(call)) == {"running"}


def test_a_call_says_how_it_ended() -> None:
    """What it took; of one that failed the exception's first line; a cancelled one is just that."""
    header = {"outcome": "value", "peak_memory": 31 << 20}
    succeeded = ended(*a_call(), Record(0, 10.0, 12.5, 2, header, value_record(0, 1).body))
    assert shown(succeeded).text == "f-abcdefgh\u2002● succeeded, ran 2.5 s, attempt 2, peak memory 31 MiB"
    assert colours(shown(succeeded)) == {"succeeded"}
    failed = ended(*a_call(), raised_record(0, ValueError("no data\nfor you")))
    assert shown(failed).text == "f-abcdefgh\u2002● failed, ran 1 sValueError: no data"
    assert colours(shown(failed)) == {"failed"}
    cancelled, _ = a_call()
    cancelled.cancel()
    assert shown(cancelled).text == "f-abcdefgh\u2002● cancelled"


def test_a_value_is_not_unpickled_to_be_shown() -> None:
    """It may be large, and a look at the handle is no wish for it."""
    call, sink = a_call()
    sink.take([Record(0, 1.0, 2.0, 1, None, b"not a pickle")])
    assert concurrent.futures.wait([call], timeout=20).done
    assert "succeeded" in shown(call).text


def test_a_map_shows_its_counts_a_bar_and_its_first_failure() -> None:
    """Each state by a word and a colour; where items were just cancelled there is no failure to show."""
    made = MadeMap(6)
    made.sink.moved([1], Whereabouts(Phase.RUNNING))
    made.give((0, "a"))
    made.sink.take([raised_record(3, KeyError("x")), raised_record(2, ValueError("later"))])
    page = shown(made.map)
    assert page.text.startswith("f-abcdefgh\u20023 of 6 done, ● 2 failed, ● 1 running, ● 2 waiting")
    assert page.text.endswith("item 3: KeyError: 'x'")
    assert colours(page) == {"succeeded", "failed", "running", "waiting"}
    cancelled = MadeMap(2)
    cancelled.map.cancel()
    assert shown(cancelled.map).text == "f-abcdefgh\u20022 of 2 done, ● 2 cancelled"
    assert shown(MadeMap(0).map).text == "f-abcdefgh\u2002● 0 of 0 done"


def test_a_gang_shows_its_ranks() -> None:
    """And why it failed."""
    made = MadeGang()
    assert "gang of" in shown(made.gang).text
    made.sink(1).fail([1], errors.WorkerDiedError("killed by SIGKILL"))
    assert "rank 1: WorkerDiedError: killed by SIGKILL" in shown(made.gang).text


def test_a_pool_shows_its_workers() -> None:
    """How many there are, and may be."""
    assert shown(Pool(max_workers=8, idle_timeout=60)).text == (
        "Pool\u20020 workers, at most 8, each ends after 60 s without a call"
    )


@pytest.mark.parametrize("text", [HOSTILE, "x" * 100_000, "", "\n\n"])
def test_what_functions_and_clusters_say_is_text(text: str) -> None:
    """Markup in it is shown, not obeyed; it cannot turn the line around, and it has an end."""
    call, sink = a_call()
    sink.moved([0], Whereabouts(Phase.PENDING, text))
    assert "\x1b" not in shown(call).text
    made = MadeMap(2)
    made.sink.take([raised_record(0, ValueError(text))])
    for handle in (ended(call, sink, raised_record(0, ValueError(text))), made.map):
        page = shown(handle)
        assert not {"\x1b", "\u202e", "\n"} & set(page.text)
        assert len(page.text) < LINE_MOST + 200
        assert text != HOSTILE or "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&<a href=" in page.text


def test_an_exception_that_cannot_be_printed_hides_nothing() -> None:
    """Its type is shown."""
    call, sink = a_call()
    sink.fail([0], Odd("x"))
    call.exception(timeout=20)
    assert shown(call).text == "f-abcdefgh\u2002● failedOdd: <its __str__ raised>"


# -- the display of a map's progress


class Handle:
    """IPython's handle of one display."""

    def __init__(self, content: dict[str, str]) -> None:
        self.states = [content]

    def update(self, content: dict[str, str], *, raw: bool) -> None:
        self.states.append(content)


class Notebook:
    """As much of IPython as a display needs: a shell with the number of its execution."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.execution_count = 1
        self.displays: list[Handle] = []
        ipython, module = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        ipython.get_ipython = lambda: self  # type: ignore[attr-defined]
        module.display = self.display  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", module)

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        self.displays.append(Handle(content))
        return self.displays[-1]

    def plain(self) -> list[str]:
        """What is shown now, by display."""
        return [display.states[-1]["text/plain"] for display in self.displays]


class CellStream(io.StringIO):
    """Where a cell's stderr goes."""


CellStream.__module__ = "ipykernel.iostream"


def test_figures_and_time_left_stand_before_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one display, which is updated while somebody waits and ends as the line that says how the map ended."""
    notebook, clock, stream = Notebook(monkeypatch), Clock(), CellStream()
    states = [MapProgress(1000, 588, 12, 398, 2, 0, "waiting for a node", 4), MapProgress(1000, 0, 0, 998, 2, 0)]
    watch = Watch("f-abc", lambda: states[0], Console(lambda: stream), clock)
    for _ in range(50):
        watch.tick()
        clock.now += 1
    (display,) = notebook.displays
    assert len(display.states) == 49
    assert notebook.plain()[0].startswith("f-abc  400 of 1,000 done, 2 failed, ")
    text = display.states[-1]["text/html"]
    assert text.index("400 of 1,000 done") < text.index(" s left") < text.index("display:flex")
    states.pop(0)
    watch.pause()
    assert notebook.plain() == ["f-abc  998 of 1,000 succeeded, 2 failed, in 50 s"]
    assert stream.getvalue() == ""


def test_a_display_belongs_to_a_map_and_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that goes on while other cells run keeps its display; the next wait, in another cell, has one more."""
    notebook, clock = Notebook(monkeypatch), Clock()
    console = Console(CellStream)
    now = MapProgress(10, 5, 0, 5, 0, 0)
    one, two = (Watch(name, lambda: now, console, clock) for name in ("f-1", "f-2"))

    def tick(watch: Watch) -> list[str]:
        clock.now += 1
        watch.tick()
        return [plain.split("  ")[0] for plain in notebook.plain()]

    assert tick(one) == ["f-1"]
    notebook.execution_count = 2
    assert tick(one) == ["f-1"]
    assert tick(two) == ["f-1", "f-2"]
    one.pause()
    assert tick(one) == ["f-1", "f-2", "f-1"]
    one.pause()
    assert tick(one) == ["f-1", "f-2", "f-1"]
    assert notebook.displays[0].states[-1] == notebook.displays[2].states[-1]

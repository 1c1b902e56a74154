"""What commands print: tables, times, JSON, and text from the cluster that must not steer the terminal."""

from __future__ import annotations

import codecs
import datetime
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from kubefunc.console import cells

STYLES = {
    "succeeded": "green",
    "failed": "red",
    "running": "cyan",
    "starting": "yellow",
    "pending": "yellow",
    "queued": "magenta",
}
GAP = 2


def visible(text: str) -> str:
    """Text in one line, with what a terminal would obey made visible.

    Names and labels come from the cluster: who may write Jobs there chooses them.

    >>> print(visible("train\\x1b[2J\\n"))
    train\\x1b[2J\\n
    """
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def visible_lines(text: str) -> str:
    """The same for text of several lines.

    >>> print(visible_lines("one\\n\\x1b]0;two"))
    one
    \\x1b]0;two
    """
    return "\n".join(visible(line) for line in text.split("\n"))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


# -- logs on a terminal

_STYLE = re.compile(r"\x1b\[[0-9;:]*m")
_STYLE_BEGUN = re.compile(r"\x1b(?:\[[0-9;:]{0,40})?\Z")
_OBEYED = "\n\t\r"


class TerminalText:
    """Makes what a function prints safe for a terminal: colours stay, everything else that it would obey is shown.

    A carriage return stays, since progress bars need it.

    >>> text = TerminalText(colours=True)
    >>> text.feed(b"\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07 \\x1b[") + text.feed(b"2J") + text.end()
    '\\x1b[31mred\\x1b[0m \\\\x1b]0;title\\\\x07 \\\\x1b[2J'
    """

    def __init__(self, *, colours: bool) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._colours = colours
        self._begun = ""
        self._styled = False

    def feed(self, data: bytes) -> str:
        """The text of these bytes; the beginning of a sequence waits for its end."""
        text = self._begun + self._decoder.decode(data)
        begun = _STYLE_BEGUN.search(text)
        self._begun = begun[0] if begun else ""
        return self._safe(text[: len(text) - len(self._begun)])

    def end(self) -> str:
        """What is left, and the end of a colour that was not ended."""
        rest = self._safe(self._begun + self._decoder.decode(b"", final=True))
        self._begun = ""
        return rest + ("\x1b[0m" if self._styled else "")

    def _safe(self, text: str) -> str:
        parts: list[str] = []
        at = 0
        for style in _STYLE.finditer(text):
            parts.append(_shown_controls(text[at : style.start()]))
            if self._colours:
                parts.append(style[0])
                self._styled = style[0] not in ("\x1b[0m", "\x1b[m")
            at = style.end()
        return "".join((*parts, _shown_controls(text[at:])))


def _shown_controls(text: str) -> str:
    return "".join(each if each in _OBEYED or not _is_control(each) else _escaped(each) for each in text)


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"


# -- tables


@dataclass(frozen=True)
class Column:
    """``weight``: where a terminal is too narrow, columns of the least weight are left out; 0 is never."""

    title: str
    weight: int = 0


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Columns for a person on a terminal, in colours; as plain text, whole, where the output goes elsewhere.

    Colours follow https://no-color.org: rich reads ``NO_COLOR``.
    """
    rows = [[visible(cell) for cell in row] for row in rows]
    if not on_terminal():
        click.echo(plain_table([column.title for column in columns], rows))
        return
    width = shutil.get_terminal_size().columns
    kept = fitting(columns, rows, width)
    columns, rows = [columns[position] for position in kept], [[row[position] for position in kept] for row in rows]
    titles = [column.title for column in columns]
    if _width(titles, rows) > width:  # the terminal breaks the lines: an id that we break could not be copied
        click.echo(plain_table(titles, rows))
    else:
        _print_rich(titles, rows, width)


def plain_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, as kubectl prints them.

    >>> print(plain_table(["ID", "STATE"], [["f-abc", "running"], ["g", "failed"]]))
    ID     STATE
    f-abc  running
    g      failed
    """
    widths = _widths(titles, rows)
    lines = (
        (" " * GAP).join(cell + " " * (width - cells(cell)) for cell, width in zip(row, widths, strict=True))
        for row in (titles, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The positions of the columns that a terminal of this width holds.

    >>> fitting([Column("ID"), Column("USER", 1), Column("STATE", 2)], [["f-abc", "ada", "running"]], 16)
    [0, 2]
    """
    titles = [column.title for column in columns]
    kept = list(range(len(columns)))
    while _width([titles[at] for at in kept], [[row[at] for at in kept] for row in rows]) > width:
        optional = [position for position in kept if columns[position].weight]
        if not optional:
            break
        kept.remove(min(optional, key=lambda position: columns[position].weight))
    return kept


def _width(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return sum(width + GAP for width in _widths(titles, rows)) - GAP


def _widths(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(cells(cell) for cell in column) for column in zip(titles, *rows, strict=True)]


def _print_rich(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console(width=width, highlight=False).print(table)


def on_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def styled(text: str, state: str) -> str:
    """The text in a state's colour, on a terminal that wants colours."""
    if not on_terminal() or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=STYLES.get(state))


# -- times


def age(since: str, until: datetime.datetime) -> str:
    """How long ago this was, as kubectl writes it; empty where it is not known.

    >>> now = datetime.datetime(2026, 11, 27, 12, 0, 0, tzinfo=datetime.timezone.utc)
    >>> [age(text, now) for text in ("2026-11-27T11:59:13Z", "2026-11-27T11:50:30Z", "2026-11-25T11:00:00Z", "")]
    ['47s', '9m30s', '2d1h', '']
    """
    begun = moment(since)
    return duration((until - begun).total_seconds()) if begun is not None else ""


def moment(written: str) -> datetime.datetime | None:
    """A time as Kubernetes writes it; None for anything else."""
    try:
        read = datetime.datetime.fromisoformat(written.replace("Z", "+00:00"))
    except ValueError:
        return None
    return read if read.tzinfo is not None else None


def duration(seconds: float) -> str:
    """Seconds in the two largest units that say something.

    >>> duration(7), duration(75), duration(7200), duration(90000)
    ('7s', '1m15s', '2h', '1d1h')
    """
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number}{unit}")
        elif parts:
            break
    return "".join(parts[:2])


# -- JSON


def print_json(value: object) -> None:
    """One JSON document; ASCII alone, so that nothing in it steers a terminal."""
    click.echo(json.dumps(value, indent=2))


def as_json(value: object) -> Any:
    """The value, where JSON has one like it; raises TypeError or ValueError where not.

    >>> as_json({"a": (1, 2)})
    {'a': [1, 2]}
    """
    return json.loads(json.dumps(value, allow_nan=False))


def labelled(pairs: Mapping[str, str]) -> str:
    """Lines of a name and a value; those without a value are left out."""
    shown = {name: visible(value) for name, value in pairs.items() if value}
    width = max((len(name) for name in shown), default=0)
    return "\n".join(f"  {name:{width}}  {value}" for name, value in shown.items())

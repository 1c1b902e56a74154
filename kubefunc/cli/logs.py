"""``kubefunc logs``: what functions have printed."""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from collections.abc import Iterator

import click

from kubefunc.backends.operations import LogPiece, LogWish, StoredCall
from kubefunc.cli.place import CallId, Place, json_option, with_place
from kubefunc.cli.shown import TerminalText, visible

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")


class Duration(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic from click 8.2 on
    """``30s``, ``5m``, ``1h30m``, ``2d``."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        text = str(value)
        if not _DURATION.fullmatch(text):
            self.fail(f"{text!r} is not a duration such as 30s, 5m, 1h30m or 2d.", param, ctx)
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", text))


@click.command()
@with_place
@click.argument("call", metavar="ID", type=CallId())
@click.option("-f", "--follow", is_flag=True, help="Go on until the call has ended.")
@click.option("--since", type=Duration(), help="Only what was printed in this time: 30s, 5m, 1h.")
@click.option("--tail", type=click.IntRange(min=0), help="Only so many last lines of each Pod.")
@click.option("--timestamps", is_flag=True, help="Begin each line with its time.")
@click.option("--raw", is_flag=True, help="Also on a terminal: every byte as it was printed.")
@json_option
def logs(
    *,
    place: Place,
    call: str,
    follow: bool,
    since: float | None,
    tail: int | None,
    timestamps: bool,
    raw: bool,
    json_wanted: bool,
) -> None:
    """Print what a call's function has printed. Lines of a map begin with the number of the Pod.

    On a terminal, colours are obeyed and other control sequences are shown as text: what a function prints must not
    rewrite your screen. In a file or a pipe, and with --raw, every byte is as it was printed.
    """
    found = place.find(call)
    wish = LogWish(follow=follow, since=since, timestamps=timestamps, tail=tail)
    pieces = _or_nothing(
        found, place.operations.logs(found, wish, lambda text: click.echo(f"kubefunc: {visible(text)}", err=True))
    )
    if json_wanted:
        _print_lines_as_json(pieces)
    elif sys.stdout.isatty() and not raw:
        _print_on_terminal(pieces)
    else:
        _print_raw(pieces)


def _or_nothing(call: StoredCall, pieces: Iterator[LogPiece]) -> Iterator[LogPiece]:
    """The pieces; where there are none, a line says so."""
    first = next((each for each in pieces if each.data), None)
    if first is None:
        why = "" if call.is_finished else f": it is {call.state}"
        click.echo(f"kubefunc: {call.id} has printed nothing{why}", err=True)
        return
    yield first
    yield from pieces


def _print_raw(pieces: Iterator[LogPiece]) -> None:
    out = sys.stdout.buffer
    for piece in pieces:
        out.write(_prefix(piece).encode() + piece.data)
        out.flush()


def _print_on_terminal(pieces: Iterator[LogPiece]) -> None:
    text = TerminalText(colours=not os.environ.get("NO_COLOR"))
    try:
        for piece in pieces:
            sys.stdout.write(_prefix(piece) + text.feed(piece.data))
            sys.stdout.flush()
    finally:
        sys.stdout.write(text.end())
        sys.stdout.flush()


def _prefix(piece: LogPiece) -> str:
    return "" if piece.index is None else f"[{piece.index}] "


def _print_lines_as_json(pieces: Iterator[LogPiece]) -> None:
    """A document for each line: a log that is followed has no end to wait for."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + decoder.decode(piece.data)).split("\n")
        for line in whole:
            click.echo(json.dumps({"pod_index": piece.index, "line": line}))
    if rest:
        click.echo(json.dumps({"pod_index": None, "line": rest}))

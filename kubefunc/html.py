"""Small pieces of HTML for notebooks. No script, no link, no style sheet; everything from outside is escaped.

Text has the page's own colour, and states have a colour of middle brightness beside their word: both can be read on
white and on black, and where a page drops styles the words remain.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

GREY = "#8b9199"
COLOURS = {"succeeded": "#2a9d5c", "failed": "#dc4a41", "cancelled": "#b97d10", "running": "#2a8fc7", "waiting": GREY}
LINE_MOST = 300  # characters of one line below a card
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")  # moves text, or is invisible


def card(
    name: str,
    parts: Sequence[tuple[str, str]],
    shares: Sequence[tuple[int, str]] = (),
    below: Sequence[str] = (),
) -> str:
    """A name and what there is to say of it, as HTML.

    >>> print(card("f-1", [("failed", "failed"), ("in 2 s", "")], below=["<b>"]))
    <div style="font-size:13px;line-height:1.6"><b>f-1</b>&ensp;<span style="color:#dc4a41">●</span> failed, in 2 s\
<div><code>&lt;b&gt;</code></div></div>

    Args:
        name: what it is about.
        parts: texts, each with the state that it is about, a key of ``COLOURS``, or with none.
        shares: the parts of a bar: how many are in which state.
        below: lines in a fixed width.
    """
    said = ", ".join(f"{_dot(state)}{_text(part)}" for part, state in parts)
    lines = "".join(f"<div><code>{_text(_shortened(line))}</code></div>" for line in below)
    return f'<div style="font-size:13px;line-height:1.6"><b>{_text(name)}</b>&ensp;{said}{_bar(shares)}{lines}</div>'


def _dot(state: str) -> str:
    colour = COLOURS.get(state)
    return f'<span style="color:{colour}">●</span> ' if colour else ""


def _bar(shares: Sequence[tuple[int, str]]) -> str:
    total = sum(count for count, _ in shares)
    if not total:
        return ""
    pieces = "".join(
        f'<div style="width:{100 * count / total:.2f}%;background-color:{COLOURS[state]}"></div>'
        for count, state in shares
        if count
    )
    return f'<div style="display:flex;height:6px;max-width:480px;margin:3px 0;background-color:{GREY}">{pieces}</div>'


def _shortened(line: str) -> str:
    return line if len(line) <= LINE_MOST else f"{line[: LINE_MOST - 1]}…"


def _text(text: str) -> str:
    return html.escape(_CONTROL.sub(" ", text))

"""Streams that people look at: terminals, log files and notebooks; what they can do, and how wide a text is there."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import unicodedata
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

NOTEBOOK_EVERY = 0.1  # seconds between two updates of a notebook's output
_STYLES = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class _Shown:
    """What an owner shows.

    Attributes:
        handles: IPython's handles of its displays, one for each cell that has waited for it. All show the same.
        cell: the number of the execution that got the last one.
        is_left: nobody waits for the owner just now. A wait in another cell gets another display.
    """

    handles: list[Any]
    cell: object
    is_left: bool = False


class NotebookOutput:
    """Outputs of a notebook's cells, updated in place: one for each owner in each cell that waits for it.

    What goes to a notebook's stderr is stored for good, each piece an output of its own: a line that is drawn over and
    over would leave hundreds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._shown: weakref.WeakKeyDictionary[object, _Shown] = weakref.WeakKeyDictionary()
        self._updated_at = 0.0

    def update(self, text: str) -> None:
        """Show a line of output that has no end yet, not more often than a person sees."""
        if self._clock() - self._updated_at < NOTEBOOK_EVERY:
            return
        self._updated_at = self._clock()
        known = self._shown.get(self)
        if known is not None and known.cell != getattr(_shell(), "execution_count", None):
            self.release(self)
        self.show(self, text, "")

    def clear(self) -> None:
        """That line has its end, and stands elsewhere."""
        if self._shown.get(self) is not None:
            self._updated_at = 0.0
            self.show(self, "", "")

    def show(self, owner: object, text: str, html: str) -> None:
        """Replace what the owner's displays show, or begin with one."""
        shell = _shell()
        if shell is None:
            return
        from IPython.display import display

        content = {"text/plain": text, **({"text/html": html} if html else {})}
        known = self._shown.setdefault(owner, _Shown([], None, is_left=True))
        show: Any = display
        try:
            for handle in known.handles:
                handle.update(content, raw=True)
            if known.is_left and known.cell != shell.execution_count:
                known.cell = shell.execution_count
                known.handles.append(show(content, raw=True, display_id=True))
            known.is_left = False
        except Exception:  # noqa: BLE001 - its kernel is going: no call is lost
            return

    def leave(self, owner: object) -> None:
        """Nobody waits for the owner just now."""
        known = self._shown.get(owner)
        if known is not None:
            known.is_left = True

    def release(self, owner: object) -> None:
        """The owner's displays stay as they are."""
        self._shown.pop(owner, None)


def _shell() -> Any:
    """The notebook's, or None."""
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


def cells(text: str) -> int:
    """How many cells of a terminal the text takes; escape sequences take none.

    >>> cells("ab"), cells("日本"), cells("e\\u0301")
    (2, 4, 1)
    """
    return sum(_cells_of(each) for each in _STYLES.sub("", text))


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """The beginning of the text that so many cells hold, without colours where it must be cut.

    >>> fit("epoch 1", 20), fit("a very long line", 8)
    ('epoch 1', 'a very …')
    """
    if cells(text) <= width:
        return text
    kept, left = [], width - 1
    for each in _STYLES.sub("", text):
        left -= _cells_of(each)
        if left < 0:
            break
        kept.append(each)
    return "".join(kept) + "…"


def put(stream: TextIO, text: str) -> None:
    """Write the text, whatever the stream is and knows: no call is lost by it."""
    try:
        stream.write(text)
        stream.flush()
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except RuntimeError:  # "reentrant call": a signal handler speaks while the program itself is writing
        _put_below(stream, text)
    except Exception:  # noqa: BLE001 - closed, its reader has left, or it is anyone's class: no call is lost
        return


def _put_below(stream: TextIO, text: str) -> None:
    """Write to the stream's file itself, past the buffer that is in use."""
    with contextlib.suppress(Exception):
        os.write(stream.fileno(), text.encode(getattr(stream, "encoding", None) or "utf-8", "backslashreplace"))


def is_notebook(stream: TextIO) -> bool:
    """Whether a cell of a notebook shows what is written there."""
    return type(stream).__module__.startswith("ipykernel")


def redraws(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a line there can be drawn over."""
    if is_notebook(stream):
        return True
    try:
        return stream.isatty() and environ.get("TERM") != "dumb"
    except Exception:  # noqa: BLE001 - as above
        return False


def others_draw() -> bool:
    """Whether a bar of tqdm or a display of rich is on the screen: two of them would spoil each other."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if getattr(tqdm, "_instances", None):
        return True
    console = getattr(sys.modules.get("rich"), "_console", None)
    return bool(getattr(console, "_live", None) or getattr(console, "_live_stack", None))

"""What SIGTERM does to a program with calls: by default it would end without a word, and leave its Jobs behind."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from kubefunc import current
from kubefunc.runner.execution import sigterm

LISTED = 20  # ids that the line names


class SigtermHandler:
    """Does what is to be done before SIGTERM ends this program, which it then does as if there were no handler."""

    def __init__(self, before_the_end: Callable[[], None]) -> None:
        self._before_the_end = before_the_end
        self._guard = sigterm.ForkGuard(self)

    def install(self) -> None:
        """Handle SIGTERM from now on, unless the program or the runner of a Pod does.

        Only the main thread can; calls of other threads are told of once it has made one, too.
        """
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL or current.call_id() is not None:
            return
        if threading.current_thread() is threading.main_thread():
            with contextlib.suppress(ValueError):  # in a subinterpreter nobody may
                signal.signal(signal.SIGTERM, self)
                self._guard.register()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """May also be called by a handler of the program's, which then decides how the program goes on."""
        ends = signal.getsignal(signal.SIGTERM) is self
        if ends:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the program at once
        try:
            self._before_the_end()
        finally:
            if ends:
                sigterm.die()


def what_goes_on(calls: Sequence[str], longest: float) -> str:
    """The line that SIGTERM leaves behind.

    >>> print(what_goes_on(["team/train-x7k2p5qax7k2p5qa"], 7 * 86400))
    SIGTERM ends this program. Its unfinished call goes on, for 7 days at most: team/train-x7k2p5qax7k2p5qa. \
kubefunc.attach(id), or attach_map(id) of a map, follows it: result() collects, cancel() ends it. \
on_sigterm="cancel" would cancel it.

    Args:
        calls: their addresses.
        longest: seconds from the submission to the latest deadline of them.
    """
    one = len(calls) == 1
    more = f" and {len(calls) - LISTED} more" if len(calls) > LISTED else ""
    return (
        f"SIGTERM ends this program. Its unfinished {'call goes' if one else 'calls go'} on, for {_span(longest)} at "
        f"most: {', '.join(calls[:LISTED])}{more}. kubefunc.attach(id), or attach_map(id) of a map, follows "
        f"{'it' if one else 'one'}: result() collects, cancel() ends it. "
        f'on_sigterm="cancel" would cancel {"it" if one else "them"}.'
    )


def what_ends(calls: Sequence[str]) -> str:
    """The line about calls that do not outlive the program.

    >>> print(what_ends(["train-x7k2p5qax7k2p5qa"]))
    SIGTERM ends this program and its unfinished call (train-x7k2p5qax7k2p5qa)
    """
    what = "its unfinished call" if len(calls) == 1 else f"its {len(calls)} unfinished calls"
    more = f" and {len(calls) - LISTED} more" if len(calls) > LISTED else ""
    return f"SIGTERM ends this program and {what} ({', '.join(calls[:LISTED])}{more})"


def _span(seconds: float) -> str:
    """Roughly, for a person.

    >>> _span(90), _span(5400), _span(7 * 86400)
    ('90 s', '90 min', '7 days')
    """
    if seconds < 600:
        return f"{seconds:.0f} s"
    if seconds < 6 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"

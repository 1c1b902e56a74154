"""A program on a terminal: a pseudo-terminal of a given width, with a person who types."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

CTRL_C = b"\x03"


def on_terminal(
    command: Sequence[str], env: Mapping[str, str], *, columns: int = 100, answers: Sequence[tuple[str, bytes]] = ()
) -> tuple[int, str]:
    """Exit code and screen output of a command.

    Args:
        command: the program and its arguments.
        env: its environment.
        columns: how wide the terminal is.
        answers: what the person types once a text has appeared, one after another.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")},
        start_new_session=True,
        preexec_fn=_control,
    )
    os.close(theirs)
    try:
        screen = _talk(ours, list(answers))
        return process.wait(30), screen
    finally:
        process.kill()
        os.close(ours)


def _control() -> None:
    """Make it the controlling terminal: Ctrl-C is a signal to the program then."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _talk(ours: int, answers: list[tuple[str, bytes]]) -> str:
    screen, typed = b"", b""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if select.select([ours], [], [], 2.0)[0]:
            try:
                data = os.read(ours, 65536)
            except OSError:  # Linux: the program has ended
                return screen.decode()
            if not data:
                return screen.decode()
            screen += data
        elif typed == CTRL_C:  # it may have come just before readline began to wait, which Python then misses
            os.write(ours, CTRL_C)
        if answers and answers[0][0].encode() in screen:
            typed = answers.pop(0)[1]
            os.write(ours, typed)
    raise AssertionError(f"the program has not ended: {screen!r}")

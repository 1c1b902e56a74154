"""Threads that do what they are given, and the main thread, which helps at exit."""

from __future__ import annotations

import threading

import pytest

from kubefunc.backends.kubernetes.threads import Workers


def interrupted() -> None:
    """Ctrl-C comes while this runs."""
    raise KeyboardInterrupt


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="only it gets signals")
def test_ctrl_c_ends_the_help_of_the_main_thread() -> None:
    """It is to leave at once, not to go on with what else waits."""
    workers = Workers("nobody", 0)
    workers.do(interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.drain(10)
    assert workers.drain(10)


def test_what_fails_costs_no_thread(capsys: pytest.CaptureFixture[str]) -> None:
    """It is printed, and the next one is done."""
    workers, done = Workers("one", 1), threading.Event()
    workers.do(interrupted)
    workers.do(done.set)
    assert done.wait(10)
    assert "KeyboardInterrupt" in capsys.readouterr().err

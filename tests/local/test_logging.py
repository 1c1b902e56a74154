"""What kubefunc logs on this machine: that calls start and end, and never what they carry."""

from __future__ import annotations

import logging

import pytest

from kubefunc import remote

ARGUMENT, RESULT, VARIABLE, PRINTED = (f"{word}-never-to-be-logged" for word in ("argument", "result", "env", "print"))
pytestmark = pytest.mark.usefixtures("forked")


@remote(env={"SECRET_SETTING": VARIABLE})
def carry(argument: str) -> str:
    """Something of each kind that must not be logged."""
    print(PRINTED)
    return RESULT.upper() + argument[:0]


def test_the_log_tells_that_a_call_started_and_ended(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At INFO, by the call's id; no argument, result, variable or output is in it."""
    monkeypatch.setenv("KUBEFUNC_BACKEND", "local")
    with caplog.at_level(logging.DEBUG, logger="kubefunc"):
        call = carry.remote(ARGUMENT)
        assert call.result(30) == RESULT.upper()
    written = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("kubefunc"))
    assert f"{call.id}: pending -> running" in written
    assert f"{call.id}: running -> over\n" in f"{written}\n"  # with no reason, as it has a result
    assert [text for text in (ARGUMENT, RESULT, RESULT.upper(), VARIABLE, PRINTED) if text in written] == []


def test_nothing_is_logged_to_the_terminal_unasked() -> None:
    """The loggers have no handler of ours."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("kubefunc")]
    assert names
    assert [name for name in names if logging.getLogger(name).handlers] == []

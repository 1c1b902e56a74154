"""What is missing where a function runs is named, with the way out: once, and the same wherever it was imported."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import Envelope, Raised, outcome
from kubefunc.runner.execution import causes, child, reports

IN_A_POD = Diagnosis("", "", call="f-x7k2p5qa", namespace="science", pod="f-x7k2p5qa-abcde")
HERE = Diagnosis("", "", call="f-x7k2p5qa")


def raised(work: Callable[[], object]) -> BaseException:
    """What it raises."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
        work()
    return caught.value


def no_module() -> None:
    """A package that nobody has."""
    import no_such_package.part  # noqa: F401


def no_variable() -> str:
    """A variable of the caller's own."""
    return os.environ["ONLY_HERE"]


def no_file() -> str:
    """A file of the caller's own."""
    return Path("/only/here.csv").read_text()


def wrapped() -> None:
    """As libraries do it with what they need."""
    try:
        no_module()
    except ImportError as error:
        raise RuntimeError("install it") from error


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (no_module, {"module": "no_such_package"}),
        (wrapped, {"module": "no_such_package"}),
        (no_variable, {"variable": "ONLY_HERE"}),
        (no_file, {"file": "/only/here.csv"}),
        (lambda: {}["ONLY_HERE"], {}),
        (lambda: os.environ[5], {}),  # type: ignore[index]
        (lambda: 1 / 0, {}),
    ],
)
def test_what_is_missing_is_found_in_the_chain(work: Callable[[], object], expected: dict[str, str]) -> None:
    """A module, a variable of the environment, a file; no other KeyError is one of these."""
    assert causes.missing_here(raised(work)) == expected


def test_the_cause_is_told_with_its_line() -> None:
    """That of the caller's code, not of the standard library below it."""
    text = causes.told(raised(no_variable))
    line = no_variable.__code__.co_firstlineno + 2
    assert text == f"KeyError: 'ONLY_HERE' (test_causes.py, line {line})"
    assert len(causes.told(ValueError("x" * 10_000))) < 1_000


def load_error(work: Callable[[], object], known: Diagnosis = IN_A_POD) -> str:
    """The message where this was raised while the function was loaded."""
    header, body = child.cannot_load(raised(work), lambda: reports.Body(os.devnull), child.PICKLED)
    ended = outcome(Envelope(header, memoryview(body.content())), known)
    assert isinstance(ended, Raised)
    return str(ended.error)


@pytest.mark.parametrize(
    ("work", "cause", "advice"),
    [
        (no_module, "No module named 'no_such_package'", "packages=['no_such_package']"),
        (
            no_variable,
            "KeyError: 'ONLY_HERE'",
            "Your environment variables are not sent. Pass this one, env={'ONLY_HERE'",
        ),
        (no_file, "FileNotFoundError", "only files inside your own packages are sent"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero", "Compare the versions"),
    ],
)
def test_a_load_error_names_its_cause_and_what_fits(work: Callable[[], object], cause: str, advice: str) -> None:
    """In the text of the error itself."""
    text = load_error(work)
    assert cause in text
    assert advice in text


def notes(work: Callable[[], object], known: Diagnosis) -> list[str]:
    """Those of an exception that the function raised, and it is shown once."""
    header, body = child.invoke(work, (), {}, (), lambda: reports.Body(os.devnull), child.PICKLED)
    ended = outcome(Envelope(header, memoryview(body.content())), known)
    assert isinstance(ended, Raised)
    shown = "".join(traceback.format_exception(ended.error))
    told: list[str] = getattr(ended.error, "__notes__", [])
    assert all(shown.count(note) <= 1 for note in told)
    return told


def test_the_same_advice_inside_the_function() -> None:
    """It stands once, as a note; on this machine there is none, as all that is here is there."""
    for work in (no_module, no_variable):
        (note,) = notes(work, IN_A_POD)
        assert note.removeprefix("kubefunc: ") in load_error(work)
        assert notes(work, HERE) == []
    assert notes(no_file, IN_A_POD) == []

"""How a generator on this machine ends when its consumer leaves: where there is fork, after its clean-up."""

from __future__ import annotations

import gc
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from tests.local.streaming import WITHIN, busy_after_one, later_with_marks, marked, noted, until

pytestmark = pytest.mark.usefixtures("forked")


def test_close_ends_the_generator_at_its_yield(marks: Path) -> None:
    """It gets GeneratorExit there, and its ``finally:`` runs."""
    stream = marked.options(stream_ahead=1).remote(str(marks))
    assert next(stream) == 0
    until(lambda: "1" in noted(marks))
    stream.close()
    assert list(stream) == []
    until(lambda: noted(marks)[-2:] == ["closed", "finally"])
    with pytest.raises(CancelledError):
        stream.result(WITHIN)


def test_leaving_the_loop_ends_the_generator(marks: Path) -> None:
    """Once nothing refers to the stream any more."""
    for value in marked.remote(str(marks)):
        if value == 2:
            break
    gc.collect()
    until(lambda: noted(marks)[-1] == "finally")


def test_an_async_generator_is_closed_like_any_other(marks: Path) -> None:
    """It gets GeneratorExit at its ``yield``, too."""
    stream = later_with_marks.options(stream_ahead=1).remote(str(marks))
    assert next(stream) == 0
    stream.close()
    until(lambda: "finally" in noted(marks))


def test_a_generator_that_is_busy_is_interrupted(marks: Path) -> None:
    """It need not come to its ``yield``."""
    with busy_after_one.remote(str(marks)) as stream:
        assert next(stream) == 0
    until(lambda: noted(marks) == ["finally"])

"""Putting together what a function printed, from a log and from the end that came with the result."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubefunc.backends.kubernetes.results.output import assembled


@given(st.binary(max_size=60), st.data())
def test_log_and_tail_that_meet_give_every_byte_once(printed: bytes, data: st.DataObject) -> None:
    """Wherever the log ends, as long as the tail goes on from there or before, nothing is missing or doubled."""
    size = len(printed)
    tail = printed[size - data.draw(st.integers(0, size)) :]
    log = printed[: data.draw(st.integers(size - len(tail), size))]
    passed = data.draw(st.integers(0, size))
    assert assembled(log, tail, passed, size) == printed[passed:]


def test_a_log_that_stops_short_says_how_much_is_missing() -> None:
    """A gap is never closed in silence."""
    joined = assembled(b"0123", b"89", 0, 10)
    assert joined.startswith(b"0123")
    assert joined.endswith(b"89")
    assert b"4 bytes" in joined


def test_a_rotated_log_says_that_its_beginning_is_gone() -> None:
    """The node has only the newest part; what was shown live is not counted as missing."""
    joined = assembled(b"6789", b"89", 2, 10)
    assert joined.endswith(b"6789")
    assert b"4 bytes" in joined


def test_a_rotated_log_that_still_has_all_that_was_not_shown() -> None:
    """Aligned at its end, no gap is claimed."""
    assert assembled(b"6789", b"89", 7, 10) == b"789"

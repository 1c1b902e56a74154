"""How long an attempt may take."""

from __future__ import annotations

from pathlib import Path

from kubefunc.runner.execution.attempts import STACKS_LATE, Clock


def test_a_timeout_waits_for_its_stacks_but_not_for_ever(tmp_path: Path) -> None:
    """On a busy node the thread that writes them comes late: without them nobody sees where the function hung."""
    clock = Clock()
    clock.set("timeout", 0.0)
    assert clock.is_over()
    assert clock.waits_for(str(tmp_path / "stacks"))
    assert not clock.is_over()
    (tmp_path / "stacks").write_text("Thread 1")
    assert not clock.waits_for(str(tmp_path / "stacks"))
    clock.set("timeout", 0.0)
    assert [clock.waits_for(str(tmp_path / "none")) for _ in range(STACKS_LATE + 1)] == [True] * STACKS_LATE + [False]


def test_other_ends_do_not_wait_for_stacks(tmp_path: Path) -> None:
    """Who was asked to end, or does not end by itself, leaves none."""
    clock = Clock()
    clock.set("end", 0.0)
    assert not clock.waits_for(str(tmp_path / "stacks"))

"""How figures get into docs/benchmarks.md."""

from __future__ import annotations

import pytest

from tests.bench.__main__ import PAGE, with_figures
from tests.bench.figures import at_most, row


def test_figures_replace_those_of_their_kind_alone() -> None:
    """What people wrote around them, and the other kind's figures, stay."""
    page = "a\n<!-- local figures -->\nold\n<!-- end -->\nb\n<!-- cluster figures -->\nkept\n<!-- end -->\n"
    changed = with_figures(page, "local", r"new \1")
    assert changed == page.replace("old", "\n" + r"new \1" + "\n")
    assert with_figures(changed, "local", r"new \1") == changed


@pytest.mark.parametrize("kind", ["local", "cluster", "pool", "packages"])
def test_the_page_has_a_place_for_each_kind(kind: str) -> None:
    """Else a long measurement would end in an error."""
    assert "FIGURES" in with_figures(PAGE.read_text(), kind, "FIGURES")


def test_a_missed_target_says_so() -> None:
    """No figure is left out because it is bad."""
    assert row(at_most("calls", 30.0, 20, " ms")) == "| calls | 30 ms | at most 20 ms | **missed** |"
    assert row(at_most("calls", 20.0, 20, " ms")).endswith("| met |")

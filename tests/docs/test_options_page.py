"""docs/options.md says what the options' own texts say."""

from __future__ import annotations

from kubefunc.options.fields import KINDS
from tests.docs.options_page import PAGE, page


def test_the_page_is_up_to_date() -> None:
    """If this fails: ``python -m tests.docs.options_page`` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_each_option_is_on_the_page() -> None:
    """Under a heading of its own, once."""
    lines = page().splitlines()
    assert sorted(line.removeprefix("### ") for line in lines if line.startswith("### ")) == sorted(KINDS)

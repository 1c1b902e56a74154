"""Which backend calls get, and what is said of it."""

from __future__ import annotations

from pathlib import Path

from kubefunc.choice import choose_backend


def test_who_asks_for_this_machine_is_not_told_of_a_cluster(tmp_path: Path) -> None:
    """The words "no cluster configured" are said only where they are the reason."""
    nothing = {"HOME": str(tmp_path)}
    assert choose_backend(None, None, {**nothing, "KUBEFUNC_BACKEND": "local"}).why == ""
    assert choose_backend("local", None, nothing).why == ""
    assert choose_backend(None, None, nothing).why == "no cluster configured: "

"""The options of calls are merged once for each combination of layers and variables."""

from __future__ import annotations

import pytest

from kubefunc.errors import ConfigurationError
from kubefunc.options import Resolved, parse_changes
from kubefunc.options.resolved import KEPT

DEFAULTS = parse_changes("configure()")


def test_the_same_layers_give_the_same_options() -> None:
    """They are not merged and checked again."""
    resolved = Resolved({})
    layer = parse_changes("@remote", cpu=2)
    assert resolved.of(DEFAULTS, layer) is resolved.of(DEFAULTS, layer)
    assert resolved.of(DEFAULTS, layer).cpu == "2"


def test_a_variable_that_changes_counts_at_once() -> None:
    """Set, changed, wrong, and taken away, between two calls of one function."""
    environ = {"PATH": "/bin"}
    resolved = Resolved(environ)
    layer = parse_changes("@remote", cpu=2)
    before = resolved.of(DEFAULTS, layer)
    environ["KUBEFUNC_MEMORY"] = "1Gi"
    assert resolved.of(DEFAULTS, layer).memory == "1Gi"
    environ["KUBEFUNC_MEMORY"] = "2Gi"
    assert resolved.of(DEFAULTS, layer).memory == "2Gi"
    environ["KUBEFUNC_MEMORY"] = "much"
    with pytest.raises(ConfigurationError, match="KUBEFUNC_MEMORY"):
        resolved.of(DEFAULTS, layer)
    del environ["KUBEFUNC_MEMORY"]
    assert resolved.of(DEFAULTS, layer) == before


def test_variables_of_the_process_count_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What os.environ keeps is compared as it is, and nothing else of it is read while that stays the same."""
    resolved = Resolved()
    layer = parse_changes("@remote", cpu=2)
    for memory in ("1Gi", "2Gi"):
        monkeypatch.setenv("KUBEFUNC_MEMORY", memory)
        assert resolved.of(DEFAULTS, layer).memory == memory
    monkeypatch.delenv("KUBEFUNC_MEMORY")
    assert resolved.of(DEFAULTS, layer).memory not in ("1Gi", "2Gi")


def test_other_layers_give_other_options() -> None:
    """Those of configure() too, and more combinations than are remembered."""
    resolved = Resolved({})
    layer = parse_changes("@remote", cpu=2)
    assert resolved.of(DEFAULTS, layer).timeout != resolved.of(parse_changes("configure()", timeout=7), layer).timeout
    for number in range(1, 3 * KEPT):
        assert resolved.of(DEFAULTS, parse_changes("@remote", cpu=number)).cpu == str(number)
    assert resolved.of(DEFAULTS, layer).cpu == "2"

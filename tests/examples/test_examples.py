"""Every example runs as its reader runs it: ``python examples/NAME.py``, here and on a cluster."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.spaces import Space
from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def _run(example: Path, env: dict[str, str]) -> str:
    """The example's output."""
    result = subprocess.run(
        [sys.executable, str(example)],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip(), "an example that prints nothing shows nothing"
    return result.stdout


def _counted_here() -> Counter[str]:
    """What wordcount.py must find, counted without kubefunc."""
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in Path(sysconfig.get_paths()["stdlib"]).glob("*.py")
    ]
    return Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))


def _check(example: Path, output: str) -> None:
    checks = {"wordcount.py": _check_wordcount}
    if check := checks.get(example.name):
        check(output)


def _check_wordcount(output: str) -> None:
    expected = _counted_here()
    head, *lines = output.splitlines()
    shown = [(word, int(times.replace(",", ""))) for times, word in (line.split() for line in lines)]
    assert head.startswith(f"{sum(expected.values()):,} words in ")
    # Words of the same frequency may come in any order.
    assert [times for _, times in shown] == [times for _, times in expected.most_common(10)]
    assert all(expected[word] == times for word, times in shown)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_on_this_machine(example: Path, clean_env: dict[str, str]) -> None:
    """Without a cluster the example runs here, and gives what it promises."""
    _check(example, _run(example, clean_env))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_on_the_cluster(example: Path, clean_env: dict[str, str], kube: Space) -> None:
    """The same file, unchanged, runs as Jobs under exactly our Role, and leaves nothing behind."""
    _check(example, _run(example, {**clean_env, "KUBECONFIG": str(kube.kubeconfig)}))
    kube.admin.run("wait", "--for=delete", "pods", "-l", "app.kubernetes.io/managed-by=kubefunc", "--timeout=60s")
    assert kube.leftovers() == []


def test_there_are_examples() -> None:
    """The tests above cover something."""
    assert EXAMPLES

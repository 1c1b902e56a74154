"""Every example runs as its reader runs it: ``python examples/NAME.py``, here and on a cluster."""

from __future__ import annotations

import re
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.spaces import Space
from tests.commands import ran
from tests.conftest import ROOT
from tests.docs.pages import PAGES, PRINTED_BY, SAME_AS, Block, read_blocks

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
# What an example draws stands in docs/images as well.
PICTURES = {"data_processing.py": "functions.png", "machine_learning.py": "scores.png"}
_NUMBER = re.compile(r"\d[\d,]*\.?\d*")


def _run(example: Path, env: dict[str, str], directory: Path) -> str:
    """The example's output."""
    result = ran([sys.executable, str(example)], env, directory)
    assert result.stdout.strip(), "an example that prints nothing shows nothing"
    return result.stdout


def _blocks(mark: str) -> list[Block]:
    """The blocks of all pages with this mark."""
    return [block for page in PAGES for block in read_blocks(page.read_text(encoding="utf-8")) if block.mark == mark]


def _check(example: Path, output: str, directory: Path) -> None:
    """The example gives what it promises, and what its page shows."""
    checks = {"wordcount.py": _check_wordcount, "machine_learning.py": _check_machine_learning}
    if check := checks.get(example.name):
        check(output)
    for block in _blocks(f"{PRINTED_BY}examples/{example.name}"):
        assert alike(block.text, output), f"the page shows\n{block.text}\nbut it printed\n{output}"
    if picture := PICTURES.get(example.name):
        _check_picture(directory / picture, ROOT / "docs/images" / picture)


def alike(shown: str, printed: str) -> bool:
    """Whether two outputs have the same words, and numbers that differ by a tenth at most.

    The numbers depend on the versions of Python and of packages.
    """
    if _NUMBER.sub("0", shown).split() != _NUMBER.sub("0", printed).split():
        return False
    pairs = zip(_numbers(shown), _numbers(printed), strict=True)
    return all(abs(ours - theirs) <= 0.1 * max(ours, theirs) for ours, theirs in pairs)


def _numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in _NUMBER.findall(text)]


def _check_picture(drawn: Path, shown: Path) -> None:
    """The page shows this picture; pixels differ where fonts or the library's version do."""
    import matplotlib.image
    import numpy as np

    ours, theirs = matplotlib.image.imread(drawn), matplotlib.image.imread(shown)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 0.05
    assert shown.stat().st_size < 60_000


def _counted_here() -> Counter[str]:
    """What wordcount.py must find, counted without kubefunc."""
    texts = [
        path.read_text(encoding="utf-8", errors="replace")
        for path in Path(sysconfig.get_paths()["stdlib"]).glob("*.py")
    ]
    return Counter(word for text in texts for word in re.findall(r"[a-z]+", text.lower()))


def _check_wordcount(output: str) -> None:
    expected = _counted_here()
    head, *lines = output.splitlines()
    shown = [(word, int(times.replace(",", ""))) for times, word in (line.split() for line in lines)]
    assert head.startswith(f"{sum(expected.values()):,} words in ")
    # Words of the same frequency may come in any order.
    assert [times for _, times in shown] == [times for _, times in expected.most_common(10)]
    assert all(expected[word] == times for word, times in shown)


def _check_machine_learning(output: str) -> None:
    """The best score is the one of scikit-learn's own search, to the last digit that is printed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    found = re.search(r"best: C=(\S+), gamma=(\S+), accuracy (\S+)\ntrained on this machine: accuracy (\S+)\n", output)
    assert found, output
    # Of the settings those near the best ones: all of them take as long as the example itself.
    grid = {"C": [1.0, 10.0, 100.0], "gamma": [0.0003, 0.001]}
    search = GridSearchCV(SVC(), grid, cv=5).fit(*load_digits(return_X_y=True))
    assert {"C": float(found[1]), "gamma": float(found[2])} == search.best_params_
    assert found[3] == found[4] == f"{search.best_score_:.10f}"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_on_this_machine(example: Path, examples_env: dict[str, str], tmp_path: Path) -> None:
    """Without a cluster the example runs here, and gives what it promises."""
    _check(example, _run(example, examples_env, tmp_path), tmp_path)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_on_the_cluster(
    example: Path, examples_env: dict[str, str], tmp_path: Path, kube: Space, package_settings: dict[str, str]
) -> None:
    """The same file, unchanged, runs as Jobs under exactly our Role, and leaves nothing behind."""
    env = {**examples_env, "KUBECONFIG": str(kube.kubeconfig)}
    if "packages=[" in example.read_text(encoding="utf-8"):
        env.update(package_settings)
    _check(example, _run(example, env, tmp_path), tmp_path)
    kube.admin.run("wait", "--for=delete", "pods", "-l", "app.kubernetes.io/managed-by=kubefunc", "--timeout=60s")
    assert kube.leftovers() == []


def test_each_example_stands_on_a_page() -> None:
    """With its whole text and its output; the word count is in the README."""
    for example in EXAMPLES:
        if example.name != "wordcount.py":
            name = f"examples/{example.name}"
            assert _blocks(f"{SAME_AS}{name}"), name
            assert _blocks(f"{PRINTED_BY}{name}"), name


def test_outputs_are_alike_but_for_small_differences_of_numbers() -> None:
    """Another word or a number that is far off is a difference."""
    assert alike("1,000 words  in 3.5 s", "1,020 words in 3.6 s")
    assert not alike("1,000 words", "1,500 words")
    assert not alike("1,000 words", "1,000 lines")


def test_there_are_examples() -> None:
    """The tests above cover something."""
    assert EXAMPLES

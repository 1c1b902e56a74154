"""What the documentation shows is what happens: every code block of every page is executed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.cluster.spaces import Space
from tests.commands import ran
from tests.conftest import ROOT
from tests.docs.pages import (
    CHECKOUT,
    CI,
    PAGES,
    SAME_AS,
    Block,
    check_page,
    fresh_checkout,
    read_blocks,
    run_page,
    wants_cluster,
)

ON_CLUSTER = [page for page in PAGES if wants_cluster(page.read_text(encoding="utf-8"))]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _marked(mark: str) -> list[tuple[Path, Block]]:
    return [
        (page, block)
        for page in PAGES
        for block in read_blocks(page.read_text(encoding="utf-8"))
        if block.mark.startswith(mark)
    ]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_page_on_this_machine(page: Path, tmp_path: Path, clean_env: dict[str, str]) -> None:
    """All blocks of the page run in their order with no cluster, and print what the page says."""
    text = page.read_text(encoding="utf-8")
    directory = tmp_path / "page"
    directory.mkdir()
    outcome = run_page(page.name, text, directory, clean_env, on_cluster=False)
    check_page(text, outcome, on_cluster=False)


@pytest.mark.parametrize("page", ON_CLUSTER, ids=_name)
def test_page_on_the_cluster(page: Path, tmp_path: Path, clean_env: dict[str, str], kube: Space) -> None:
    """A page with blocks for a cluster runs there as a whole, under exactly the Role that we ask for."""
    text = page.read_text(encoding="utf-8")
    directory = tmp_path / "page"
    directory.mkdir()
    env = {**clean_env, "KUBECONFIG": str(kube.kubeconfig)}
    outcome = run_page(page.name, text, directory, env, on_cluster=True)
    check_page(text, outcome, on_cluster=True)


def test_readme_sets_up_and_runs_the_example(tmp_path: Path, clean_env: dict[str, str]) -> None:
    """The README's first command does in a fresh checkout all that the newcomer has to do."""
    [(_, block)] = _marked(CHECKOUT)
    checkout = fresh_checkout(tmp_path / "checkout")
    result = ran(["bash", "-euo", "pipefail", "-c", block.text], clean_env, checkout, within=280)
    assert "words in" in result.stdout


def test_readme_test_command_is_what_ci_runs() -> None:
    """The README's second command is the one by which .ci/run decides, so it is executed with each change."""
    [(_, block)] = _marked(CI)
    assert any(line.startswith(block.text.strip()) for line in (ROOT / ".ci/run").read_text().splitlines()), (
        f".ci/run has no line {block.text!r}"
    )


@pytest.mark.parametrize(
    ("page", "block"), _marked(SAME_AS), ids=lambda part: _name(part) if isinstance(part, Path) else ""
)
def test_block_is_the_file_it_names(page: Path, block: Block) -> None:
    """A block that shows a file of the repository shows what is in it."""
    file = ROOT / block.mark.removeprefix(SAME_AS)
    assert block.text.strip() == file.read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_yaml_blocks_are_yaml(page: Path) -> None:
    """What a reader may hand to kubectl can at least be read."""
    for block in read_blocks(page.read_text(encoding="utf-8")):
        if block.language == "yaml":
            assert list(yaml.safe_load_all(block.text)), f"line {block.line}"


def test_links_between_pages_lead_somewhere() -> None:
    """A relative link names a file that exists."""
    import re

    dead = [
        f"{_name(page)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not dead

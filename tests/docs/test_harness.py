"""The harness that executes the documentation, held against pages that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import PageError, check_page, read_blocks, run_page, same_output, script


def _page(*lines: str) -> str:
    return "\n".join(["# Title", "", *lines, ""])


def _run(text: str, directory: Path, env: dict[str, str]) -> None:
    """Run and check a page; the environment has no cluster."""
    place = directory / "page"
    place.mkdir()
    check_page(text, run_page("page.md", text, place, env, on_cluster=False), on_cluster=False)


def test_blocks_share_one_namespace_and_show_their_output(tmp_path: Path, clean_env: dict[str, str]) -> None:
    """A later block sees what an earlier one defined, and its output is compared."""
    text = _page(
        "```python", "x = 2", "```", "```python", "print(x * 21)", "```", "<!-- output -->", "```text", "42", "```"
    )
    _run(text, tmp_path, clean_env)


def test_wrong_output_fails(tmp_path: Path, clean_env: dict[str, str]) -> None:
    """An output that the page promises and the code does not print is an error that shows both."""
    text = _page("```python", "print(41)", "```", "<!-- output -->", "```text", "42", "```")
    with pytest.raises(PageError, match=r"(?s)line 7: expected\n  42\nbut it printed\n41"):
        _run(text, tmp_path, clean_env)


def test_failing_python_fails_and_points_into_the_page(tmp_path: Path, clean_env: dict[str, str]) -> None:
    """The traceback has the page's name and the page's line."""
    text = _page("```python", "ok = 1", "1 / 0", "```")
    with pytest.raises(PageError, match=r'File ".*page\.md", line 5'):
        _run(text, tmp_path, clean_env)


def test_leaving_early_fails(tmp_path: Path, clean_env: dict[str, str]) -> None:
    """A page that exits with 0 before its last block has not run its blocks."""
    text = _page("```python", "raise SystemExit(0)", "```", "```python", "1", "```")
    with pytest.raises(PageError, match="line 3: the block did not run"):
        _run(text, tmp_path, clean_env)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (("```console", "$ false", "```"), "exit code 1"),
        (("```console", "$ echo one", "two", "```"), "expected"),
        (("```bash", "false", "true", "```"), "exit code 1"),
        (("```bash", "false | true", "```"), "exit code 1"),
    ],
)
def test_failing_shell_fails(lines: tuple[str, ...], why: str, tmp_path: Path, clean_env: dict[str, str]) -> None:
    """A command that fails, or prints something else than the page says, is an error."""
    with pytest.raises(PageError, match=why):
        _run(_page(*lines), tmp_path, clean_env)


def test_shell_runs_in_order_with_python(tmp_path: Path, clean_env: dict[str, str]) -> None:
    """What Python wrote before, the shell reads after."""
    text = _page(
        "```python", "open('f', 'w').write('hello')", "```", "```console", "$ cat f", "hel...", "$ true", "```"
    )
    _run(text, tmp_path, clean_env)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (("```pyton", "1", "```"), "line 3: no test runs a block of 'pyton'"),
        (("```", "1", "```"), "line 3: no test runs a block of ''"),
        (("<!-- skip -->", "```python", "1", "```"), "line 4: <!-- skip --> above a python block"),
        (("<!-- output -->", "```python", "1", "```"), "line 4: <!-- output --> above a python block"),
        (("```python", "1"), "line 3: the block is never closed"),
    ],
)
def test_no_block_is_skipped_in_silence(lines: tuple[str, ...], why: str) -> None:
    """A block that nobody would run is refused: a slip must not turn a test off."""
    with pytest.raises(PageError, match=why):
        read_blocks(_page(*lines))


def test_console_begins_with_a_command() -> None:
    """Output without a command belongs to nothing."""
    with pytest.raises(PageError, match="begins with a command"):
        script(_page("```console", "hello", "```"), on_cluster=False)


def test_cluster_blocks_wait_for_the_cluster() -> None:
    """A block for the cluster is part of the page's script there, and only there."""
    text = _page("<!-- cluster -->", "```python", "print('there')", "```")
    assert "there" not in script(text, on_cluster=False)
    assert "there" in script(text, on_cluster=True)


def test_script_keeps_line_numbers() -> None:
    """Line n of the page is line n of its script."""
    assert script(_page("text", "  ```python", "  x = 1", "  ```"), on_cluster=False).splitlines()[4] == "x = 1"


def test_dots_in_an_output_stand_for_anything() -> None:
    """Ids and times differ from run to run."""
    assert same_output("train-... finished in ... s", "train-x7k2p9qa  finished in 0.3 s\n")
    assert not same_output("train-... failed", "train-x7k2p9qa finished\n")

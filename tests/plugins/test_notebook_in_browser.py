"""A notebook as a person sees it: executed by a kernel, exported as Jupyter's page, opened in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from PIL import Image

from kubefunc.html import COLOURS
from tests.conftest import ROOT, clean_environment
from tests.plugins.browser import Seen, look_at

SIZE = (1000, 1500)
TEXT_CONTRAST, MARK_CONTRAST = 4.5, 3.0  # what WCAG 2 asks of text, and of what is not text
CARDS = "[data-mime-type='text/html'] > div"
ATTACK = "<img src=x onerror='window.attacked=1'><script>window.attacked=2</script>"

EXPORT = """
import json, sys, nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

notebook = nbformat.v4.new_notebook()
notebook.cells = [nbformat.v4.new_code_cell(source) for source in json.load(sys.stdin)]
NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
pages = {}
for theme in ("light", "dark"):
    exporter = HTMLExporter(theme=theme, require_js_url="", jquery_url="", mathjax_url="")
    pages[theme], _ = exporter.from_notebook_node(notebook)
print(json.dumps({"pages": pages, "outputs": [len(cell.outputs) for cell in notebook.cells]}))
"""
CELLS = [
    """
import time
from kubefunc import Pool, remote

@remote(verbose=False)
def inverse(n):
    time.sleep(0.15)
    if n == 4:
        raise ValueError(f"no inverse of {n}")
    return 1 / (n - 4)

@remote(verbose=False)
def attack():
    raise ValueError(ATTACK)

@remote(verbose=False)
def hang():
    time.sleep(600)

inverse.remote(1).result()
""".replace("ATTACK", repr(ATTACK)),
    "inverses = inverse.map(range(10), return_exceptions=True, max_parallelism=2)\nlen(inverses.result())",
    "inverses",
    "running = hang.remote()\nwhile not running.running():\n    time.sleep(0.05)\nrunning",
    "running.cancel()\nrunning",
    "failed = attack.remote()\nfailed.exception()\nfailed",
    "done = inverse.remote(1)\ndone.result()\ndone",
    "hanging = hang.starmap([()] * 9)\nwhile not hanging.progress.running:\n    time.sleep(0.05)\nhanging",
    "hanging.cancel()\nhanging",
    "Pool(max_workers=4)",
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pages of both themes, and how many outputs each cell has."""
    env = clean_environment(tmp_path_factory.mktemp("home"))
    env |= {"KUBEFUNC_BACKEND": "local", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    ran = subprocess.run(
        [sys.executable, "-c", EXPORT], input=json.dumps(CELLS), env=env, capture_output=True, text=True, timeout=180
    )
    assert ran.returncode == 0, ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module", params=["light", "dark"])
def seen(request: pytest.FixtureRequest, exported: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The page in a browser."""
    return look_at(exported["pages"][request.param], CARDS, tmp_path_factory.mktemp(request.param), SIZE)


def test_states_are_read_on_the_page(seen: Seen) -> None:
    """Each handle says where it is, in a word; what an exception says is text."""
    progress, ended, running, cancelled, failed, done, hanging, stopped, pool = [card["text"] for card in seen.cards]
    assert "9 of 10 succeeded, ● 1 failed, in " in progress
    assert "10 of 10 done, ● 1 failed\nitem 4: ValueError: no inverse of 4" in ended
    assert re.search(r"● running, sent \d+ s ago$", running.strip())
    assert cancelled.endswith("● cancelled")
    assert "● failed, ran " in failed
    assert failed.endswith(f"\nValueError: {ATTACK}")
    assert "● succeeded, ran " in done
    assert "0 of 9 done, ● " in hanging
    assert " running, ● " in hanging
    assert stopped.strip().endswith("9 of 9 done, ● 9 cancelled")
    assert "at most 4" in pool
    assert all(card["text"].splitlines()[0] in seen.text for card in seen.cards)


def test_nothing_of_it_runs(seen: Seen) -> None:
    """Neither a script nor an attribute of an exception's text."""
    assert seen.attacked is None
    assert {element for card in seen.cards for element in card["elements"]} <= {"b", "code", "div", "span"}


def test_it_is_legible_on_light_and_on_dark_pages(seen: Seen) -> None:
    """By the contrasts that accessibility asks for; a bar has the widths of its shares."""
    assert min(value for card in seen.cards for value in card["contrasts"]) >= TEXT_CONTRAST
    assert min(value for card in seen.cards for value in card["dots"]) >= MARK_CONTRAST
    good, bad = seen.cards[0]["bars"]
    assert (good, bad) == (432, 48)


def test_a_picture_shows_the_colours(seen: Seen) -> None:
    """Of each state, on a page that fits the window."""
    assert 0 < seen.height <= SIZE[1]
    with Image.open(seen.picture) as picture:
        assert picture.size == SIZE
        counted = picture.convert("RGB").getcolors(picture.width * picture.height)
    pixels = {f"#{r:02x}{g:02x}{b:02x}": count for count, (r, g, b) in counted}
    assert {state for state, colour in COLOURS.items() if pixels.get(colour, 0) > 100} == set(COLOURS)


def test_a_map_is_one_output(exported: dict[str, Any]) -> None:
    """However often its progress was drawn: that, and the cell's own value. The first cell says where calls run."""
    assert exported["outputs"] == [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]

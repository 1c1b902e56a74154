"""In a real notebook: what a person sees below a cell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

# Runs cells in a kernel as Jupyter does, and prints what came below each of them.
RUN = """
import json, sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.v4.new_notebook()
notebook.cells = [nbformat.v4.new_code_cell(source) for source in json.load(sys.stdin)]
NotebookClient(notebook, kernel_name="python3", timeout=120, allow_errors=True).execute()
print(json.dumps([cell.outputs for cell in notebook.cells]))
"""
DEFINITION = """
import time
from kubefunc import remote

@remote
def slow(n):
    time.sleep(0.2)
    if n == 2:
        print("hello from", n)
    return 10 // (n - 9)
"""


def run(clean_env: dict[str, str], *cells: str) -> list[list[dict[str, Any]]]:
    """The outputs of each cell."""
    env = {**clean_env, "KUBEFUNC_BACKEND": "local", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    ran = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(cells), env=env, capture_output=True, text=True, timeout=180
    )
    assert ran.returncode == 0, ran.stderr
    outputs: list[list[dict[str, Any]]] = json.loads(ran.stdout.splitlines()[-1])
    return outputs


def said(outputs: list[dict[str, Any]], name: str) -> str:
    """What came on a stream."""
    return "".join(each["text"] for each in outputs if each["output_type"] == "stream" and each["name"] == name)


def test_a_map_shows_one_output_that_is_updated(clean_env: dict[str, str], tmp_path: Path) -> None:
    """No output of its own for each time; what items print, and what the cell prints, stand on lines of their own."""
    _, below = run(clean_env, DEFINITION, "m = slow.map(range(8))\nprint(sum(m.result()))")
    (bar,) = [each for each in below if each["output_type"] == "display_data"]
    assert bar["data"]["text/plain"].split("  ")[1].startswith("8 of 8 succeeded, in ")
    assert "8 of 8 succeeded, in " in bar["data"]["text/html"]
    assert "hello from 2\n" in said(below, "stderr")
    assert "succeeded" not in said(below, "stderr")
    assert "\r" not in said(below, "stderr")
    assert len(below) < 7  # the bar, lines that items print, the cell's own
    assert said(below, "stdout") == f"{sum(10 // (n - 9) for n in range(8))}\n"


def test_a_bar_of_a_function_is_updated_in_place(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Its states are no outputs of their own; the last one is a line, and its display is empty then."""
    cell = """
@remote
def counts():
    for i in range(20):
        print(f"\\r{i + 1} of 20", end="", flush=True)
        time.sleep(0.1)
    print()
counts.remote().result()
"""
    _, below = run(clean_env, DEFINITION, cell)
    (bar,) = [each for each in below if each["output_type"] == "display_data"]
    assert bar["data"]["text/plain"] == ""
    assert said(below, "stderr").splitlines()[-1] == "20 of 20"
    assert len(below) < 6


def test_a_cells_error_is_the_functions_own(clean_env: dict[str, str], tmp_path: Path) -> None:
    """With the line of the cell that defined it; and a call can be awaited in a cell."""
    _, failed, awaited = run(clean_env, DEFINITION, "slow.remote(9).result()", "await slow.remote(10)")
    (error,) = [each for each in failed if each["output_type"] == "error"]
    assert error["ename"] == "ZeroDivisionError"
    assert "return 10 // (n - 9)" in "\n".join(error["traceback"])
    assert awaited[-1]["data"]["text/plain"] == "10"


def test_each_map_of_a_cell_has_a_display_of_its_own(clean_env: dict[str, str]) -> None:
    """What has ended stays there with its figures."""
    _, below = run(clean_env, DEFINITION, "for _ in range(2):\n    slow.map([0, 3, 4, 5, 6, 7, 8, 10]).result()")
    bars = [each["data"]["text/plain"] for each in below if each["output_type"] == "display_data"]
    assert len(bars) == 2
    assert all("8 of 8 succeeded" in bar for bar in bars)


def test_a_wait_in_another_cell_brings_the_first_display_up_to_date(clean_env: dict[str, str]) -> None:
    """Both show how the map ended: none is left behind with old figures."""
    waits = "import concurrent.futures\nm = slow.map([0, 1] * 20)\ntry:\n    m.result(timeout=1)\n"
    waits += "except concurrent.futures.TimeoutError:\n    print('not yet')"
    _, first, second = run(clean_env, DEFINITION, waits, "sum(m.result())")
    bars = [each for below in (first, second) for each in below if each["output_type"] == "display_data"]
    assert said(first, "stdout") == "not yet\n"
    assert len(bars) == 2
    assert all("40 of 40 succeeded" in bar["data"]["text/html"] for bar in bars)

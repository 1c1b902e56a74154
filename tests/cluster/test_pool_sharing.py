"""Warm workers that programs leave to each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from kubefunc import Pool, remote
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left
from tests.conftest import ROOT

WAIT = 90

PROGRAM = """
import json, os, platform, sys, time
from kubefunc import Pool, current, remote

pool = Pool(max_workers=1{pool})

@remote(pool=pool{options})
def where(seconds):
    print("it runs", flush=True)
    time.sleep(seconds)
    return platform.node(), os.getppid(), "{code}"

call = where.remote(float(sys.argv[1]))
print(json.dumps([*call.result(90), pool.workers]))
"""


def program(
    calling: Space, folder: Path, seconds: float = 0.0, *, code: str = "first", options: str = "", pool: str = ""
) -> subprocess.Popen[str]:
    """A program that calls, and has ended its session when its process ends."""
    script = folder / "program.py"
    script.write_text(PROGRAM.format(code=code, options=options, pool=pool))
    return subprocess.Popen(
        [sys.executable, str(script), str(seconds)],
        env={**os.environ, "KUBECONFIG": str(calling.kubeconfig), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_it_runs(running: subprocess.Popen[str]) -> None:
    """Return once its call has printed."""
    assert running.stderr is not None
    lines: list[str] = []
    while not any("it runs" in line for line in lines):
        lines.append(running.stderr.readline())
        assert lines[-1], f"it ended: {lines}"


def answer(running: subprocess.Popen[str]) -> Any:
    """What it says at its end."""
    out, err = running.communicate(timeout=WAIT)
    assert running.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def listed(calling: Space) -> Any:
    """What ``kubefunc ls`` shows."""
    command = [sys.executable, "-m", "kubefunc", "ls", "--json"]
    environ = {**os.environ, "KUBECONFIG": str(calling.kubeconfig), "PYTHONPATH": str(ROOT)}
    return json.loads(subprocess.run(command, env=environ, capture_output=True, check=True, timeout=WAIT).stdout)


def test_the_next_program_finds_the_worker(calling: Space, tmp_path: Path) -> None:
    """Its function may have changed; a Pod with other options is another worker. ``with`` ends what it has found."""
    pod, parent, _, workers = answer(program(calling, tmp_path))
    assert workers == 1
    eventually(  # the cluster may say that a Pod runs after it has served
        lambda: [(each["worker"], each["state"]) for each in listed(calling)] == [("free", "running")],
        what="kubefunc ls to say that the worker is free",
    )
    assert answer(program(calling, tmp_path, code="changed")) == [pod, parent, "changed", 1]
    other, *_ = answer(program(calling, tmp_path, options=", cpu='20m'", pool=", share=False"))
    assert other != pod
    eventually(lambda: len(calling.admin.get("jobs")) == 1, what="the worker that is not shared to go")
    with Pool(max_workers=1) as pool:
        call = remote(pool=pool)(os.getppid).remote()
        assert [call.result(WAIT), call.stats.pod] == [parent, pod]
        assert pool.workers == 1
    nothing_left(calling)


EDITED = """
import json, sys
from kubefunc import Pool, remote
from package import work

call = remote(pool=Pool(max_workers=1))(work.look).remote()
print(json.dumps([call.result(90), call.stats.pod]))
"""

LOOK = """
import os
from package import other

def look():
    import package.edited
    return package.edited.value, os.stat(other.__cached__).st_nlink
"""


def test_an_edit_reaches_the_worker_of_the_program_before(calling: Space, tmp_path: Path) -> None:
    """The edited module runs, of the same size and within the same second. Others stay, and are compiled already."""
    package = tmp_path / "package"
    package.mkdir()
    noise = f"noise = {os.urandom(3000).hex()!r}\n"  # what compresses well is sent again as a whole
    for name, text in {"__init__": "", "other": noise, "work": LOOK, "edited": "value = 1"}.items():
        (package / f"{name}.py").write_text(text)
    environ = {**os.environ, "KUBECONFIG": str(calling.kubeconfig), "PYTHONPATH": f"{ROOT}:{tmp_path}"}

    def run() -> Any:
        done = subprocess.run([sys.executable, "-c", EDITED], env=environ, capture_output=True, text=True, timeout=WAIT)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    (value, links), pod = run()
    assert (value, links) == (1, 1)
    (package / "edited.py").write_text("value = 2")
    assert run() == [[2, 2], pod]
    calling.clear()
    nothing_left(calling)


def test_two_programs_at_once_have_a_worker_each(calling: Space, tmp_path: Path) -> None:
    """One that is killed leaves its worker, though not before it is sure that the program does not come back."""
    first = program(calling, tmp_path, 600)
    until_it_runs(first)
    pod, *_ = answer(program(calling, tmp_path))
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=WAIT)
    again, *_ = answer(program(calling, tmp_path))
    assert again == pod
    assert len(calling.admin.get("jobs")) == 2
    calling.clear()
    nothing_left(calling)


def test_a_found_worker_that_is_lost_is_replaced(calling: Space, tmp_path: Path) -> None:
    """Its call runs again on another one; a call that comes later does not wait for it."""
    pod, *_ = answer(program(calling, tmp_path))
    second = program(calling, tmp_path, 5)
    until_it_runs(second)
    calling.admin.run("delete", "job", pod.rpartition("-")[0], "--wait=false")
    other, *_ = answer(second)
    assert other != pod
    calling.clear()
    nothing_left(calling)


def test_a_pool_is_scaled_by_hand(calling: Space) -> None:
    """Workers that are wanted start without a call; those that are not, and have none, end."""
    with Pool(max_workers=2, share=False) as pool:
        assert remote(pool=pool)(abs).remote(-1).result(WAIT) == 1
        pool.scale(2)
        eventually(lambda: "0 busy, 2 idle, 0 starting" in repr(pool), within=60, what="two workers to be idle")
        pool.scale(0)
        assert pool.workers == 0
        nothing_left(calling)
        assert remote(pool=pool)(abs).remote(-2).result(WAIT) == 2
    nothing_left(calling)

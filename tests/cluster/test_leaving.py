"""What becomes of calls when the program that made them ends, in whatever way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kubefunc
from tests.cluster.conftest import fresh_session
from tests.cluster.proxy import Proxy
from tests.cluster.spaces import Space
from tests.cluster.waiting import eventually, nothing_left, nothing_left_of_what_was_starting
from tests.conftest import ROOT, clean_environment


class Program:
    """A real process with calls in the test's namespace, and what it has said so far."""

    def __init__(self, space: Space, directory: Path, source: str) -> None:
        file = directory / "program.py"
        file.write_text(source)
        environ = clean_environment(directory) | {
            "KUBECONFIG": str(space.kubeconfig),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(file)],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def said(self) -> str:
        """All of its output."""
        return "\n".join(self.lines)

    def until_it_says(self, text: str, within: float = 40.0) -> str:
        """Wait for a line with this text; the line."""
        eventually(lambda: text in self.said, within, f"{text!r} in the program's output")
        return next(line for line in self.lines if text in line)

    def end(self, within: float = 30.0) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(within)
        self._reader.join(5)
        self.close()
        return code

    def close(self) -> None:
        """Give its pipe back."""
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def start(kube: Space, tmp_path: Path) -> Iterator[type[Program]]:
    """``start(source)`` runs a program; one that still runs at the end of the test is killed."""
    started: list[Program] = []

    def begin(source: str) -> Program:
        started.append(Program(kube, tmp_path, source))
        return started[-1]

    yield begin  # type: ignore[misc]
    for program in started:
        if program.process.poll() is None:
            program.process.kill()
            program.process.wait()
        program.close()


LONG = """
import time
from kubefunc import remote

class Answer:
    def __init__(self, value):
        self.value = value

@remote
def work(seconds):
    print("started")
    time.sleep(seconds)
    return Answer(42)
"""


def test_ctrl_c_while_waiting_cancels_at_exit(kube: Space, start: type[Program]) -> None:
    """One line says what was cancelled; nothing stays; the exit code is that of any program interrupted."""
    program = start(LONG + "work.remote(60).result()\n")
    program.until_it_says("started")
    program.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert program.end() != 0
    assert time.monotonic() - began < 6
    assert program.said.count("exit cancels 1 unfinished call (work-") == 1
    assert "KeyboardInterrupt" in program.said
    nothing_left(kube)


def test_sigterm_leaves_jobs_and_says_which(kube: Space, start: type[Program], calling: Space) -> None:
    """Of calls and of maps: one line with their ids, by which another program collects or cancels them."""
    del calling
    program = start(LONG + "mapped = work.map([60])\nwork.remote(8).result()\n")
    program.until_it_says("started")
    eventually(lambda: len(kube.admin.get("jobs")) == 2, what="both Jobs")
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == -signal.SIGTERM
    line = program.until_it_says("SIGTERM ends this program. Its unfinished calls go on, for 7 days at most: ")
    assert program.said.count("SIGTERM") == 1
    mapped, call = line.partition("at most: ")[2].partition(". ")[0].split(", ")
    collected = kubefunc.attach(call)
    assert collected.result(60).value == 42
    collected.discard()
    attached = kubefunc.attach_map(mapped)
    eventually(lambda: attached.progress.total == 1, what="the map's items")
    attached.cancel()
    nothing_left_of_what_was_starting(kube)


def test_sigterm_cancels_where_that_is_wanted(kube: Space, start: type[Program]) -> None:
    """Detached calls go on all the same."""
    program = start(
        LONG + "kept = work.options(detach=True).remote(60)\n"
        "print('kept', kept.id)\n"
        'work.options(on_sigterm="cancel").remote(60).result()\n'
    )
    kept = program.until_it_says("kept ").removeprefix("kept ")
    eventually(lambda: program.said.count("started") == 2, 40, "both functions")
    program.process.send_signal(signal.SIGTERM)
    assert program.end() == -signal.SIGTERM
    assert "SIGTERM cancels 1 unfinished call (work-" in program.said
    eventually(lambda: [job["metadata"]["name"] for job in kube.admin.get("jobs")] == [kept], what="one Job alone")
    kube.clear()


def test_the_end_of_a_program_cancels_what_is_unfinished(kube: Space, start: type[Program]) -> None:
    """Also the calls whose Jobs are not there yet, and those nobody waited for."""
    program = start(LONG + "calls = [work.remote(60) for _ in range(8)]\n")
    assert program.end() == 0
    assert "exit cancels 8 unfinished calls" in program.said
    nothing_left(kube)


def test_the_end_of_a_program_cancels_a_call_that_has_waited_for_a_node(kube: Space, start: type[Program]) -> None:
    """Also where the session has been idle: no connection is in use when the program ends."""
    program = start(LONG + "work.options(cpu=500).remote(60)\ntime.sleep(4)\nprint('ends')\n")
    program.until_it_says("ends")
    began = time.monotonic()
    assert program.end() == 0
    assert time.monotonic() - began < 4
    assert "exit cancels 1 unfinished call (work-" in program.said
    assert "still on the cluster" not in program.said
    nothing_left(kube)


def test_a_program_with_finished_calls_leaves_quickly_and_cleanly(kube: Space, start: type[Program]) -> None:
    """Its exit waits for the deletion of its Jobs, which takes a fraction of a second."""
    program = start(LONG + "print('answer', work.remote(0).result().value)\n")
    program.until_it_says("answer 42")
    began = time.monotonic()
    assert program.end() == 0
    print(f"from the last line to the exit: {time.monotonic() - began:.2f} s")
    assert time.monotonic() - began < 2
    assert "Traceback" not in program.said
    nothing_left(kube)


def test_a_program_that_has_all_outcomes_of_a_map_leaves_no_job(kube: Space, start: type[Program]) -> None:
    """Also where its last Pod has not ended yet: outcomes come while Pods run."""
    program = start(
        "import atexit, time\n"
        "from kubefunc import remote\n"
        "@remote\n"
        "def lingering(n):\n"
        "    if n == 0:\n"
        "        atexit.register(time.sleep, 30)\n"
        "    time.sleep(0.5)\n"
        "    return n\n"
        "print('results', lingering.map(range(8), chunksize=8).result())\n"
    )
    assert program.end(within=60) == 0
    assert "results [0, 1, 2, 3, 4, 5, 6, 7]" in program.said
    nothing_left(kube)


def test_an_executors_tasks_are_waited_for(kube: Space, start: type[Program]) -> None:
    """At the end of its ``with``, also for a map whose results nobody takes; at exit, also when it was forgotten."""
    program = start(
        "import time\n"
        "import kubefunc\n"
        "def slow(n):\n"
        "    time.sleep(2)\n"
        "    print('has run', n)\n"
        "    return n\n"
        "with kubefunc.Executor() as executor:\n"
        "    executor.map(slow, [1, 2], chunksize=1)\n"
        "print('after the with')\n"
        "kubefunc.Executor().map(slow, [4])\n"
        "held = kubefunc.Executor().map(slow, [5])\n"
        "one_by_one = kubefunc.Executor(max_workers=1)\n"
        "queued = [one_by_one.submit(slow, n) for n in (6, 7)]\n"
        "future = kubefunc.Executor().submit(slow, 3)\n"
        "future.add_done_callback(lambda ended: print('got', ended.result()))\n"
    )
    assert program.end(within=90) == 0
    before, _, after = program.said.partition("after the with")
    assert "has run 1" in before
    assert "has run 2" in before
    assert "got 3" in after
    for number in (4, 5, 6, 7):
        assert f"has run {number}" in after
    assert "cancels" not in program.said
    nothing_left(kube)


def test_detached_calls_outlive_the_program(kube: Space, start: type[Program]) -> None:
    """``detach=True``: the exit says nothing and cancels nothing; the id finds the call again."""
    program = start(LONG + "print('id', work.options(detach=True).remote(3).id)\nimport time\ntime.sleep(2)\n")
    assert program.end() == 0
    call = program.until_it_says("id work-").removeprefix("id ")
    assert "cancels" not in program.said
    _collect(kube, start, call)


def test_a_killed_program_leaves_its_call_to_whoever_attaches(kube: Space, start: type[Program]) -> None:
    """SIGKILL asks nobody: the Job goes on, and its result waits."""
    program = start(LONG + "call = work.remote(4)\nprint('id', call.id)\ncall.result()\n")
    call = program.until_it_says("id work-").removeprefix("id ")
    program.until_it_says("started")
    program.process.kill()
    assert program.end() == -signal.SIGKILL
    _collect(kube, start, call)


def _collect(kube: Space, start: type[Program], call: str) -> None:
    """Attach from another process, which has a class of that name of its own in ``__main__``."""
    source = f"import kubefunc\ncall = kubefunc.attach({call!r})\nanswer = call.result(60)\n"
    checks = "print('same class', isinstance(answer, Answer), answer.value)\nprint(repr(call.logs()))\ncall.discard()\n"
    collector = start(LONG + source + checks)
    assert collector.end(60) == 0, collector.said
    assert "same class True 42" in collector.said
    assert repr("started\n") in collector.said
    nothing_left(kube)


def test_a_client_killed_between_secret_and_job_leaves_no_job(kube: Space, start: type[Program]) -> None:
    """At most its Secret, which the sweep removes; never a Pod that waits for something."""
    program = start(LONG + "work.remote(60)\nimport os, time\ntime.sleep(0.45)\nos.kill(os.getpid(), 9)\n")
    program.end()
    time.sleep(1)
    for pod in kube.admin.get("pods"):
        assert pod["metadata"]["ownerReferences"], "a Pod belongs to its Job"
    kube.clear()


def test_interrupted_twice_it_leaves_at_once(kube: Space, start: type[Program], tmp_path: Path) -> None:
    """The second Ctrl-C ends the cleaning up, which a dead network would hold; what is left is named."""
    proxy = Proxy(kube.kubeconfig)
    try:
        there = proxy.kubeconfig(tmp_path / "proxied.kubeconfig")
        program = start(f"import os\nos.environ['KUBECONFIG'] = {str(there)!r}\n" + LONG + "work.remote(60).result()\n")
        program.until_it_says("started")
        proxy.holding.clear()
        program.process.send_signal(signal.SIGINT)
        program.until_it_says("exit cancels")
        time.sleep(0.3)
        program.process.send_signal(signal.SIGINT)
        began = time.monotonic()
        program.end()
        assert time.monotonic() - began < 2
        assert "not cancelled, still on the cluster: work-" in program.said
        assert any(name.startswith("job") for name in kube.leftovers())
        kube.clear()
    finally:
        proxy.close()


def gives_up(program: Program) -> None:
    """It ends after the five seconds that an exit has."""
    began = time.monotonic()
    program.end()
    assert 4 < time.monotonic() - began < 8


def test_a_dead_network_holds_no_program(kube: Space, start: type[Program], tmp_path: Path) -> None:
    """The exit gives up after five seconds and names what it could not cancel."""
    proxy = Proxy(kube.kubeconfig)
    try:
        there = proxy.kubeconfig(tmp_path / "proxied.kubeconfig")
        program = start(f"import os\nos.environ['KUBECONFIG'] = {str(there)!r}\n" + LONG + "work.remote(60).result()\n")
        program.until_it_says("started")
        proxy.holding.clear()
        program.process.send_signal(signal.SIGINT)
        gives_up(program)
        assert "not cancelled, still on the cluster: work-" in program.said
        kube.clear()
    finally:
        proxy.close()


def test_a_detached_call_that_could_not_be_sent_is_named(kube: Space, start: type[Program], tmp_path: Path) -> None:
    """At the exit, which waits five seconds for its Job to be created."""
    proxy = Proxy(kube.kubeconfig)
    try:
        there = proxy.kubeconfig(tmp_path / "proxied.kubeconfig")
        program = start(
            f"import os\nos.environ['KUBECONFIG'] = {str(there)!r}\n"
            + LONG
            + "work.remote(0).result()\nprint('warm')\nimport time\n"
            + f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n"
            + "work.options(detach=True).remote(0)\n"
        )
        program.until_it_says("warm")
        proxy.holding.clear()
        (tmp_path / "go").touch()
        gives_up(program)
        assert "the program ends before its Job could be created" in program.said
        kube.clear()
    finally:
        proxy.close()


def test_a_forked_child_closes_nothing_of_its_parent(kube: Space, start: type[Program]) -> None:
    """The session belongs to a process: a child that exits cancels none of its parent's calls."""
    program = start(
        LONG
        + "import os, sys\ncall = work.remote(3)\npid = os.fork()\n"
        + "if pid == 0:\n    sys.exit(0)\nos.waitpid(pid, 0)\nprint('answer', call.result().value)\n"
    )
    assert program.end() == 0
    assert "answer 42" in program.said
    assert "cancels" not in program.said
    nothing_left(kube)


def test_a_session_of_this_process_leaves_nothing_either(calling: Space) -> None:
    """The tests' own way to end a session is the programs' way."""
    with fresh_session():
        kubefunc.remote(os.getpid).remote()
    nothing_left(calling)

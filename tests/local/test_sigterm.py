"""SIGTERM to a program with unfinished calls: what it says, and what becomes of them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.local.programs import WORK, Program, all_end, family, until

CALL = f"{WORK}\nimport asyncio, signal, threading\ncall = tree.remote('tree')\n"
WAIT = "call.result()\n"
SAID = "SIGTERM ends this program and its unfinished call (tree-"


def terminated(program: Program, tmp_path: Path) -> str:
    """What the program says when SIGTERM comes while its call runs; nothing of that is left."""
    pids = family(tmp_path / "tree")
    program.process.send_signal(signal.SIGTERM)
    printed = program.end()
    all_end(pids)
    assert "Traceback" not in printed
    assert "ResourceWarning" not in printed
    return printed


def test_sigterm_names_what_it_ends(clean_env: dict[str, str], tmp_path: Path) -> None:
    """One line, and the exit status is that of any program that SIGTERM has ended."""
    program = Program(clean_env, tmp_path, "-W", "error", "-c", CALL + WAIT)
    assert terminated(program, tmp_path).count(SAID) == 1
    assert program.process.returncode == -signal.SIGTERM


def test_sigterm_cancels_where_that_is_wanted(clean_env: dict[str, str], tmp_path: Path) -> None:
    """With ``on_sigterm="cancel"`` a function's ``finally:`` blocks run, as at an exit."""
    text = f"""{WORK}
import kubefunc

kubefunc.configure(on_sigterm="cancel")

@remote(verbose=False)
def tidy(where):
    try:
        Path(where).touch()
        time.sleep(600)
    finally:
        Path(where + ".tidied").touch()

tidy.remote("started").result()
"""
    program = Program(clean_env, tmp_path, "-W", "error", "-c", text)
    until((tmp_path / "started").exists, "the function to start")
    program.process.send_signal(signal.SIGTERM)
    assert program.end().count("SIGTERM cancels 1 unfinished call (tidy-") == 1
    assert program.process.returncode == -signal.SIGTERM
    assert (tmp_path / "started.tidied").exists()
    assert program.left_files() == []


def test_a_program_without_unfinished_calls_says_nothing(clean_env: dict[str, str], tmp_path: Path) -> None:
    """It ends as it would without kubefunc."""
    text = f"{WORK}\nassert double.remote(1).result() == 2\nPath('done').touch()\ntime.sleep(600)\n"
    program = Program(clean_env, tmp_path, "-c", text)
    until((tmp_path / "done").exists, "the call's end")
    program.process.send_signal(signal.SIGTERM)
    assert "SIGTERM" not in program.end()
    assert program.process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_programs_own_handler_is_the_one(when: str, clean_env: dict[str, str], tmp_path: Path) -> None:
    """Installed before the first call or after it: kubefunc's is not put in its place."""
    own = "signal.signal(signal.SIGTERM, lambda *_: sys.exit('own handler'))\nimport sys\n"
    text = f"import signal\n{own}{CALL}{WAIT}" if when == "before" else f"{CALL}{own}{WAIT}"
    program = Program(clean_env, tmp_path, "-c", text)
    printed = terminated(program, tmp_path)
    assert "own handler" in printed
    assert "exit cancels 1 unfinished call" in printed
    assert SAID not in printed
    assert program.process.returncode == 1


def test_a_handler_that_calls_the_one_before(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Then the line is said, and the program's handler decides how it goes on."""
    own = """
def both(number, frame):
    before(number, frame)
    os._exit(7)
before = signal.signal(signal.SIGTERM, both)
"""
    program = Program(clean_env, tmp_path, "-c", CALL + own + WAIT)
    assert SAID in terminated(program, tmp_path)
    assert program.process.returncode == 7


def test_asyncios_handler_is_the_one(clean_env: dict[str, str], tmp_path: Path) -> None:
    """``add_signal_handler`` takes the signal over from kubefunc, and it comes back to it when that is removed."""
    text = f"""{CALL}
async def main():
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    Path("listens").touch()
    await asked.wait()
    print("asked to end", flush=True)
    loop.remove_signal_handler(signal.SIGTERM)
    other = tree.remote("other")
    await asyncio.wrap_future(other)

asyncio.run(main())
"""
    program = Program(clean_env, tmp_path, "-c", text)
    until((tmp_path / "listens").exists, "asyncio's handler")
    pids = family(tmp_path / "tree")
    program.process.send_signal(signal.SIGTERM)
    pids += family(tmp_path / "other")
    program.process.send_signal(signal.SIGTERM)
    printed = program.end()
    assert "asked to end" in printed
    assert printed.count("SIGTERM ends this program and its 2 unfinished calls") == 1
    assert program.process.returncode == -signal.SIGTERM
    all_end(pids)


def test_a_call_of_another_thread(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Only the main thread may handle signals: the program ends without a word, as it would without kubefunc."""
    text = f"{WORK}\nimport threading\nthreading.Thread(target=tree.remote, args=['tree']).start()\ntime.sleep(600)\n"
    program = Program(clean_env, tmp_path, "-c", text)
    assert "SIGTERM" not in terminated(program, tmp_path)
    assert program.process.returncode == -signal.SIGTERM


def test_what_the_program_forks_ends_by_sigterm_at_once(clean_env: dict[str, str], tmp_path: Path) -> None:
    """``multiprocessing`` ends its processes so, also one that has just been forked; they say nothing of calls."""
    text = f"""{CALL}
import multiprocessing
context = multiprocessing.get_context("fork")
while not Path("tree").exists(): time.sleep(0.01)
for _ in range(30):
    process = context.Process(target=time.sleep, args=[600])
    process.start()
    process.terminate()
    process.join(20)
    assert process.exitcode == -signal.SIGTERM, process.exitcode
Path("ended").touch()
{WAIT}
"""
    program = Program(clean_env, tmp_path, "-W", "ignore", "-c", text)
    until((tmp_path / "ended").exists, "the end of what was forked")
    assert terminated(program, tmp_path).count("SIGTERM") == 1


def test_a_signal_while_the_program_prints(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Wherever it comes, the program ends by it."""
    text = f"""{CALL}
import sys
Path("prints").touch()
while True:
    print("x" * 100, file=sys.stderr)
    time.sleep(0.0001)
"""
    program = Program(clean_env, tmp_path, "-c", text)
    until((tmp_path / "prints").exists, "the output")
    assert SAID in terminated(program, tmp_path)
    assert program.process.returncode == -signal.SIGTERM

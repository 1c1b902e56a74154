"""Programs that make calls on this machine: how they are started, and that nothing stays when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.local.programs import WORK, Program, all_end, family, until

DOUBLE = f"{WORK}\nprint('got', double.remote(21).result(30))\n"
IN_TREE = f"{WORK}\ncall = tree.remote('tree')\n"


@pytest.mark.parametrize("how", ["script", "-c", "stdin", "module"])
def test_no_main_guard_is_needed(how: str, clean_env: dict[str, str], tmp_path: Path) -> None:
    """A script without ``if __name__ == "__main__"``, ``python -c``, a heredoc, ``python -m``."""
    (tmp_path / "program.py").write_text(DOUBLE)
    arguments = {"script": ["program.py"], "-c": ["-c", DOUBLE], "stdin": ["-"], "module": ["-m", "program"]}[how]
    program = Program(clean_env, tmp_path, *arguments, text=DOUBLE if how == "stdin" else None)
    assert "got 42" in program.end()
    assert program.process.returncode == 0
    assert program.left_files() == []


def test_what_lies_in_the_current_directory_is_not_imported(clean_env: dict[str, str], tmp_path: Path) -> None:
    """A file that is named like a module of the standard library breaks no call's process."""
    (tmp_path / "select.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/program.py").write_text(DOUBLE)
    program = Program(clean_env, tmp_path, "elsewhere/program.py")
    assert "got 42" in program.end()


def test_in_a_directory_that_was_removed(clean_env: dict[str, str], tmp_path: Path) -> None:
    """The call runs all the same."""
    text = f"import os\nos.mkdir('gone')\nos.chdir('gone')\nos.rmdir('../gone')\n{DOUBLE}"
    (tmp_path / "program.py").write_text(text)
    assert "got 42" in Program(clean_env, tmp_path, "program.py").end()


def test_exit_cancels(clean_env: dict[str, str], tmp_path: Path) -> None:
    """A program that ends takes its calls along, says so in one line, and leaves nothing."""
    text = f"{IN_TREE}\nwhile not Path('tree').exists(): time.sleep(0.01)\n"
    program = Program(clean_env, tmp_path, "-c", text)
    pids = family(tmp_path / "tree")
    printed = program.end()
    assert printed.count("exit cancels 1 unfinished call (tree-") == 1
    all_end(pids)
    assert program.left_files() == []


def test_ctrl_c_in_a_script(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Ends the wait by KeyboardInterrupt; the script ends by it, and so its calls."""
    program = Program(clean_env, tmp_path, "-c", f"{IN_TREE}\ncall.result()\n")
    pids = family(tmp_path / "tree")
    program.process.send_signal(signal.SIGINT)
    printed = program.end()
    assert "KeyboardInterrupt" in printed
    assert "exit cancels 1 unfinished call" in printed
    all_end(pids)
    assert program.left_files() == []


def test_ctrl_c_in_an_interactive_interpreter(clean_env: dict[str, str], tmp_path: Path) -> None:
    """The call goes on, and a line says how to come back to it."""
    program = Program(clean_env, tmp_path, "-i", "-c", IN_TREE)
    pids = family(tmp_path / "tree")
    program.stdin.write(b"Path('waiting').touch(); call.result()\n")
    program.stdin.flush()
    until((tmp_path / "waiting").exists, "the prompt")
    program.process.send_signal(signal.SIGINT)
    program.stdin.write(b"\nprint('still', call.running(), call.cancel())\n")
    program.stdin.close()
    printed = program.end()
    assert "continues; call.result() waits again" in printed
    assert "still True True" in printed
    all_end(pids)


def test_a_client_that_is_killed_leaves_nothing(clean_env: dict[str, str], tmp_path: Path) -> None:
    """SIGKILL: no process of it stays, not even in another session, and no file."""
    program = Program(clean_env, tmp_path, "-c", f"{IN_TREE}\ncall.result()\n")
    pids = family(tmp_path / "tree")
    program.process.kill()
    program.end()
    all_end(pids)
    until(lambda: program.left_files() == [], "its files to go")


def test_cancelling_leaves_no_grandchild(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Whatever the function has started ends with the call, while the program goes on."""
    text = f"""{IN_TREE}
while not Path('tree').exists(): time.sleep(0.01)
call.cancel()
print(double.remote(1).result(30))
sys.stdin.read()
"""
    program = Program(clean_env, tmp_path, "-c", text)
    all_end(family(tmp_path / "tree"))
    program.stdin.close()
    assert "2\n" in program.end()


def test_exit_waits_for_callbacks(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Those that have begun, or that wait for one that has, run to their end, as in the standard library."""
    text = f"""{WORK}
def tell(call):
    time.sleep(0.3)
    print('told:', call.result(), flush=True)
calls = [double.remote(n) for n in range(2)]
for call in calls:
    call.add_done_callback(tell)
for call in calls:
    call.result(30)
"""
    printed = Program(clean_env, tmp_path, "-c", text).end()
    assert "told: 0\n" in printed
    assert "told: 2\n" in printed


def test_a_function_that_ignores_sigterm_is_killed(clean_env: dict[str, str], tmp_path: Path) -> None:
    """After a grace; the program does not wait longer than five seconds at its end."""
    text = f"""{WORK}
import signal
@remote
def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path('tree').write_text(str(os.getpid()))
    while True: time.sleep(1)
call = stubborn.remote()
while not (Path('tree').exists() and Path('tree').read_text()): time.sleep(0.01)
"""
    program = Program(clean_env, tmp_path, "-c", text)
    program.end()
    all_end(family(tmp_path / "tree"))
    assert program.left_files() == []


def test_a_forked_client_has_a_session_of_its_own(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Parent and child both call on; the child cannot wait for the parent's call or map, and is told so."""
    text = f"""{WORK}
assert double.remote(1).result(30) == 2
slow = tree.remote('tree')
many = tree.map(['of_map'])
while not (Path('tree').exists() and Path('of_map').exists()): time.sleep(0.01)
doubles = double.map(range(100))
pid = os.fork()
if pid == 0:
    try:
        slow.result()
    except RuntimeError as error:
        print('refused:', 'forked' in str(error), flush=True)
    try:
        print(list(many))
    except RuntimeError as error:
        print('refused too:', 'forked' in str(error), flush=True)
    print('child', double.remote(2).result(30), list(double.map(range(5))), flush=True)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
print('parent', slow.running(), double.remote(3).result(30), sum(doubles.result(30)), flush=True)
"""
    program = Program(clean_env, tmp_path, "-W", "error", "-c", text)
    printed = program.end()
    assert "refused: True" in printed
    assert "refused too: True" in printed
    assert "child 4 [0, 2, 4, 6, 8]" in printed
    assert "parent True 6 9900" in printed
    assert "Warning" not in printed
    assert printed.count("exit cancels") == 1
    all_end(family(tmp_path / "tree"))
    assert program.left_files() == []


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_process_of_multiprocessing_cancels_its_calls_when_it_ends(
    method: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    """As any program does at its exit, though multiprocessing runs no exit handlers in the processes that it forks."""
    text = f"""{WORK}
import multiprocessing, tempfile
tempfile.tempdir = '/tmp'  # where the path of the fork server's socket is short enough

def work():
    tree.remote('tree')
    while not Path('tree').exists(): time.sleep(0.01)

if __name__ == "__main__":
    process = multiprocessing.get_context("{method}").Process(target=work)
    process.start()
    process.join()
    print('exit code', process.exitcode)
"""
    (tmp_path / "program.py").write_text(text)
    program = Program(clean_env, tmp_path, "program.py")
    pids = family(tmp_path / "tree")
    printed = program.end()
    assert printed.count("exit cancels 1 unfinished call (tree-") == 1
    assert "exit code 0" in printed
    all_end(pids)


def test_a_child_that_the_client_forked_does_not_keep_its_calls(clean_env: dict[str, str], tmp_path: Path) -> None:
    """The death of the client counts, not the last copy of its descriptors."""
    text = f"{IN_TREE}\nif os.fork() == 0:\n    time.sleep(600)\nPath('forked').touch()\ncall.result()\n"
    program = Program(clean_env, tmp_path, "-c", text)
    pids = family(tmp_path / "tree")
    until((tmp_path / "forked").exists, "the fork")
    program.process.kill()
    program.process.wait()
    try:
        all_end(pids)
    finally:
        os.killpg(program.process.pid, signal.SIGKILL)
    program.end()


def test_a_server_that_is_killed(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Running calls fail typed, naming what happened; the next call works; nothing stays."""
    text = f"""{WORK}
from kubefunc import errors
call = tree.remote('tree')
while not Path('tree').exists(): time.sleep(0.01)
server = int(subprocess.run(['ps', '-o', 'ppid=', '-p', subprocess.run(['ps', '-o', 'ppid=', '-p',
    Path('tree').read_text().split()[0]], capture_output=True, text=True).stdout.strip()],
    capture_output=True, text=True).stdout)
for _ in range(3):
    os.kill(server, 9)
    calls = [double.remote(n) for n in range(5)]
    try:
        call.result(30)
    except errors.WorkerDiedError as error:
        print(error)
    for n, each in enumerate(calls):
        error = each.exception(30)
        assert isinstance(error, errors.WorkerDiedError) or each.result() == 2 * n
    print('then', double.remote(5).result(30), flush=True)
    break
"""
    program = Program(clean_env, tmp_path, "-c", text)
    printed = program.end()
    assert "was ended by SIGKILL" in printed
    assert "then 10" in printed
    all_end(family(tmp_path / "tree"))
    until(lambda: program.left_files() == [], "its files to go")


def test_two_hundred_calls_at_once(clean_env: dict[str, str], tmp_path: Path) -> None:
    """All come back right; there are never more processes than a small multiple of the cores."""
    text = f"{WORK}\ncalls = [double.remote(n) for n in range(200)]\nprint(sum(call.result(50) for call in calls))\n"
    program = Program(clean_env, tmp_path, "-c", text)
    assert str(2 * sum(range(200))) in program.end()
    assert program.left_files() == []


def test_nested_calls_where_they_are_allowed(clean_env: dict[str, str], tmp_path: Path) -> None:
    """With a service_account, as on a cluster, a call may call on."""
    text = f"""{WORK}
@remote(service_account='runner')
def outer(x):
    return double.remote(x).result(30) + 1
print('outer', outer.remote(4).result(30))
"""
    program = Program(clean_env, tmp_path, "-c", text)
    assert "outer 9" in program.end()
    until(lambda: program.left_files() == [], "its files to go")


def test_without_an_interpreter_to_start(clean_env: dict[str, str], tmp_path: Path) -> None:
    """An embedded Python is told what to set; one that cannot be started fails the call, typed."""
    text = f"""{WORK}
from kubefunc import errors
python, sys.executable = sys.executable, ''
try:
    double.remote(1)
except errors.ConfigurationError as error:
    print('configuration:', 'sys.executable' in str(error))
sys.executable = '/no/such/python'
print('typed:', isinstance(double.remote(1).exception(30), errors.WorkerDiedError))
sys.executable = python
print('then', double.remote(1).result(30))
"""
    printed = Program(clean_env, tmp_path, "-c", text).end()
    assert "configuration: True" in printed
    assert "typed: True" in printed
    assert "then 2" in printed


MANY_FILES = """
import resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limit), limit))
files = [open(os.devnull) for _ in range(1100)]
"""


def test_with_more_open_files_than_select_takes(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Calls and maps run all the same, and a worker that dies is noticed."""
    text = f"""{WORK}{MANY_FILES}
@remote
def fragile(x):
    if x == 2: os._exit(3)
    return x
print('got', double.remote(21).result(30))
print([type(each).__name__ for each in fragile.map(range(4), return_exceptions=True).result(30)])
"""
    printed = Program(clean_env, tmp_path, "-c", text).end()
    assert "got 42" in printed
    assert "['int', 'int', 'WorkerDiedError', 'int']" in printed


def test_without_a_free_descriptor(clean_env: dict[str, str], tmp_path: Path) -> None:
    """A map for which no worker can be had says so instead of waiting for ever; the next one has its workers."""
    text = f"""{WORK}
import resource
assert double.remote(1).result(30) == 2
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
files = []
try:
    while True: files.append(open(os.devnull))
except OSError:
    del files[-8:]
try:
    double.map(range(3)).result(30)
except Exception as error:
    print(type(error).__name__, 'Too many open files' in str(error))
resource.setrlimit(resource.RLIMIT_NOFILE, limit)
print('then', double.map(range(3)).result(30))
"""
    printed = Program(clean_env, tmp_path, "-c", text).end()
    assert "WorkerDiedError True" in printed
    assert "then [0, 2, 4]" in printed


def test_the_time_for_which_a_client_was_stopped_is_no_items_own(clean_env: dict[str, str], tmp_path: Path) -> None:
    """An item that has ended in time, and whose outcome waits for the client, is not taken for one that hangs."""
    text = f"""{WORK}
@remote(timeout=1, verbose=False)
def quick(x):
    Path(f'begun.{{x}}').touch()
    print('something')
    return x
print('got', quick.map(range(2)).result(30))
"""
    program = Program(clean_env, tmp_path, "-c", f"{WORK}\nassert double.remote(1).result(30) == 2\n{text}")
    until((tmp_path / "begun.0").exists, "the first item")
    program.process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)  # well over the timeout
    program.process.send_signal(signal.SIGCONT)
    assert "got [0, 1]" in program.end()


AS_ON_MACOS = """
import builtins, socket, sys, sysconfig
sysconfig.get_paths()  # it looks for a file that is named like the system
OTHER = '''
import builtins, sys
sys.platform = "darwin"
def no_proc(file, *arguments, through=builtins.open, **options):
    if isinstance(file, str) and file.startswith("/proc/"): raise FileNotFoundError(file)
    return through(file, *arguments, **options)
builtins.open = no_proc
'''
from kubefunc.backends.local import launch
launch._START = OTHER + launch._START
sys.platform = "darwin"
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="plays the other system on Linux")
def test_a_system_with_datagrams_and_without_proc(clean_env: dict[str, str], tmp_path: Path) -> None:
    """There maps work too, and when one ends or is cancelled its workers go, also those that ignore SIGTERM."""
    text = f"""{AS_ON_MACOS}{WORK}
import signal
@remote(verbose=False)
def size(data):
    return len(data), os.getpid()
@remote(verbose=False)
def stubborn(n):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(f'{{n}}.part').write_text(str(os.getpid()))
    os.rename(f'{{n}}.part', f'{{n}}.pid')
    time.sleep(600)
sizes = [1, 3000, 60_000, 100_000] * 50
got = size.map([bytes(n) for n in sizes]).result(60)
print('right', [length for length, _ in got] == sizes)
endless = stubborn.map(range(1))
while not Path('0.pid').exists(): time.sleep(0.01)
endless.cancel()
pids = {{pid for _, pid in got}} | {{int(Path('0.pid').read_text())}}
Path('pids.part').write_text(' '.join(map(str, pids)))
os.rename('pids.part', 'pids')
sys.stdin.read()
"""
    program = Program(clean_env, tmp_path, "-c", text)
    all_end(family(tmp_path / "pids"))
    assert program.process.poll() is None
    program.stdin.close()
    assert "right True" in program.end()


def test_a_call_that_is_cancelled_in_the_same_breath(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Call and cancellation may reach a busy machine's process together: it does not run, and its place is free."""
    text = f"""{WORK}
import kubefunc.backends.local.backend as backend
backend.AT_ONCE = 1
slot = remote(os.getppid).remote().result(30)
os.kill(slot, 19)
call = tree.remote('tree')
call.cancel()
os.kill(slot, 18)
print('then', double.remote(4).result(20), Path('tree').exists())
"""
    assert "then 8 False" in Program(clean_env, tmp_path, "-c", text).end()


def test_what_pickles_by_its_name_travels_from_a_script(tmp_path: Path, clean_env: dict[str, str]) -> None:
    """Cached functions, types of ``typing``, enums with aliases, slots: whole in the call, and the script's own again.

    Also in another process that runs the same script, as one that attaches to the call does.
    """
    script = str(ROOT / "tests" / "local" / "by_value.py")
    env = {**clean_env, "KUBEFUNC_BACKEND": "local", "PYTHONPATH": str(ROOT)}
    for what in ("call", "read"):
        ended = subprocess.run(
            [sys.executable, script, what, str(tmp_path / "result")], env=env, capture_output=True, timeout=150
        )
        assert ended.returncode == 0, ended.stderr.decode()

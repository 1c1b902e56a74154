"""Calls on a system that has nothing of Unix but what Python's subprocess brings: the path of Windows, as far as it
can be walked elsewhere.
"""

from __future__ import annotations

from pathlib import Path

from tests.local.programs import WORK, Program, alive, until

# Loaded by every Python that starts below: the program's own and those of its calls.
BARE = """
import os, select, signal, socket, sys
for module, names in (
    (os, "fork forkpty register_at_fork killpg setpgid setsid wait3 wait4 getuid geteuid pidfd_open sendfile mkfifo"),
    (signal, "SIGCHLD SIGALRM setitimer alarm set_wakeup_fd pthread_sigmask"),
    (socket, "send_fds recv_fds AF_UNIX"),
    (select, "poll epoll kqueue"),
):
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "resource", "termios", "pwd", "grp", "pty", "tty"):
    sys.modules[name] = None
"""


def bare(clean_env: dict[str, str], tmp_path: Path, text: str) -> Program:
    """A program without all that."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(BARE)
    return Program(clean_env, tmp_path, "-c", f"import sys\nassert 'sitecustomize' in sys.modules\n{text}")


def test_a_call_needs_nothing_of_unix(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Values, output, exceptions, deaths, timeouts, retries and cancelling, with each process's Python so reduced."""
    text = f"""{WORK}
from kubefunc import current, errors
try:
    import fcntl
    raise SystemExit('fcntl is there')
except ImportError:
    pass
assert not hasattr(os, 'fork')

@remote
def look(x):
    print('printed', flush=True)
    return hasattr(os, 'fork'), 'fcntl' in sys.modules and sys.modules['fcntl'] is not None, x

@remote(retries=1)
def die():
    os._exit(current.attempt())

@remote(timeout=0.5)
def stuck():
    time.sleep(600)

@remote
def fail():
    raise KeyError('mine')

assert look.remote(b'x' * 200_000).result(50) == (False, False, b'x' * 200_000)
assert die.remote().exception(50).exit_code == 2
assert 'in stuck' in str(stuck.remote().exception(50))
assert fail.remote().exception(50).args == ('mine',)
call = stuck.options(timeout=None).remote()
while not call.running(): time.sleep(0.01)
assert call.cancel()
print(sum(each.result(50) for each in [double.remote(n) for n in range(30)]))
unfinished = stuck.options(timeout=None).remote()
while not unfinished.running(): time.sleep(0.01)
"""
    program = bare(clean_env, tmp_path, text)
    printed = program.end()
    assert program.process.returncode == 0, printed
    assert "printed" in printed
    assert "870" in printed
    assert "exit cancels 1 unfinished call" in printed
    assert program.left_files() == []


def test_a_program_may_end_while_a_process_starts(clean_env: dict[str, str], tmp_path: Path) -> None:
    """No thread can be started then any more (from Python 3.12 on): the call is cancelled all the same, without a word
    more, and nothing is left.
    """
    text = f"""{WORK}
import threading
from kubefunc import session
starting = threading.Event()

@remote
def stuck():
    time.sleep(600)

class Slow(subprocess.Popen):
    "The process that was started ahead has died; its replacement starts when the program ends."
    def __init__(self, *args, **kwargs):
        ahead = threading.current_thread() is threading.main_thread()
        while not ahead and not session.exiting():
            starting.set()
            time.sleep(0.01)
        super().__init__(*args, **kwargs)
        if ahead:
            self.kill()
            self.wait()

subprocess.Popen = Slow
call = stuck.remote()
starting.wait()
"""
    program = bare(clean_env, tmp_path, text)
    printed = program.end()
    assert program.process.returncode == 0, printed
    assert "exit cancels 1 unfinished call" in printed
    assert len(printed.splitlines()) == 2  # that, and where calls run
    assert program.left_files() == []


def test_a_killed_client_leaves_nothing(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Its processes hear of it by the end of their stdin; the last ones take its files along."""
    text = f"""{WORK}
@remote
def wait():
    Path('pid').write_text(str(os.getpid()))
    time.sleep(600)
wait.remote().result()
"""
    program = bare(clean_env, tmp_path, text)
    until(lambda: (tmp_path / "pid").exists() and bool((tmp_path / "pid").read_text()), "the call to start")
    pid = int((tmp_path / "pid").read_text())
    program.process.kill()
    program.end()
    until(lambda: not alive(pid), "the call to end")
    until(lambda: program.left_files() == [], "its files to go")

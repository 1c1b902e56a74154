"""Programs with unusual process state: socket timeouts, signal masks, handlers that make calls, no room on the disk."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from kubefunc.backends.local.forking import Forked
from kubefunc.backends.local.run import Run
from kubefunc.runner.execution.request import REFUSED
from kubefunc.runner.protocol import wire
from tests.local.pod import Pod
from tests.local.programs import Program
from tests.local.test_pod_programs import ends

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork, signals and limits are Unix's")

HEAD = """
import glob, os, resource, shutil, signal, socket, sys, tempfile, time
from kubefunc import Executor, remote

@remote(verbose=False)
def add(x, seconds=0):
    time.sleep(seconds)
    return x + 1

@remote(verbose=False)
def many(n):
    return b"x" * n
"""


def printed(text: str, env: dict[str, str], tmp_path: Path) -> str:
    """What a program of this text prints, once it has ended well."""
    program = Program(env, tmp_path, "-c", HEAD + text)
    output = program.end()
    assert program.process.returncode == 0, output
    return output


def test_a_default_timeout_of_sockets_is_for_the_programs_own(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Calls, maps and executors may last longer than ``socket.setdefaulttimeout()``."""
    text = """
socket.setdefaulttimeout(0.2)
print(add.remote(1, 0.5).result(30), add.map([1, 2]).result(30))
time.sleep(0.5)  # workers of the next map are forked ahead of it, and wait
print(add.map([1, 2, 3], kwargs={"seconds": 0.5}).result(30), len(many.map([20_000_000]).result(30)[0]))
with Executor(2, verbose=False) as executor:
    print(executor.submit(pow, 2, 3).result(30))
    time.sleep(0.5)
    print(executor.submit(pow, 2, 4).result(30))
"""
    shown = printed(text, clean_env, tmp_path)
    assert "2 [2, 3]\n[2, 3, 4] 20000000\n8\n16\n" in shown


def test_sockets_that_never_block(clean_env: dict[str, str], tmp_path: Path) -> None:
    """gevent makes them so, below what Python tells of them: the descriptors that processes are sent block again."""
    text = """
import kubefunc.backends.local.launch as launch
pair = launch.socket_pair
def never_blocking(*kind):
    both = pair(*kind)
    for each in both:
        os.set_blocking(each.fileno(), False)
    return both
launch.socket_pair = never_blocking
import kubefunc.backends.local.workers as workers
workers.socket_pair = never_blocking
print(add.remote(1).result(30), add.map([1, 2]).result(30))
time.sleep(0.5)
print(add.map([1, 2, 3], kwargs={"seconds": 0.3}).result(30))
"""
    assert "2 [2, 3]\n[2, 3, 4]\n" in printed(text, clean_env, tmp_path)


def test_a_signal_handler_makes_calls(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Also while the program is in the middle of a call, a map or its cancellation."""
    text = """
made = []
def handler(*_):
    made.append(add.remote(1))
    whole.cancel(), whole.progress
    if len(made) < 30:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
add.remote(1).result(30)
whole = add.map(range(3))
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001)
while len(made) < 30:
    add.remote(1).cancel()
    whole.progress
print({call.result(60) for call in made})
"""
    assert "{2}" in printed(text, clean_env, tmp_path)


def test_signals_that_the_caller_blocks_are_not_blocked_in_functions(clean_env: dict[str, str], tmp_path: Path) -> None:
    """A function ends when it is told to, and what becomes of its process is known at once."""
    text = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGINT})
@remote(verbose=False)
def blocked(_=0):
    return sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))
@remote(verbose=False)
def die():
    os._exit(3)
print(blocked.remote().result(30), blocked.map([1]).result(30))
began = time.monotonic()
error = die.remote().exception(30)
print(error.exit_code, "at once" if time.monotonic() - began < 1.9 else "late")
"""
    assert "[] [[]]\n3 at once\n" in printed(text, clean_env, tmp_path)


FAILS = """
import os, sys

class Forks:
    "Refuses this process and those that it forks every process more, from this one on."
    def __init__(self, allowed):
        self.left = allowed
    def __call__(self, event, args):
        if event == "os.fork":
            if self.left <= 0:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            self.left -= 1

if "server" in sys.orig_argv:
    sys.addaudithook(Forks({allowed}))
"""


@pytest.mark.parametrize(
    ("allowed", "shows"),
    [(3, "2\n[1, 2, 3, 4]"), (2, "2\nThe map was lost: no worker process could be started"), (0, "The call was lost")],
)
def test_where_the_system_gives_no_more_processes(
    allowed: int, shows: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    """Those that run do the work; where there is none, the error says what was refused."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(FAILS.replace("{allowed}", str(allowed)))
    text = """
try:
    print(add.remote(1).result(30))
    print(add.map(range(4), max_parallelism=4).result(30))
except Exception as error:
    print(error)
"""
    shown = printed(text, clean_env, tmp_path)
    assert shows in shown
    assert ("ulimit -u" in shown) == ("lost" in shows)


def test_a_process_that_is_refused_at_once_is_not_asked_for_again(tmp_path: Path) -> None:
    """The server's no may be quicker than the call: it was asked again and again, hundreds of times."""
    asked: list[int] = []

    class Refusing:
        """A server that has answered before anything is sent."""

        def open(self, *_: object) -> socket.socket:
            asked.append(1)
            ours, theirs = socket.socketpair()
            with theirs:
                theirs.send(wire.frame(REFUSED, b"Resource temporarily unavailable"))
            return ours

    processes = Forked(tmp_path, lambda *_: None, None, {})
    processes._running_server = Refusing  # type: ignore[assignment, method-assign]
    run = SimpleNamespace(request=b"call")
    with pytest.raises(OSError, match="Resource temporarily unavailable"):
        processes.start(cast(Run, run))
    assert asked == [1]
    processes.close(0.0)


def test_a_result_for_which_there_is_no_room(clean_env: dict[str, str], tmp_path: Path) -> None:
    """The error names the file and what the system says of it: nothing is wrong with the value."""
    text = """
@remote(verbose=False)
def limited(n):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return b"x" * n
for error in limited.remote(1_000_000).exception(30), *limited.map([1_000_000, 5], return_exceptions=True):
    print(type(error).__name__, str(error).splitlines()[:1])
"""
    shown = printed(text, clean_env, tmp_path)
    assert shown.count("ResultLostError") >= 1
    assert "File too large" in shown
    assert "pickled" not in shown


def test_a_temporary_folder_that_was_removed(clean_env: dict[str, str], tmp_path: Path) -> None:
    """What cleans up /tmp costs a running call its large result, as the error says; the next calls work again."""
    text = """
@remote(verbose=False)
def removes(n):
    for each in glob.glob(os.path.join(tempfile.gettempdir(), "kubefunc-*")):
        shutil.rmtree(each)
    return b"x" * n
print(len(removes.remote(5).result(30)), len(many.remote(500_000).result(30)))
error = removes.remote(500_000).exception(30)
print(type(error).__name__, "was removed" in str(error))
print(len(many.remote(500_000).result(30)), [len(each) for each in many.map([500_000]).result(30)])
"""
    assert "5 500000\nResultLostError True\n500000 [500000]\n" in printed(text, clean_env, tmp_path)


def test_arguments_for_which_there_is_no_room(clean_env: dict[str, str], tmp_path: Path) -> None:
    """``.remote()`` raises the system's error, which names the file, and leaves no half of it."""
    text = """
add.remote(1).result(30)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    add.remote(b"x" * 1_000_000)
except OSError as error:
    print("set TMPDIR" in str(error), ".payload" in str(error))
print(glob.glob(os.path.join(tempfile.gettempdir(), "kubefunc-*", "*.payload")), add.remote(1).result(30))
"""
    assert "True True\n[] 2\n" in printed(text, clean_env, tmp_path)


def test_files_of_calls_go_when_they_end(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Output too: the call itself has it, also for who follows it."""
    text = """
@remote(verbose=False)
def says():
    print("hello")
    print("you", end="")
call = says.remote()
following = call.logs(follow=True)
first = next(following)
call.result(30)
print([first, *following], list(call.logs(follow=True)), repr(call.logs()))
print([name for name in os.listdir(glob.glob(os.path.join(tempfile.gettempdir(), "kubefunc-*"))[0])])
"""
    shown = printed(text, clean_env, tmp_path)
    assert "['hello', 'you'] ['hello', 'you'] 'hello\\nyou'\n[]\n" in shown


def test_nothing_is_left_unclosed(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Where warnings are errors, in all processes, no ResourceWarning is shown."""
    text = """
@remote(verbose=False)
def die():
    os._exit(3)
die.remote().exception(30)
print(add.remote(1).result(30), add.map([1, 2]).result(30))
with Executor(2, verbose=False) as executor:
    print(executor.submit(pow, 2, 3).result(30))
"""
    shown = printed(text, {**clean_env, "PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}, tmp_path)
    assert "ResourceWarning" not in shown


def without_room() -> bytes:
    """Larger than a file may be here."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return b"x" * 1_000_000


def test_a_pods_output_volume_without_room(tmp_path: Path) -> None:
    """The envelope says so, and is there."""
    pod = Pod(tmp_path, without_room)
    assert ends(pod.start("main")) == 64
    header = pod.result().header
    assert (header["code"], header["detail"]["message"]) == ("storage", "File too large")


LOGS = """
import logging
logging.basicConfig(level=logging.INFO, format="{levelname}|{message}", style="{")
logging.getLogger("kubefunc").setLevel(logging.ERROR)
@remote
def logs(x):
    logging.getLogger("mine").info("item %s", x)
    logging.debug("too much")
logs.options(logging=TRAVELS).remote(1).result(30)
logs.options(logging=TRAVELS).map([2]).result(30)
"""


def test_logging_is_set_up_as_it_is_for_the_caller(clean_env: dict[str, str], tmp_path: Path) -> None:
    """What a function logs is shown with level and format of the caller's root logger, in calls and in maps."""
    shown = printed(LOGS.replace("TRAVELS", "True"), clean_env, tmp_path).splitlines()
    assert [line.rpartition("] ")[2] for line in shown[1:]] == ["INFO|item 1", "INFO|item 2"]


def test_logging_is_left_alone_where_it_shall_be(clean_env: dict[str, str], tmp_path: Path) -> None:
    """``logging=False``: Python's own default shows warnings only."""
    assert "item" not in printed(LOGS.replace("TRAVELS", "False"), clean_env, tmp_path)


def test_a_format_that_needs_this_program_is_replaced(clean_env: dict[str, str], tmp_path: Path) -> None:
    """Fields that a filter adds here are not there: the plain format shows the record."""
    text = """
import logging
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("%(request)s %(message)s"))
logging.getLogger().addHandler(handler)
@remote
def logs():
    logging.warning("careful")
logs.remote().result(30)
"""
    assert "WARNING:root:careful" in printed(text, clean_env, tmp_path)


def test_output_before_a_sudden_exit(clean_env: dict[str, str], tmp_path: Path) -> None:
    """What a function printed without a newline is shown, once, also where a process that it forked leaves so too."""
    text = """
@remote
def leaves():
    print("half a line", end="")
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    os._exit(3)
leaves.remote().exception(30)
"""
    assert printed(text, clean_env, tmp_path).count("half a line") == 1

"""``attach``: the program that a client starts by exec to reach the warm worker in a Pod.

It sends its own stdin and stdout to the worker over a Unix socket, and sleeps. So nothing stands between client and
worker but API server and kubelet. The end of the Unix socket ends the program, and with it the stream; the end of the
stream is the end of its stdin, which the worker sees.

A client waits for its start. So it is a text for ``python3 -c`` that loads no file: ``kubefunc.pyz`` and the module
``socket`` would more than double the time.
"""

from __future__ import annotations

from kubefunc.runner import OUT_DIR

FOLDER = "warm"  # in the output volume: the worker's socket, and its calls' files
SOCKET = "socket"
ABSENT = 69  # exit code: no worker listens (EX_UNAVAILABLE)
STARTS_WITHIN = 10.0  # seconds that a worker which is being loaded is waited for: another exec would take longer

_PROGRAM = f"""
import _socket, os, sys, time
path = os.path.join(os.environ.get("KUBEFUNC_OUT", "{OUT_DIR}"), "{FOLDER}", "{SOCKET}")
until = time.monotonic() + {STARTS_WITHIN}
while not os.path.exists(path) and time.monotonic() < until:
    time.sleep(0.005)
door = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
try:
    door.connect(path)
except OSError as error:
    print(f"kubefunc: no worker listens ({{error}})", file=sys.stderr)
    sys.exit({ABSENT})
descriptors = b"".join(each.to_bytes(4, sys.byteorder) for each in (0, 1))
door.sendmsg([b"a"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
os.close(0)
os.close(1)
door.recv(1)
"""

ATTACH = ("python3", "-I", "-S", "-E", "-c", _PROGRAM.strip())  # the command

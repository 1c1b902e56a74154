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

_PROGRAM = f"""
import _socket, os, sys
door = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
try:
    door.connect(os.path.join(os.environ.get("KUBEFUNC_OUT", "{OUT_DIR}"), "{FOLDER}", "{SOCKET}"))
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

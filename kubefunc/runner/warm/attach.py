"""``attach``: the program that a client starts by exec to reach the warm worker in a Pod.

It sends its own stdin and stdout to the worker over a Unix socket, and sleeps. So nothing stands between client and
worker but API server and kubelet. The end of the Unix socket ends the program, and with it the stream; the end of the
stream is the end of its stdin, which the worker sees.
"""

from __future__ import annotations

import os
import socket
import sys

FOLDER = "warm"  # in the output volume: the worker's socket, and its calls' files
SOCKET = "socket"
ABSENT = 69  # exit code: no worker listens (EX_UNAVAILABLE)


def attach(directory: str) -> int:
    """The program ``attach``: hand stdin and stdout to the worker, and wait until it lets them go."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        try:
            door.connect(os.path.join(directory, SOCKET))
        except OSError as error:
            print(f"kubefunc: no worker listens ({error})", file=sys.stderr)
            return ABSENT
        socket.send_fds(door, [b"a"], [0, 1])
        os.close(0)
        os.close(1)
        door.recv(1)
    return 0
